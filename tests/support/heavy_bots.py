"""A bot that says that its sessions take much."""

from typing import Any

RESOURCES = "multimodal"


async def seer(_: Any) -> None:
    """Never called: what is forked is a stand-in."""
