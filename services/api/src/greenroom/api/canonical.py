"""Names that people write in several ways, each in the one way in which they are compared and counted."""

import re
from typing import Final
from urllib.parse import urlsplit, urlunsplit

_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443", "ws": ":80", "wss": ":443"}
# What people put between the digits of a number.
_SEPARATORS: Final = re.compile(r"[ ().\-/]")
_PHONE: Final = re.compile(r"\+?[0-9]{3,20}")
# E.164 without its plus: a country's code doesn't begin with 0, and what is shorter is a number of services.
_BARE: Final = re.compile(r"[1-9][0-9]{7,14}")


def canonical_room(room: str) -> str:
    """Return a room's name; of a URL with scheme and host in lower case, and no slash at the end of its path."""
    try:
        parts = urlsplit(room)
    except ValueError:
        return room
    if not parts.scheme or not parts.netloc:
        return room
    user, at, host = parts.netloc.rpartition("@")
    host = host.lower().removesuffix(_DEFAULT_PORTS.get(parts.scheme, " "))
    return urlunsplit((parts.scheme, user + at + host, parts.path.rstrip("/"), parts.query, parts.fragment))


def canonical_number(number: str) -> str:
    """Return a number without what stands between its digits; anything else (a SIP URI, say) as it is."""
    digits = _SEPARATORS.sub("", number)
    return digits if _PHONE.fullmatch(digits) else number


def dialled_number(number: str, *, bare: bool) -> str:
    """Return a number as `canonical_number` does; of one who leaves out the plus (`bare`), with it."""
    digits = canonical_number(number)
    return f"+{digits}" if bare and _BARE.fullmatch(digits) else digits
