"""Messages that couldn't be processed: what there is of them, and how one is put back where it came from.

What is put back has an id that follows from its place in PARKED, so that the stream takes it once within its duplicate
window, however many people try; behind it a mark is left, by compare-and-set, that it is done. Whoever finds neither
mark nor window (the first one died between the two) looks whether the message is in the stream already; in a work queue
it may have been taken from there, and comes a second time. Those who work on it recognise it: handlers are idempotent.

Entries of the ledger aren't put back. The entry is still in the ledger, at its place; put at the end it would be the
session's newest state. The recorder tries what it has parked of a session again by itself, once in each version.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import msgspec

from greenroom.common import messages, subjects, topology
from greenroom.common.broker import Broker, Message, WrongLastSequence
from greenroom.common.clock import utcnow
from greenroom.common.errors import GreenroomError
from greenroom.common.ids import derived_id
from greenroom.common.messages import Parked, Replayed

STREAM: Final = "PARKED"
# What the broker's clients put there; those of the first time would have it refused, or taken for a repetition.
_BROKER_HEADERS: Final = "nats-"


class ParkedNotFound(GreenroomError):
    """No parked message has this number. They are kept for 30 days; `greenroom parked list --all` shows them."""

    code = "parked-not-found"
    status = 404
    title = "There is no such parked message"


class ParkedNotReplayable(GreenroomError):
    """A parked message can't be put back: it is an entry of the ledger.

    It is still in the ledger. Put at its end, it would be taken for the session's newest state. Once a version of the
    recorder that understands the entry leads, it stores what it missed by itself.
    """

    code = "parked-not-replayable"
    status = 409
    title = "This message can't be put back"


class ParkedMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A parked message; `seq` is its place in PARKED, and what it is called by."""

    seq: int
    parked: Parked
    replayed: Replayed | None = None

    @property
    def replay_id(self) -> str:
        """The id that it is put back with."""
        return derived_id("replayed", self.parked.stream, str(self.seq))


async def listed(broker: Broker, *, stream: str | None = None, everything: bool = False) -> list[ParkedMessage]:
    """Return what is parked, oldest first, with bodies left out.

    Args:
        broker: where.
        stream: only what came from this stream.
        everything: also what was put back.
    """
    found: dict[int, ParkedMessage] = {}
    async for message in _held(broker, [subjects.PARKED.wildcard(), subjects.REPLAYED.wildcard()]):
        if tokens := subjects.REPLAYED.parse(message.subject):
            seq = int(tokens["seq"])
            if seq in found:
                done = messages.decode(message.data, Replayed)
                found[seq] = msgspec.structs.replace(found[seq], replayed=done)
            continue
        parked = msgspec.structs.replace(messages.decode(message.data, Parked), payload=b"", headers={})
        if stream in {None, parked.stream}:
            found[message.stream_seq] = ParkedMessage(seq=message.stream_seq, parked=parked)
    return [each for each in found.values() if everything or each.replayed is None]


async def one(broker: Broker, seq: int) -> ParkedMessage:
    """Return a parked message as a whole.

    Raises:
        ParkedNotFound: there is none of that number.
    """
    async for message in _held(broker, [subjects.PARKED.wildcard()], after=seq - 1):
        if message.stream_seq != seq:
            break
        parked = messages.decode(message.data, Parked)
        mark = await broker.last(STREAM, _mark(parked, seq))
        replayed = messages.decode(mark.data, Replayed) if mark is not None else None
        return ParkedMessage(seq=seq, parked=parked, replayed=replayed)
    raise ParkedNotFound(f"{seq} isn't the number of a parked message")


async def replay(broker: Broker, seq: int, *, by: str = "") -> ParkedMessage:
    """Put a parked message back where it came from, unless that was done; return it with the mark that says so.

    Args:
        broker: where.
        seq: its number.
        by: who does it, to be kept with the mark.

    Raises:
        ParkedNotFound: there is none of that number.
        ParkedNotReplayable: it is an entry of the ledger.
        BrokerUnavailable, TopologyMissing, MessageTooLarge: its stream doesn't take it; nothing is marked.
    """
    found = await one(broker, seq)
    if found.replayed is not None:
        return found
    parked = found.parked
    if subjects.SESSION_LIFECYCLE.parse(parked.subject):
        raise ParkedNotReplayable(f"{seq} is an entry of the ledger: {parked.subject}")
    place = await _place_of(broker, found)
    if place is None:
        place = await broker.append(
            parked.subject, parked.payload, msg_id=found.replay_id, headers=_own_headers(parked.headers)
        )
    done = Replayed(at=utcnow(), stream_seq=place, by=by)
    try:
        await broker.append(_mark(parked, seq), messages.encode(done), expected_last=0)
    except WrongLastSequence:
        # Somebody else did the same at the same time, and was first: what is in the stream is one message.
        return await one(broker, seq)
    return msgspec.structs.replace(found, replayed=done)


async def _place_of(broker: Broker, found: ParkedMessage) -> int | None:
    """Return where the message is in its stream if it was put back without being marked."""
    retention = {stream.name: stream.retention for stream in topology.STREAMS}.get(found.parked.stream)
    if retention != "limits":
        return None  # nobody but its consumer may read a work queue
    async for message in _held(
        broker, [found.parked.subject], stream=found.parked.stream, after=found.parked.stream_seq
    ):
        if message.headers.get("Nats-Msg-Id") == found.replay_id:
            return message.stream_seq
    return None


async def _held(broker: Broker, wanted: list[str], *, stream: str = STREAM, after: int = 0) -> AsyncIterator[Message]:
    """Iterate over what a stream holds now."""
    reader = await broker.read(stream, wanted, after=after)
    try:
        if reader.caught_up.is_set():
            return
        async for message in reader:
            yield message
            if reader.caught_up.is_set():
                return
    finally:
        await reader.close()


def _mark(parked: Parked, seq: int) -> str:
    return subjects.REPLAYED.format(stream=parked.stream, seq=str(seq))


def _own_headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if not name.lower().startswith(_BROKER_HEADERS)}


def as_builtins(message: ParkedMessage) -> dict[str, Any]:
    """Return a parked message for JSON; a body that is text as text, any other as Base64."""
    plain = msgspec.to_builtins(message)
    text = body_text(message.parked.payload)
    if text is not None:
        plain["parked"]["payload"] = text
    return plain


def body_text(payload: bytes) -> str | None:
    """Return a body as text, or None if it isn't."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() or "\n" in text else None
