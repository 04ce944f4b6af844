"""Where a listing goes on: the place of its last row, as an opaque text."""

import base64
import binascii
from datetime import UTC, datetime

import msgspec

from greenroom.common.errors import InvalidQuery
from greenroom.common.ids import is_uuid


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
        if at.tzinfo is None or not is_uuid(session_id):
            raise ValueError(cursor)
        return at.astimezone(UTC), session_id
    except (msgspec.MsgspecError, binascii.Error, ValueError, OverflowError) as error:
        raise InvalidQuery("cursor: it isn't one that a listing gave out.") from error
