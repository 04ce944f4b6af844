"""A bot that says that its sessions take little."""

from typing import Any

RESOURCES = "voice"


async def talker(_: Any) -> None:
    """Never called: what is forked is a stand-in."""
