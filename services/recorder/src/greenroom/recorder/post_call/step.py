"""What a step is given and what it gives back: what plug-ins are written against."""

from datetime import datetime
from typing import Any, Literal, Protocol

import msgspec

from greenroom.common.errors import GreenroomError


class StepRefused(GreenroomError):
    """A step after a call can't be done, now or later: it isn't tried again.

    For `summary`, look at the model's name and at the key. Its message is parked; published anew, it is run anew.
    """

    code = "post-call-refused"
    title = "The step can't be done"


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """What one of the two said, and when that began on the call's timeline, if that is known."""

    who: Literal["caller", "bot"]
    text: str
    start_ms: int | None = None


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A session that is over, with everything that was said. `recording` is relative to the folder of recordings."""

    session_id: str
    tenant: str
    agent: str
    agent_version: int
    transport: str
    outcome: str
    reason: str
    metadata: dict[str, Any]
    body: dict[str, Any]
    requested_at: datetime
    ready_at: datetime | None
    ended_at: datetime
    lines: tuple[Line, ...]
    recording: str | None


class Step(Protocol):
    """Makes something of a call. It may run more than once for one call, and has to bear that.

    One that has an attribute `repeatable` that is true is made again, and its result replaced, when something that was
    said is stored after it was done; any other isn't.
    """

    async def run(self, call: Call) -> dict[str, Any] | None:
        """Return what is to be kept of it, as JSON; None: nothing.

        Raises:
            StepRefused: it can never succeed. Whatever else is raised, it is tried again later.
        """
        ...
