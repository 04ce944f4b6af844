"""The ledger: every session's lifecycle, in one stream, by compare-and-set.

Each message is a transition and the whole session after it, so one write is the fence, the event and the state.
The last message of a session's subject is its state now; all of them are its history.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from typing import Final

import msgspec
import structlog

from greenroom.common import lifecycle, messages, subjects, telemetry
from greenroom.common.broker import Broker, Message, Reader, WrongLastSequence
from greenroom.common.clock import Clock, SystemClock
from greenroom.common.errors import BrokerUnavailable, LedgerConflict, LedgerCorrupt, SessionNotFound
from greenroom.common.ids import uuid7
from greenroom.common.lifecycle import Requested, Session, Transition
from greenroom.common.messages import LedgerEntry

_log = structlog.get_logger()

STREAM: Final = "SESSIONS"

# A JetStream leader that is killed takes up to 8.4 s to be replaced; a write tries for longer than that.
_WRITE_DEADLINE_S: Final = 15.0
_TRY_TIMEOUT_S: Final = 5.0
_RETRY_S: Final = 0.2
_MOVE_TRIES: Final = 10
# Where the broker says the sequence of what it publishes again.
_SEQUENCE: Final = "Nats-Sequence"
# A session's history is a dozen messages: they are read in some milliseconds.
_READ_TIMEOUT_S: Final = 5.0

type OnCorrupt = Callable[[], None]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger message that is stored; `revision` is its stream sequence, on which the next one is written."""

    session: Session
    transition: Transition
    at: datetime
    revision: int
    traceparent: str | None = None


def decode_entry(message: Message) -> Entry:
    """Return the entry in a message of the ledger.

    Raises:
        msgspec.MsgspecError: it isn't one.
    """
    stored = messages.decode(message.data, LedgerEntry)
    return Entry(
        session=stored.session,
        transition=stored.transition,
        at=stored.at,
        revision=message.stream_seq,
        traceparent=stored.traceparent,
    )


def stored_entry(message: Message) -> Entry:
    """Return the entry that the broker says is stored (`subjects.SESSION_STORED`).

    Raises:
        ValueError: it isn't one.
    """
    return msgspec.structs.replace(decode_entry(message), revision=int(message.headers.get(_SEQUENCE, "")))


