"""What a transport does in the api: it prepares the way between a client and the bot, tells it, and takes it away.

    check      what the request says of it (`transport_options`); nothing has happened yet
    prepare    before the session exists: make the room, lay down what its process needs to get in
    answer     what one caller gets in with; anew for each repetition of a request, so that no secret is stored
    in_use     whether it is needed still, though the session is over; of those that may be (`Outlived`)
    release    once the session is over, or never came to be: as often as it is asked to

The other half is in the session process, `greenroom.runner.session.transports`.
"""

from datetime import datetime, timedelta
from typing import Any, Final, Protocol, runtime_checkable

import msgspec

from greenroom.api.auth import Caller
from greenroom.api.schemas import Transport
from greenroom.common.call_data import CallData
from greenroom.common.errors import FieldProblem, GreenroomError, InvalidBody
from greenroom.common.lifecycle import OnLoss, Session

# Until nobody doubts that a session is over.
MARGIN: Final = timedelta(hours=1)


class TransportUnavailable(GreenroomError):
    """This installation isn't set up for the transport: settings of the api are missing, e.g. a provider's key."""

    code = "transport-unavailable"
    status = 409
    title = "The transport isn't set up here"


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """What was prepared for one session.

    Attributes:
        public: what the answer says of it, without secrets; stored with an idempotent request.
        info: what the session process and people may know of it; becomes the session's `transport_info`.
        secrets: what only the session process may know, by name.
        carrier: of a phone call, which limits count it by.
        number: the one of our numbers that calls or is called, which limits count it by.
        call: of a phone call, what is known of it by now; becomes the session's.
    """

    public: Transport
    info: dict[str, str] = {}
    secrets: dict[str, str] = {}
    carrier: str | None = None
    number: str | None = None
    call: CallData | None = None


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, and how he reached us.

    Attributes:
        caller: who.
        origin: of this service as clients reach it, e.g. `https://voice.example.org`.
    """

    caller: Caller
    origin: str


class Adapter(Protocol):
    """A transport, as the api sees it."""

    @property
    def name(self) -> str:
        """What requests call it."""
        ...

    def check(self, options: dict[str, Any]) -> None:
        """Look at what a request says of the transport.

        Raises:
            InvalidBody: it can't be; pointers begin with `/transport_options`.
        """
        ...

    def room(self, options: dict[str, Any]) -> str | None:
        """Return the room that a request brings: there is one active session in each. None: it brings none."""
        del options
        return None

    @property
    def movable(self) -> bool:
        """Whether a live session can go to another room.

        Then `plan` and `Prepared.info` name it as `room`, and one is prepared for a session that has `moving`, beside
        the one that it is in.
        """
        return False

    def public(self, session: Session, options: dict[str, Any]) -> Transport:
        """Return what the answer says, without secrets, of a session that is in the room of its `transport_info`."""
        del options
        return Transport(type=self.name, info=session.transport_info)

    def plan(self, session: Session, options: dict[str, Any]) -> dict[str, str] | None:
        """Return what `release` would have to know of what `prepare` is about to make; None: nothing has to go."""
        ...

    async def prepare(self, asked: Asked, session: Session, options: dict[str, Any]) -> Prepared:
        """Prepare the way; again for a session that it was prepared for, without harm.

        Raises:
            GreenroomError: it can't be prepared now; the session won't exist, and what was made of it is released.
        """
        ...

    async def answer(self, asked: Asked, session_id: str, public: Transport, *, again: bool) -> Transport:
        """Return what one caller gets in with, secrets and all.

        Args:
            asked: by whom; of the session's tenant.
            session_id: of a session that was prepared.
            public: what `prepare` returned of it.
            again: whether this repeats an earlier answer, perhaps for another key of the tenant.

        Raises:
            GreenroomError: it can't be told now. The session exists and what was prepared stays: it may be asked again.
        """
        ...

    async def release(self, tenant: str, session_id: str, info: dict[str, str]) -> None:
        """Take away what was made; nothing if it is gone.

        Args:
            tenant: of the session.
            session_id: which.
            info: what `plan` returned.

        Raises:
            GreenroomError: not now; it is asked again later.
        """
        ...

    async def close(self) -> None:
        """Close its connections."""
        return


@runtime_checkable
class Outlived(Protocol):
    """An adapter whose rooms may be needed for longer than their sessions last."""

    async def in_use(self, session: Session, info: dict[str, str]) -> bool:
        """Tell whether what was made for a session that is over is still needed; it is asked again until it isn't.

        Args:
            session: which; it has ended.
            info: what `plan` returned.

        Raises:
            GreenroomError: that can't be told now.
        """
        ...


def expiry(session: Session) -> datetime:
    """Return when what was made for a session may go by itself: an hour after the longest that it can take.

    It is taken away at the session's end; this is for when nobody can. A session that loses its runner may go on on
    another; one that loses two has the hour for that.
    """
    limits = session.limits
    longest_s = limits.queue_timeout_s + limits.start_timeout_s + limits.max_duration_s + limits.end_timeout_s
    match session.on_loss:
        case OnLoss.NEVER:
            pass
        case OnLoss.BEFORE_MEDIA:
            longest_s += limits.start_timeout_s + limits.join_timeout_s + limits.second_wait_s
        case OnLoss.ALWAYS:
            longest_s += limits.start_timeout_s + limits.max_duration_s + limits.second_wait_s
    return session.requested_at.replace(microsecond=0) + timedelta(seconds=longest_s) + MARGIN


def options_of[T: msgspec.Struct](options: dict[str, Any], kind: type[T]) -> T:
    """Return a request's `transport_options` as a struct of the transport's own, which forbids unknown fields.

    Raises:
        InvalidBody: they don't fit.
    """
    try:
        return msgspec.convert(options, kind)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        pointer = "/transport_options" + path.rstrip("`").replace(".", "/").replace("[", "/").replace("]", "")
        problem = FieldProblem(pointer=pointer, detail=text)
        raise InvalidBody(f"{pointer}: {text}", errors=[problem]) from error
