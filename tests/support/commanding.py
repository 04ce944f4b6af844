"""Sends commands to a session process of `session_rig`, as the api does it."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from greenroom.common import messages, subjects
from greenroom.common.commands import Command, CommandAnswer, CommandDone, CommandRefused, CommandRequest
from greenroom.common.ids import uuid7
from greenroom.common.messages import Event
from tests.support.api_world import eventually
from tests.support.session_rig import SessionRun

KEY = "0199b6a4-0000-7000-8000-00000000c0de"


async def send(run: SessionRun, command: Command, *, command_id: str | None = None) -> CommandAnswer:
    """Send a command and return what the process answers."""
    request = CommandRequest(id=command_id or uuid7(), by=KEY, at=datetime.now(UTC), command=command)
    subject = subjects.SESSION_CMD.format(tenant=run.session.tenant, session_id=run.session.id, name="command")
    reply = await run.sessions.broker.request(subject, messages.encode(request), timeout_s=25)
    return msgspec.json.decode(reply.data, type=CommandAnswer)


async def done(run: SessionRun, command: Command, **options: Any) -> dict[str, Any]:
    """Send a command that is carried out, and return its result."""
    answer = await send(run, command, **options)
    assert isinstance(answer, CommandDone), answer
    return answer.result


async def refused(run: SessionRun, command: Command, **options: Any) -> CommandRefused:
    """Send a command that isn't carried out, and return the refusal."""
    answer = await send(run, command, **options)
    assert isinstance(answer, CommandRefused), answer
    return answer


async def events_of(run: SessionRun, *kinds: str) -> list[Event]:
    """Return the session's events of some types so far."""
    return [event for event in await run.events() if event.type in kinds]


async def until_events(run: SessionRun, kind: str, count: int = 1) -> list[Event]:
    """Wait until a session has that many events of a type, and return them."""

    async def look() -> list[Event]:
        return await events_of(run, kind)

    return await eventually(look, lambda found: len(found) >= count)
