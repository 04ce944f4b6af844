"""Identifiers: UUIDv7 (RFC 9562), so that ids sort by the time they were made."""

import os
import time
import uuid

_NAMESPACE = uuid.UUID("6b1f6f1e-7f0a-5c1e-9d55-0c9e3a6f2b11")


def uuid7() -> str:
    """Return a new UUIDv7 in its canonical 36-character form.

    The random part comes from the kernel at every call: session processes are forks of one
    another, and a generator with state of its own would hand the same ids to all of them.
    """
    ms = time.time_ns() // 1_000_000
    bits = int.from_bytes(os.urandom(10), "big")
    value = (ms & 0xFFFF_FFFF_FFFF) << 80 | 0x7 << 76 | (bits >> 68 & 0xFFF) << 64 | 0x2 << 62 | (bits & (1 << 62) - 1)
    return str(uuid.UUID(int=value))


def derived_id(*parts: str) -> str:
    """Return the id that belongs to `parts`: the same parts always give the same UUIDv5.

    Used where a message may be published again after a crash and must be recognised as the same one.
    """
    return str(uuid.uuid5(_NAMESPACE, "/".join(parts)))


def is_uuid(text: str) -> bool:
    """Tell whether `text` is a UUID in canonical form."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
