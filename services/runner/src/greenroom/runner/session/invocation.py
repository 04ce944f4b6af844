"""Which function a session's bot is."""

from importlib.metadata import entry_points
from typing import Final

from greenroom.common.lifecycle import Session
from greenroom.runner.bot_versions import fitting
from greenroom.runner.session.context import Bot, SessionContext
from greenroom.runner.session.transports.base import NotRunnable

BOT_GROUP: Final = "greenroom.bots"


def find_bot(session: Session, context: SessionContext) -> Bot:
    """Return the session's bot in its version, imported by the zygote; one that it doesn't know is imported now.

    Raises:
        NotRunnable: there is no such entry point.
        ImportError: or whatever else its import raises.
    """
    name = session.bot
    version = fitting({version for bot, version in context.bots if bot == name}, session.agent_version)
    if version is not None:
        return context.bots[name, version]
    found = entry_points(group=BOT_GROUP, name=name)
    if not found:
        raise NotRunnable(f"no bot {name!r} is installed on this runner")
    return next(iter(found)).load()