class Ledger:
    """Reads and writes sessions. Every write is checked against the lifecycle table first.

    Args:
        broker: has the stream.
        clock: time.
        on_corrupt: called with each message that is read and isn't an entry, to count it; it is logged here.
    """

    def __init__(self, broker: Broker, *, clock: Clock | None = None, on_corrupt: OnCorrupt | None = None) -> None:
        self._broker = broker
        self._clock = clock or SystemClock()
        self._on_corrupt = on_corrupt

    async def create(self, request: Requested) -> Entry:
        """Store a new session: once this returns, it can't be lost.

        Raises:
            LedgerConflict: the id is taken.
            BrokerUnavailable: not stored, or not known to be.
        """
        return await self._write(None, 0, request)

    async def advance(self, entry: Entry, transition: Transition) -> Entry:
        """Move a session on from `entry`, if nobody has moved it since.

        Raises:
            IllegalTransition: not possible in its state.
            StaleEpoch: the transition belongs to an earlier lease.
            LedgerConflict: somebody else was first.
            BrokerUnavailable: not stored, or not known to be, after 15 s of trying.
        """
        return await self._write(entry.session, entry.revision, transition)

    async def move(self, tenant: str, session_id: str, decide: Callable[[Session], Transition | None]) -> Entry:
        """Read a session, decide, and write; again from the start when somebody else was first.

        Args:
            tenant: whose.
            session_id: which.
            decide: returns the transition, or None when there is nothing to do. May be called several times.

        Returns:
            The entry after the move, or the last one when there was nothing to do.

        Raises:
            SessionNotFound: the ledger doesn't hold it (any more).
            LedgerCorrupt: what it holds last is no entry.
            IllegalTransition, StaleEpoch, BrokerUnavailable: as `advance`.
            LedgerConflict: others were first ten times in a row.
        """
        for _ in range(_MOVE_TRIES):
            entry = await self.last(tenant, session_id)
            if entry is None:
                raise SessionNotFound(f"there is no live session {session_id}")
            transition = decide(entry.session)
            if transition is None:
                return entry
            try:
                return await self.advance(entry, transition)
            except LedgerConflict:
                continue
        raise LedgerConflict(f"session {session_id} was changed by others {_MOVE_TRIES} times in a row")

    async def last(self, tenant: str, session_id: str) -> Entry | None:
        """Return a session's last entry, or None when the ledger doesn't hold it (any more).

        Raises:
            LedgerCorrupt: what it holds last is no entry.
            BrokerUnavailable: the ledger can't be read now.
        """
        subject = subjects.SESSION_LIFECYCLE.format(tenant=tenant, session_id=session_id)
        message = await self._broker.last(STREAM, subject)
        return self._entry(message) if message else None

    async def history(self, tenant: str, session_id: str) -> list[Entry]:
        """Return all entries of a session in order; empty when the ledger doesn't hold it (any more).

        Raises:
            LedgerCorrupt: some message among them is no entry.
            BrokerUnavailable: the ledger can't be read now.
        """
        subject = subjects.SESSION_LIFECYCLE.format(tenant=tenant, session_id=session_id)
        return [self._entry(message) for message in await self._read(subject, after=0)]

    async def watch(self) -> "LedgerReader":
        """Follow all sessions: first the last entry of each, then every entry as it is written.

        Raises:
            BrokerUnavailable: the ledger can't be read now.
            TopologyMissing: the stream isn't there.
        """
        wildcard = subjects.SESSION_LIFECYCLE.wildcard()
        return LedgerReader(await self._broker.read(STREAM, [wildcard], last_per_subject=True), self._on_corrupt)

    def _entry(self, message: Message) -> Entry:
        try:
            return decode_entry(message)
        except msgspec.MsgspecError as error:
            _tell(message, error, self._on_corrupt)
            raise LedgerCorrupt(f"Message {message.stream_seq} of {message.subject} is no entry.") from error

    async def _write(self, before: Session | None, revision: int, transition: Transition) -> Entry:
        at = self._clock.now()
        after = lifecycle.apply(before, transition, at)
        if isinstance(transition, Requested):
            # The document is in the entry already: what the transition adds is only that it was asked for.
            transition = msgspec.structs.replace(transition, session=after)
        traceparent = telemetry.current_traceparent()
        stored = LedgerEntry(id=uuid7(), at=at, transition=transition, session=after, traceparent=traceparent)
        subject = subjects.SESSION_LIFECYCLE.format(tenant=after.tenant, session_id=after.id)
        try:
            sequence = await self._append(subject, stored, revision)
        except WrongLastSequence as error:
            raise LedgerConflict(f"session {after.id} has moved on from revision {revision}") from error
        return Entry(session=after, transition=transition, at=at, revision=sequence, traceparent=traceparent)

    async def _append(self, subject: str, entry: LedgerEntry, revision: int) -> int:
        """Append, again and again while the broker is away, and return the sequence."""
        headers = telemetry.inject()
        deadline = self._clock.monotonic() + _WRITE_DEADLINE_S
        repeated = False
        while True:
            try:
                return await self._try(subject, entry, revision, headers, repeated=repeated)
            except BrokerUnavailable:
                if self._clock.monotonic() + _RETRY_S >= deadline:
                    raise
            repeated = True
            await self._clock.sleep(_RETRY_S)

    async def _try(
        self, subject: str, entry: LedgerEntry, revision: int, headers: Mapping[str, str], *, repeated: bool
    ) -> int:
        try:
            return await self._broker.append(
                subject,
                messages.encode(entry),
                msg_id=entry.id,
                expected_last=revision,
                headers=headers,
                timeout_s=_TRY_TIMEOUT_S,
            )
        except WrongLastSequence:
            if not repeated:
                raise
            # An earlier try may have been stored although its acknowledgement was lost.
            for message in await self._read(subject, after=revision):
                if message.headers.get("Nats-Msg-Id") == entry.id:
                    return message.stream_seq
            raise

    async def _read(self, subject: str, *, after: int) -> list[Message]:
        """Return what the ledger holds on a subject behind a sequence, in order.

        Raises:
            BrokerUnavailable: it can't be read now.
        """
        found: list[Message] = []
        reader = await self._broker.read(STREAM, [subject], after=after)
        try:
            if reader.caught_up.is_set():
                return found
            async with asyncio.timeout(_READ_TIMEOUT_S):
                async for message in reader:
                    found.append(message)
                    if reader.caught_up.is_set():
                        break
        except TimeoutError as error:
            raise BrokerUnavailable(f"{subject} couldn't be read in {_READ_TIMEOUT_S:g} s") from error
        finally:
            await reader.close()
        return found


class LedgerReader:
    """Iterates over entries. `caught_up` is set once everything that was there at the start has been read."""

    def __init__(self, reader: Reader, on_corrupt: OnCorrupt | None = None) -> None:
        self._reader = reader
        self._on_corrupt = on_corrupt
        self.caught_up: asyncio.Event = reader.caught_up

    async def __aiter__(self) -> AsyncIterator[Entry]:
        """Iterate; messages that aren't entries are logged and passed over (the recorder parks them)."""
        async for message in self._reader:
            try:
                entry = decode_entry(message)
            except msgspec.MsgspecError as error:
                _tell(message, error, self._on_corrupt)
                continue
            yield entry

    async def close(self) -> None:
        """Stop following."""
        await self._reader.close()


def _tell(message: Message, error: msgspec.MsgspecError, on_corrupt: OnCorrupt | None) -> None:
    """Have it known that a message of the ledger is none; what stands in it isn't ours to log."""
    _log.error("ledger_corrupt", subject=message.subject, stream_seq=message.stream_seq, error=str(error))
    if on_corrupt is not None:
        on_corrupt()
