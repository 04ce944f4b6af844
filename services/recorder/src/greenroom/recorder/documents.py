"""Documents of sessions and other JSON, as PostgreSQL has them."""

import re
from typing import Any, Final

import msgspec

from greenroom.common import messages
from greenroom.common.lifecycle import Session

# An escaped NUL, which PostgreSQL can't store; an even number of backslashes before it are backslashes of their own.
_NUL: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


def session_of(document: str) -> Session:
    """Return the session of a document.

    Raises:
        msgspec.MsgspecError: it is of a version that says it otherwise.
    """
    return messages.decode(document.encode(), Session)


def document_of(session: Session) -> str:
    """Return the document with its defaults, which `Session` leaves out on the wire, so that SQL sees them."""
    return json_of({name: getattr(session, name) for name in session.__struct_fields__})


def json_of(value: Any) -> str:
    """Return a value as JSON that PostgreSQL can store."""
    text = msgspec.json.encode(value).decode()
    return _NUL.sub(r"\1\\ufffd", text) if "\\u0000" in text else text
