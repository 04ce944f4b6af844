"""Events that Daily tells by its webhooks (`POST /webhooks` there), as far as they are of use here.

    participant.joined   somebody has come into a room: whoever goes there by itself is begun
    meeting.ended        the last one has left it, which Daily is sure of after up to 20 s
    others               are taken and let be

An event may come twice, late, and in any order. When a webhook is made, Daily posts a body without a `type` to see that
somebody answers; whoever makes it may not know its secret yet, so that is answered without a signature.
"""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from greenroom.api.transports.daily_options import BOT_USER_ID, PREFIX
from greenroom.common.errors import FieldProblem, InvalidBody

JOINED: Final = "participant.joined"
ENDED: Final = "meeting.ended"

type Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,128}(?!\n)$")]
type UnixSeconds = Annotated[float, Meta(ge=0, le=10**11)]


class DailyEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What Daily sends: an event, or (without `type`) a test of the address."""

    type: Annotated[str, Meta(max_length=128)] | None = None
    id: Annotated[str, Meta(max_length=256)] | None = None
    version: Annotated[str, Meta(max_length=32)] | None = None
    event_ts: float | None = None
    payload: dict[str, Any] = {}


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """Of `participant.joined`. `user_id` is from the meeting token; a bot's says that it is one of ours."""

    room: Name
    joined_at: UnixSeconds
    user_id: Annotated[str, Meta(max_length=256)] | None = None

    @property
    def ours(self) -> bool:
        """Whether it is a bot of ours that has come."""
        return self.user_id == BOT_USER_ID


class MeetingEnded(msgspec.Struct, frozen=True, kw_only=True):
    """Of `meeting.ended`."""

    room: Name
    end_ts: UnixSeconds


_KINDS: Final[dict[str, type[Joined | MeetingEnded]]] = {JOINED: Joined, ENDED: MeetingEnded}


def read(event: DailyEvent) -> Joined | MeetingEnded | None:
    """Return what an event says; None: nothing that is of use here, e.g. of a room that was made for its session.

    Raises:
        InvalidBody: it lacks what its type has.
    """
    kind = _KINDS.get(event.type or "")
    if kind is None:
        return None
    try:
        said = msgspec.convert(event.payload, kind)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        pointer = "/payload" + path.rstrip("`").replace(".", "/")
        raise InvalidBody(f"{pointer}: {text}", errors=[FieldProblem(pointer=pointer, detail=text)]) from error
    return None if said.room.startswith(PREFIX) else said
