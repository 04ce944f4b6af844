"""The recorder's two consumers on a broker in memory, with a PostgreSQL and a disk that go away when told to."""

import asyncio
import contextlib
import errno
import math
import os
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, cast

import msgspec

from greenroom.common import subjects
from greenroom.common.clock import utcnow
from greenroom.common.errors import DatabaseUnavailable
from greenroom.common.ledger import Ledger
from greenroom.common.lifecycle import Session
from greenroom.common.messages import AudioHeader
from greenroom.common.metrics import Metrics
from greenroom.recorder.audio import RATE_HZ, AudioIngest
from greenroom.recorder.chunk_log import Chunk
from greenroom.recorder.ingest import Ingest
from greenroom.recorder.parts import Parts
from greenroom.recorder.store import AudioPermit, Store
from greenroom.recorder.transaction import Stored, StoredBefore, StoredEvent, StoredSession
from greenroom.recorder.troubles import Troubles
from tests.support.memory_broker import MemoryServer

# The ledger says when a session was asked for, and its audio begins then.
AT = utcnow()


def known_session(session_id: str, **fields: Any) -> Session:
    """Return a session that has been asked for."""
    values: dict[str, Any] = {"agent": "a", "bot": "b", "requested_at": AT, "queue_deadline_at": AT, **fields}
    return Session(id=session_id, tenant="t", **values)


class MemoryStore:
    """What the consumers need of PostgreSQL; while it is `away`, nothing, and of more events than `at_once` neither."""

    def __init__(self, *known: Session) -> None:
        self.away = False
        self.at_once: float = math.inf
        self.known = {session.id: session for session in known}
        self.events: dict[int, StoredEvent] = {}
        self.asked = 0

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncGenerator["MemoryStore"]:
        """See `Store.transaction`."""
        self._answer()
        yield self

    async def look_up(self, ids: Iterable[str]) -> tuple[dict[str, StoredSession], set[str]]:
        """Return the sessions that are known; none was erased."""
        self._answer()
        known = {each: StoredSession(session=self.known[each], revision=1) for each in ids if each in self.known}
        return known, set()

    async def erased(self, ids: Iterable[str]) -> set[str]:
        """Return nothing: none was erased."""
        self._answer()
        return set[str]() & set(ids)

    async def save_sessions(self, sessions: Sequence[StoredSession]) -> None:
        """Take documents."""
        self.known.update({stored.session.id: stored.session for stored in sessions})

    async def add_events(
        self,
        events: Sequence[StoredEvent],
        *,
        ended: Collection[str] | None = None,  # noqa: ARG002 nothing is sealed or counted here
        over: Collection[str] | None = None,  # noqa: ARG002
        new: bool = False,
    ) -> Stored:
        """Take events; what is there already stays, and is refused where all are said to be new."""
        if len(events) > self.at_once:
            raise DatabaseUnavailable("they take too long")
        fresh = {event.stream_seq: event for event in events if event.stream_seq not in self.events}
        if new and len(fresh) < len(events):
            raise StoredBefore
        self.events.update(fresh)
        return Stored(rows=len(fresh), ended=frozenset())

    async def audio_permits(self, ids: Iterable[str]) -> dict[str, AudioPermit]:
        """Return what is known of sessions."""
        self._answer()
        return {each: AudioPermit(session=self.known[each], sealed=False) for each in ids if each in self.known}

    def _answer(self) -> None:
        self.asked += 1
        if self.away:
            raise DatabaseUnavailable("away")


class FullDisk(Parts):
    """Parts on a disk that may be `full`."""

    full = False

    def write(self, chunks: Sequence[Chunk]) -> None:
        """See `Parts.write`."""
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write(chunks)


class Inline(Executor):
    """Does at once, and here, what it is given: for a loop whose time is virtual."""

    def submit[**P, T](self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Do it."""
        done: Future[T] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 it is whoever waits that is told
            done.set_exception(error)
        return done


class OutageBench:
    """A broker, a store, a disk, and the consumers between them."""

    def __init__(self, folder: Path, *known: Session, max_batch: int = 200) -> None:
        self.server = MemoryServer()
        self.outside = self.server.connect()
        self.store = MemoryStore(*known)
        self.parts = FullDisk(folder / ".parts", max_open=8)
        self.troubles = Troubles()
        broker = self.server.connect()
        store = cast("Store", self.store)
        self.ingest = Ingest(broker=broker, store=store, on_ended=lambda _: None, metrics=Metrics(), max_batch=50)
        self.audio = AudioIngest(
            broker=broker,
            ledger=Ledger(broker),
            store=store,
            parts=self.parts,
            metrics=Metrics(),
            max_batch=max_batch,
            troubles=self.troubles,
        )
        self.audio._writing = cast("Any", Inline())
        # The ledger says when a session was asked for, by the clock of this machine.
        self._origin_ns = int(utcnow().timestamp() * 1e9)

    async def tell(self, session_id: str, number: int) -> None:
        """Publish an event."""
        subject = subjects.SESSION_EVENT.format(tenant="t", session_id=session_id, type="note")
        body = {"id": f"{session_id}-{number}", "data": {"number": number}}
        await self.outside.append(subject, msgspec.json.encode(body))

    async def speak(self, session_id: str, seq: int) -> None:
        """Publish a tenth of a second of audio whose samples are its number."""
        headers: dict[str, str] = {
            AudioHeader.SEQ: str(seq),
            AudioHeader.EPOCH: "1",
            AudioHeader.POSITION: str((seq - 1) * RATE_HZ // 10),
            AudioHeader.ORIGIN_NS: str(self._origin_ns),
            AudioHeader.RATE: str(RATE_HZ),
        }
        subject = subjects.SESSION_AUDIO.format(tenant="t", session_id=session_id, track="user")
        await self.outside.append(subject, pcm_of(seq), headers=headers)

    @property
    def numbers(self) -> list[int]:
        """The events that are stored, in the order of the stream."""
        return [self.store.events[seq].event.data["number"] for seq in sorted(self.store.events)]

    def heard(self, session_id: str) -> bytes:
        """Return the audio that is on the disk."""
        return (self.parts._root / session_id / "user.1.pcm").read_bytes()

    def waiting(self, stream: str) -> int:
        """Return how many messages of a stream aren't settled."""
        return sum(
            len(consumer._again_at) for (of, _), consumer in self.server.consumers.items() if of == stream
        )  # fmt: skip

    @property
    def parked(self) -> int:
        """How many messages were given up."""
        return len(self.server.stream("PARKED").messages)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Run both consumers for the time of the block."""
        tasks = [asyncio.create_task(self.ingest.run()), asyncio.create_task(self.audio.run())]
        try:
            yield
            assert not [task for task in tasks if task.done()]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self.parts.shutdown()


def pcm_of(seq: int) -> bytes:
    """Return what is spoken under a number."""
    return seq.to_bytes(2, "little", signed=True) * (RATE_HZ // 10)
