"""A page on which somebody speaks with one session, served as it is: nothing is built, nothing comes from elsewhere."""

from collections.abc import Iterable
from importlib import resources
from typing import Final
from urllib.parse import quote, urlencode

import msgspec

from greenroom.api.schemas import IceServer

PATH: Final = "/call"
# Path, file, and what kind of file it is; all are UTF-8.
FILES: Final = {
    PATH: ("call.html", "text/html"),
    "/call.js": ("call.js", "text/javascript"),
    "/call.css": ("call.css", "text/css"),
}
# Only what is in these files runs, and it speaks with this origin alone (and with the session, over WebRTC).
HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; media-src 'self' blob:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


def read(name: str) -> bytes:
    """Return a file of the page."""
    return (resources.files(__name__) / name).read_bytes()


def url(origin: str, session_id: str, token: str, servers: Iterable[IceServer]) -> str:
    """Return where somebody speaks with a session; what lets him in is behind `#`, which browsers send to no server.

    Args:
        origin: of this service as clients reach it.
        session_id: which session.
        token: opens it.
        servers: of STUN and TURN.
    """
    ice = [{name: value for name, value in msgspec.structs.asdict(server).items() if value} for server in servers]
    given = {"session": session_id, "token": token, "ice": msgspec.json.encode(ice).decode()}
    return f"{origin}{PATH}#{urlencode(given, quote_via=quote)}"
