"""A bot for rooms, as a runner finds it: Daily's quickstart, in rooms that aren't Daily's; see `session_bots`."""

from tests.support.session_bots import daily_quickstart as bot

__all__ = ["bot"]

TRANSPORTS = ("daily",)
