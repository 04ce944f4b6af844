"""Bots that are only there to be offered: the stand-in session process never calls one."""

DESCRIPTION = "A bot for tests."


async def plain(_runner_args: object) -> None:
    """Do nothing."""
