"""What the broker has of sessions that are erased, and how it forgets it.

Some streams have the session's id in the subject: those are purged by it. In the others messages are kept under digests
or in one subject for all (used keys, tickets, calls, decisions, parked messages): those are read through, once for all
sessions of a round, and what names one of them is deleted message by message. Where an agent has gone by itself is one
message of all its sessions: they are left out of it, and the others stay.
"""

import asyncio
import contextlib
import re
from collections.abc import Collection, Iterable
from typing import Final

import msgspec

from greenroom.common import messages, subjects
from greenroom.common.bodies import STREAM as BODIES
from greenroom.common.broker import Broker, Message, WrongLastSequence
from greenroom.common.call_messages import RoomStarts
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.ledger import STREAM as SESSIONS
from greenroom.common.mailbox import STREAM as COMMANDS
from greenroom.common.messages import Parked
from greenroom.common.secrets import STREAM as SECRETS
from greenroom.recorder.audio import STREAM as AUDIO

PARKED: Final = "PARKED"
# Stream and subjects of those that are read through.
READ_THROUGH: Final = (
    ("TICKETS", subjects.TICKET.wildcard()),
    ("IDEMPOTENCY", subjects.IDEMPOTENCY.wildcard()),
    ("CALLS", subjects.CALL.wildcard()),
    ("DECISIONS", subjects.DECISION.wildcard()),
    (PARKED, subjects.PARKED.wildcard()),
)
# A million messages take some 20 s.
READ_TIMEOUT_S: Final = 120.0
_ID: Final = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


async def forget(broker: Broker, sessions: Collection[tuple[str, str]]) -> int:
    """Have the broker forget sessions, given as pairs of tenant and id; return how many messages were picked out.

    Raises:
        BrokerUnavailable, TopologyMissing: something may be left; it may be repeated.
    """
    for tenant, session_id in sessions:
        await forget_events(broker, tenant, session_id)
        audio = subjects.SESSION_AUDIO.wildcard(tenant=tenant, session_id=session_id)
        await broker.purge(AUDIO, audio)
        await broker.purge(SECRETS, subjects.SECRET.format(tenant=tenant, session_id=session_id))
        await broker.purge(BODIES, subjects.BODY.format(tenant=tenant, session_id=session_id))
        await broker.purge(COMMANDS, subjects.MAILBOX.format(tenant=tenant, session_id=session_id))
    ids = {session_id.encode() for _, session_id in sessions}
    picked = 0
    for stream, wildcard in READ_THROUGH:
        for message in await _naming(broker, stream, wildcard, ids):
            await broker.delete(stream, message.stream_seq)
            picked += 1
    return picked + await _leave_out(broker, ids)


async def forget_events(broker: Broker, tenant: str, session_id: str) -> None:
    """Have the broker forget a session's ledger and events. Raises `BrokerUnavailable`."""
    await broker.purge(SESSIONS, subjects.SESSION_ALL.wildcard(tenant=tenant, session_id=session_id))


async def forget_late(broker: Broker, ids: Collection[str]) -> int:
    """Have the broker forget what came of erased sessions and couldn't be read; return how many messages that were.

    What can be read isn't stored when it comes. The rest is parked, body and all, before anybody asks whose it is.

    Raises:
        BrokerUnavailable, TopologyMissing: something may be left; it may be repeated.
    """
    found = await _naming(broker, PARKED, subjects.PARKED.wildcard(), {each.encode() for each in ids})
    for message in found:
        parked = _parked(message)
        tokens = subjects.SESSION_ALL.parse(parked.subject) if parked is not None else None
        # The stream that it was parked from may have it too. Somebody else's session it may only speak of.
        if tokens is not None and tokens["session_id"] in ids:
            await forget_events(broker, tokens["tenant"], tokens["session_id"])
        await broker.delete(PARKED, message.stream_seq)
    return len(found)


async def _leave_out(broker: Broker, ids: set[bytes]) -> int:
    picked = 0
    while found := await _naming(broker, "CALLS", subjects.ROOMS.wildcard(), ids):
        for message in found:
            starts = messages.decode(message.data, RoomStarts)
            others = (one for one in starts.rooms if ids.isdisjoint(_ID.findall(messages.encode(one))))
            kept = RoomStarts(rooms=tuple(others))
            # One that has changed meanwhile is found again.
            with contextlib.suppress(WrongLastSequence):
                await broker.append(message.subject, messages.encode(kept), expected_last=message.stream_seq)
                picked += 1
    return picked


def names(message: Message) -> Iterable[bytes]:
    """Yield the ids that a message names: in its subject, its body, or in the message that is parked in it."""
    yield from _ID.findall(message.subject.encode())
    yield from _ID.findall(message.data)
    parked = _parked(message)
    if parked is not None:
        # The body is in base64 on the wire.
        yield from _ID.findall(parked.payload)


def _parked(message: Message) -> Parked | None:
    if subjects.PARKED.parse(message.subject) is None:
        return None
    try:
        return messages.decode(message.data, Parked)
    except msgspec.MsgspecError:
        return None


async def _naming(broker: Broker, stream: str, wildcard: str, ids: set[bytes]) -> list[Message]:
    found: list[Message] = []
    reader = await broker.read(stream, [wildcard], after=0)
    try:
        if reader.caught_up.is_set():
            return found
        async with asyncio.timeout(READ_TIMEOUT_S):
            async for message in reader:
                if not ids.isdisjoint(names(message)):
                    found.append(message)
                if reader.caught_up.is_set():
                    break
    except TimeoutError as error:
        raise BrokerUnavailable(f"{stream} couldn't be read in {READ_TIMEOUT_S:g} s") from error
    finally:
        await reader.close()
    return found
