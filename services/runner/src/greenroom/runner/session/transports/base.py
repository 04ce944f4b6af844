"""What a transport does in a session process: it connects the bot with the user, and tells the session who is there.

    open          before the bot is called: listen, fetch secrets
    arguments     what the bot is called with: Pipecat's own runner arguments
    attach        a worker is about to set up its pipeline: find Pipecat's transport in it, hear of its clients
    welcome       the user is there, and the bot may know
    close         the end: whoever is there still is sent away

The other half is in the api, `greenroom.api.transports`: rooms are made and taken away there.
"""

from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec
from pipecat.runner.types import RunnerArguments

from greenroom.common.call_data import CallData
from greenroom.common.reasons import Reason
from greenroom.runner.session.attach import Attachment

CLOSE_NORMAL: Final = 1000
CLOSE_ABNORMAL: Final = 1006
# Who closed, where it was neither of the two: what lies between them.
WAY_LOST: Final = "transport"
# Who closed, as `on_disconnected` has it, when a room is empty that may be come back to.
AWAY: Final = "away"

# Called once, when the user is there; with what names this connection in logs and events. Again only after `AWAY`.
type OnConnected = Callable[[str], None]
# Called once, when the user isn't there any more: who closed (`client`, `bot` or `WAY_LOST`), a code (1000 is as it
# should be; the codes of RFC 6455) and a reason. A room that is empty, but may be come back to, says `AWAY` instead of
# `client`: the session then waits for `limits.rejoin_timeout_s`, if that isn't 0, for `OnConnected` to be called again.
# Also where the user will never be there, or not again: a carrier's socket closes before its stream has begun, the bot
# is put out of a room that is empty. So it may be called once more than `OnConnected`; events of it are told in pairs.
type OnDisconnected = Callable[[str, int, str], None]


# Why there is nothing yet that a bot could be called with.
NOT_OPEN: Final = "the session isn't open"


class NotRunnable(Exception):
    """The session can't be given to a bot here; the text says why and may be shown to anybody."""


class NotMoved(Exception):
    """The bot isn't in the other room but where it was; the text says why and may be shown to anybody."""


# Called with what else is heard of the way: a kind and its data, for a `transport` event.
type OnNews = Callable[[str, dict[str, Any]], object]


def _to_nobody(kind: str, data: dict[str, Any]) -> None:
    del kind, data


# Called where the way itself is why the session is over, with the reason and what is known of it.
type OnOver = Callable[[Reason, str], object]


def _nothing(reason: Reason, detail: str) -> None:
    del reason, detail


class SessionTransport(Protocol):
    """The way between one session's bot and its user.

    Attributes:
        on_news: whoever wants to know; nobody until it is set.
        on_over: whoever ends the session; nobody until it is set.
        call: of a phone call, once somebody is on the line: what is known of it.
    """

    on_news: OnNews = staticmethod(_to_nobody)
    on_over: OnOver = staticmethod(_nothing)
    call: CallData | None = None

    @property
    def connected(self) -> bool:
        """Whether the user is there now."""
        ...

    @property
    def counts(self) -> msgspec.Struct:
        """What happened to media, for the call's last event."""
        ...

    async def open(self) -> None:
        """Begin to listen for the user.

        Raises:
            NotRunnable: what was prepared for the session isn't there (any more).
            BrokerUnavailable: not now.
        """
        ...

    def arguments(self, body: dict[str, Any]) -> RunnerArguments:
        """Return what the bot is called with; `handle_sigint` and the like are left as they are.

        Args:
            body: the agent's configuration, and over it what the request said.

        Raises:
            NotRunnable: it isn't open yet.
        """
        ...

    def attach(self, attachment: Attachment) -> None:
        """Put ears on Pipecat's transport in a worker that is about to set up its pipeline."""
        ...

    async def welcome(self) -> None:
        """Let the bot know that the user is there. Called once, after `on_connected`, in the bot's context."""
        ...

    def prepare_to_close(self, code: int, reason: str) -> None:
        """Take nobody from now on; tell the user who is there `code` and `reason` when the bot closes."""
        ...

    @property
    def packing(self) -> bool:
        """Whether several frames of the user come at once, as was asked for by `pack`."""
        return False

    async def pack(self, messages: int, hold_ms: int) -> None:  # noqa: ARG002 where nothing is carried, nothing is saved
        """Ask for so many frames of the user at once, none of them held longer than that, from where that saves work.

        Args:
            messages: how many, as they come from the user.
            hold_ms: how long one may be held until the others are there.
        """
        return

    async def rest(self, quiet_below: float | None) -> None:  # noqa: ARG002 as of `pack`
        """Say whether the user is silent, so that more of his frames may come at once until he isn't.

        Args:
            quiet_below: the mean square (of 16-bit samples) below which he is; None: he isn't, or is to be heard soon.
        """
        return

    def bot_ends(self) -> None:
        """Know that the bot ends, and doesn't say why: who may still have come back has left."""
        return

    async def move(self, info: dict[str, str]) -> None:  # noqa: ARG002 most have none
        """Take the bot to another room, or back if it doesn't get in.

        Args:
            info: what of the room anybody may know, as the session's `transport_info`.

        Raises:
            NotMoved: it is where it was.
            BrokerUnavailable: likewise; what it would get in with can't be read now.
        """
        raise NotMoved("the session's transport has no rooms")

    def let_go(self) -> None:
        """Have nobody sent away at the close: the session goes on in another process, and the user stays for it."""
        return

    async def close(self) -> None:
        """Send the user away, if he is there, and listen no more."""
        ...

    async def watch(self) -> None:
        """Find out, until canceled, when the user is gone without a word."""
        ...
