"""A page on which somebody speaks with one session, served as it is: nothing is built, nothing comes from elsewhere."""

from importlib import resources
from typing import Final

# Path, file, and what kind of file it is; all are UTF-8.
FILES: Final = {
    "/call": ("call.html", "text/html"),
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
