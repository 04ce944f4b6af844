"""Where a listing goes on: the place of its last row, as an opaque text."""

import base64
import binascii
from datetime import datetime

import msgspec

from greenroom.common.errors import InvalidQuery


def encode(at: datetime, session_id: str) -> str:
    """Return the cursor behind the session that was requested at `at`."""
    return base64.urlsafe_b64encode(msgspec.json.encode((at, session_id))).rstrip(b"=").decode()


def decode(cursor: str) -> tuple[datetime, str]:
    """Return what `encode` was given.

    Raises:
        InvalidQuery: it isn't from here.
    """
    try:
        raw = base64.b64decode(cursor.encode() + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        at, session_id = msgspec.json.decode(raw, type=tuple[datetime, str])
    except (msgspec.MsgspecError, binascii.Error, ValueError) as error:
        raise InvalidQuery("cursor: it isn't one that a listing gave out.") from error
    if at.tzinfo is None or "\0" in session_id:
        raise InvalidQuery("cursor: it isn't one that a listing gave out.")
    return at, session_id
