"""Passwords of the embedded servers: loopback is shared with every user of the machine."""

import secrets
from pathlib import Path


def kept_secret(path: Path) -> str:
    """Return the secret that is kept in `path`, readable by its owner only; the first time, make it."""
    if not path.exists():
        new = path.with_name(path.name + ".new")
        new.unlink(missing_ok=True)
        new.touch(mode=0o600)
        new.write_text(secrets.token_urlsafe(24))
        new.replace(path)
    return path.read_text()
