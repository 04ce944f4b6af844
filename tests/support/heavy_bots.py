"""A bot that says what its sessions take."""

from typing import Any

RESOURCES = "multimodal"


async def seer(_: Any) -> None:
    """Never called: what is forked is a stand-in."""
