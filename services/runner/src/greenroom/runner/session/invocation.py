"""Which function a session's bot is."""

from importlib.metadata import entry_points
from typing import Final

from greenroom.runner.session.context import Bot, SessionContext
from greenroom.runner.session.transports.base import NotRunnable

BOT_GROUP: Final = "greenroom.bots"


def find_bot(name: str, context: SessionContext) -> Bot:
    """Return the bot, imported by the zygote; one that it doesn't know is imported now.

    Raises:
        NotRunnable: there is no such entry point.
        ImportError: or whatever else its import raises.
    """
    if bot := context.bots.get(name):
        return bot
    found = entry_points(group=BOT_GROUP, name=name)
    if not found:
        raise NotRunnable(f"no bot {name!r} is installed on this runner")
    return next(iter(found)).load()
