"""A PostgreSQL that ends: what it says to connections that nobody is using, before it closes them."""

import struct
from typing import Any, Final

_FIELDS: Final = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
_GOODBYE: Final = b"E" + struct.pack(">I", 4 + len(_FIELDS)) + _FIELDS


async def say_goodbye(pool: Any) -> None:
    """Have the one idle connection of a pool hear that the server ends, which then doesn't come to closing it."""
    async with pool.acquire() as connection:
        protocol = connection._protocol  # where the server's words arrive
    protocol.data_received(_GOODBYE)
