"""Which function a session's bot is, and what it is called with: Pipecat's own runner arguments."""

from importlib.metadata import entry_points
from typing import Final

from pipecat.runner.types import RunnerArguments, WebSocketRunnerArguments
from starlette.websockets import WebSocket

from greenroom.common.lifecycle import Session
from greenroom.runner.session.context import Bot, SessionContext

BOT_GROUP: Final = "greenroom.bots"
# What Pipecat calls the transports that come over a WebSocket; None: it looks at the first messages (telephony).
_WEBSOCKET_TYPES: Final[dict[str, str | None]] = {"websocket": "websocket", "telephony": None}


class NotRunnable(Exception):
    """The session can't be given to a bot here; the text says why and may be shown to anybody."""


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


def runner_arguments(session: Session, websocket: WebSocket) -> RunnerArguments:
    """Return what the bot is called with: the agent's configuration, and over it what the request said, as `body`.

    Raises:
        NotRunnable: no runner arguments are known for the session's transport.
    """
    if session.transport not in _WEBSOCKET_TYPES:
        raise NotRunnable(f"sessions over {session.transport!r} can't run here")
    return WebSocketRunnerArguments(
        websocket=websocket,
        transport_type=_WEBSOCKET_TYPES[session.transport],
        body={**session.config, **session.body},
        session_id=session.id,
    )
