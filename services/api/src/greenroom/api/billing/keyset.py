"""Where a listing by keys goes on: the key of its last row, as an opaque text."""

import base64
import binascii
from typing import Any

import msgspec

from greenroom.common.errors import InvalidQuery


def encode(*key: Any) -> str:
    """Return the cursor behind a row with this key."""
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).rstrip(b"=").decode()


def decode[T](cursor: str | None, kind: type[T]) -> T | None:
    """Return what `encode` was given; None: the listing begins.

    Raises:
        InvalidQuery: it isn't from here.
    """
    if cursor is None:
        return None
    try:
        raw = base64.b64decode(cursor.encode() + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        key = msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, binascii.Error, ValueError) as error:
        raise InvalidQuery("cursor: it isn't one that a listing gave out.") from error
    if b"\\u0000" in raw:
        raise InvalidQuery("cursor: it isn't one that a listing gave out.")
    return key
