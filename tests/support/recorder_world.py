"""What the tests of the recorder play with: sessions in a real ledger, their events and their audio."""

import array
import asyncio
import contextlib
import time
import wave
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from greenroom.common import messages, subjects, topology, topology_admin
from greenroom.common.clock import utcnow
from greenroom.common.ids import uuid7
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import Ended, Leased, Outcome, Ready, Requested, Session, Started, Transition
from greenroom.common.messages import AudioHeader, Parked
from greenroom.common.metrics import Metrics
from greenroom.common.nats_broker import NatsBroker
from greenroom.recorder import database
from greenroom.recorder.app import PARTS_DIR, Recorder
from greenroom.recorder.settings import RecorderSettings

RATE: Final = 16_000
RUNNER: Final = "runner-1"
TRACEPARENT: Final = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
# Every wait of these tests ends by then; the machine may be busy with others.
PATIENCE_S: Final = 20.0


def quick_topology() -> tuple[topology.Consumer, ...]:
    """Return the consumers as they are, but with what was in dead hands delivered again after 1 s instead of 10."""
    return tuple(msgspec.structs.replace(consumer, ack_wait_s=1.0) for consumer in topology.CONSUMERS)


async def eventually[T](
    look: Callable[[], Awaitable[T]], wanted: Callable[[T], object], *, within_s: float = PATIENCE_S
) -> T:
    """Return what `look` returns once that is `wanted`.

    Raises:
        AssertionError: it wasn't within `within_s`; the text says what it was.
    """
    deadline = time.monotonic() + within_s
    while not wanted(found := await look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s; at last it was {found!r}")
        await asyncio.sleep(0.02)
    return found


def samples(value: int, count: int) -> bytes:
    """Return `count` samples of one value as PCM."""
    return array.array("h", [value] * count).tobytes()


class World:
    """A broker with our topology, a database with our schema, and a folder for recordings."""

    def __init__(self, broker: NatsBroker, dsn: str, folder: Path) -> None:
        self.broker = broker
        self.dsn = dsn
        self.folder = folder
        self.ledger = Ledger(broker)

    @property
    def parts(self) -> Path:
        """Where live audio is."""
        return self.folder / PARTS_DIR

    # ------------------------------------------------------------------------ what happens

    async def request(self, *, tenant: str = "t", **fields: Any) -> Entry:
        """Ask for a session."""
        now = utcnow()
        values: dict[str, Any] = {"agent": "frontdesk", "bot": "frontdesk", "traceparent": TRACEPARENT, **fields}
        session = Session(id=uuid7(), tenant=tenant, requested_at=now, queue_deadline_at=now, **values)
        return await self.ledger.create(Requested(session=session))

    async def advance(self, entry: Entry, *transitions: Transition) -> Entry:
        """Move a session on, step by step."""
        for transition in transitions:
            entry = await self.ledger.advance(entry, transition)
        return entry

    async def begin(self, **fields: Any) -> Entry:
        """Return a session that is ready."""
        return await self.advance(
            await self.request(**fields),
            Leased(runner_id=RUNNER, epoch=1, expires_at=utcnow()),
            Started(runner_id=RUNNER, epoch=1),
            Ready(epoch=1),
        )

    async def end(self, entry: Entry, outcome: Outcome = Outcome.COMPLETED, reason: str = "goodbye") -> Entry:
        """End a session."""
        epoch = entry.session.epoch
        return await self.advance(entry, Ended(by="runner", epoch=epoch, outcome=outcome, reason=reason))

    async def publish(self, session: Session, kind: str, *, tenant: str | None = None, **body: Any) -> int:
        """Publish an event as any service may; `body` is what is in its envelope."""
        subject = subjects.SESSION_EVENT.format(tenant=tenant or session.tenant, session_id=session.id, type=kind)
        return await self.broker.append(subject, msgspec.json.encode(body))

    async def speak(
        self,
        session: Session,
        track: str,
        seq: int,
        pcm: bytes,
        *,
        position: int | None = None,
        epoch: int = 1,
        origin_ns: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> int:
        """Publish a chunk of audio; by default one second behind the other, from the request on."""
        if origin_ns is None:
            origin_ns = int(session.requested_at.timestamp() * 1e9)
        return await self.broker.append(
            subjects.SESSION_AUDIO.format(tenant=session.tenant, session_id=session.id, track=track),
            pcm,
            headers={
                AudioHeader.SEQ: str(seq),
                AudioHeader.EPOCH: str(epoch),
                AudioHeader.POSITION: str((seq - 1) * RATE if position is None else position),
                AudioHeader.ORIGIN_NS: str(origin_ns),
                AudioHeader.RATE: str(RATE),
                **(headers or {}),
            },
        )

    # ------------------------------------------------------------------------ what is kept

    async def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """Return what the database answers."""
        connection = await database.connect(self.dsn, timeout_s=PATIENCE_S)
        try:
            return [dict(row) for row in await connection.fetch(query, *values)]
        finally:
            await connection.close()

    async def event_types(self, session: Session) -> list[str]:
        """Return the types of a session's stored events, in stream order."""
        query = "SELECT type FROM session_events WHERE session_id = $1 ORDER BY stream_seq"
        return [row["type"] for row in await self.rows(query, session.id)]

    async def stored(self, session: Session) -> dict[str, Any]:
        """Return a session's row; empty while there is none."""
        found = await self.rows("SELECT * FROM sessions WHERE id = $1", session.id)
        return found[0] if found else {}

    async def recordings(self, session: Session) -> list[dict[str, Any]]:
        """Return a session's recordings."""
        return await self.rows("SELECT * FROM recordings WHERE session_id = $1", session.id)

    async def sealed(self, session: Session) -> dict[str, Any]:
        """Return a session's row once it is sealed."""
        return await eventually(lambda: self.stored(session), lambda row: row.get("sealed_at"))

    async def parked(self) -> list[Parked]:
        """Return what was parked, in order."""
        if not await self.broker.count("PARKED", subjects.PARKED.wildcard()):
            return []
        reader = await self.broker.read("PARKED", [subjects.PARKED.wildcard()], after=0)
        found: list[Parked] = []
        async for message in reader:
            found.append(messages.decode(message.data, Parked))
            if reader.caught_up.is_set():
                break
        await reader.close()
        return found

    # ------------------------------------------------------------------------ who keeps it

    @contextlib.asynccontextmanager
    async def recorder(self, **settings: Any) -> AsyncGenerator[Recorder]:
        """Run a recorder, with a connection of its own, for the time of the block; then it stops in order."""
        values: dict[str, Any] = {
            "database_url": self.dsn,
            "recordings_dir": str(self.folder),
            "instance_id": f"recorder-{uuid7()}",
            "purge_grace_s": 3600.0,
            # Nothing but this, unless a test says otherwise.
            "recorder_work": ("keep",),
            **settings,
        }
        broker = await NatsBroker.connect(await self.nats_url(), name="recorder under test", timeout_s=PATIENCE_S)
        pool = await database.open_pool(self.dsn, size=6)
        recorder = Recorder(broker=broker, pool=pool, settings=RecorderSettings(**values), metrics=Metrics())
        work = asyncio.create_task(recorder.run())
        try:
            yield recorder
            if work.done():
                work.result()
        except AssertionError as error:
            # Whatever a test has waited for in vain: one that isn't there any more doesn't do it.
            if work.done() and not work.cancelled() and (why := work.exception()) is not None:
                raise error from why
            raise
        finally:
            work.cancel()
            await asyncio.wait({work})
            await broker.close()
            await database.close_pool(pool, timeout_s=2)

    async def nats_url(self) -> str:
        """Return the address of the server that the world's own connection is to."""
        url = self.broker.client.connected_url
        assert url is not None
        return url.geturl()


@contextlib.asynccontextmanager
async def world(nats_url: str, dsn: str, folder: Path) -> AsyncGenerator[World]:
    """Make a world on servers that run; the topology is applied."""
    broker = await NatsBroker.connect(nats_url, name="recorder tests", timeout_s=PATIENCE_S)
    try:
        await topology_admin.apply(broker)
        yield World(broker, dsn, folder)
    finally:
        await broker.close()


def unlines(data: bytes) -> list[int]:
    """Return PCM as numbers."""
    return array.array("h", data).tolist()


def wav_channels(path: Path) -> tuple[Sequence[int], Sequence[int]]:
    """Return the left and right channel of a recording, read without our own code."""
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, RATE)
        frames = array.array("h", file.readframes(file.getnframes()))
    return frames[0::2], frames[1::2]
