"""The consumer of AUDIO: chunks become parts on the disk, acknowledged once they are there.

It needs the ledger only, not PostgreSQL, for a session that is alive: audio is kept while the database is away. Audio
of a session that has ended and that this recorder hasn't met waits for the database, by itself: whatever else is in a
batch is stored, and the more of it waits, the less often it is looked at (`put_off.py`). The broker lets 100,000 chunks
wait so; what comes after those waits too. Whatever the disk refuses waits in the broker.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Final

import msgspec
import structlog

from greenroom.common import subjects
from greenroom.common.broker import Broker, Message
from greenroom.common.consumer import Consumer, Drop, Retry
from greenroom.common.errors import BrokerUnavailable, DatabaseUnavailable, LedgerCorrupt
from greenroom.common.ledger import STREAM as SESSIONS
from greenroom.common.ledger import Ledger
from greenroom.common.lifecycle import Session
from greenroom.common.messages import AudioHeader
from greenroom.common.metrics import Metrics
from greenroom.recorder.chunk_log import Chunk
from greenroom.recorder.parts import Parts
from greenroom.recorder.put_off import PutOff
from greenroom.recorder.store import AudioPermit, Store
from greenroom.recorder.timeline import NS, SAMPLE_BYTES, TRACKS, ChunkNote, Track
from greenroom.recorder.troubles import LIVE_AUDIO, Troubles

_log = structlog.get_logger()

STREAM: Final = "AUDIO"
CONSUMER: Final = "recorder-audio"
# How long a chunk waits for others: the longer, the fewer syncs, one for each batch.
LINGER_S: Final = 0.2
# What session processes record: mono, 16 kHz, 16 bit.
RATE_HZ: Final = 16_000
MAX_CHUNK_SAMPLES: Final = RATE_HZ
# Of one track in one attempt: at one chunk per 20 ms, four days.
MAX_SEQ: Final = 2**24
# Attempts of one session; the scheduler gives up long before.
MAX_EPOCH: Final = 10_000
# A process may run longer than its limits add up to: what the runner needs to notice and to end it.
DURATION_SLACK_S: Final = 120.0
# How far the clocks of two hosts may disagree, and how late an attempt may begin after the request.
EARLIEST_ORIGIN: Final = timedelta(minutes=-10)
LATEST_ORIGIN: Final = timedelta(hours=12)
AWAY_RETRY_S: Final = 1.0
# How often the files of sessions are synced, and the log is emptied: the longer, the fewer syncs, and the more is read
# again after a crash.
CHECKPOINT_S: Final = 5.0
# While the session is looked at for sealing.
FROZEN_RETRY_S: Final = 0.25
# Sessions whose limits are remembered; above that the ledger is asked again.
MAX_PERMITS: Final = 10_000
_TRACKS: Final[dict[str, Track]] = {track: track for track in TRACKS}


class Permit(msgspec.Struct, frozen=True, kw_only=True):
    """What audio a session takes: none if `refused` says why."""

    refused: str | None = None
    # Its agent wants no recording: what comes all the same, from a runner of an older version, is forgotten.
    off: bool = False
    max_samples: int = 0
    earliest_origin_ns: int = 0
    latest_origin_ns: int = 0


def decode(message: Message) -> Chunk:
    """Return the chunk in a message of AUDIO.

    Raises:
        Drop: it is no chunk.
    """
    tokens = subjects.SESSION_AUDIO.parse(message.subject)
    if tokens is None or (track := _TRACKS.get(tokens["track"])) is None:
        raise Drop(f"{message.subject} isn't the subject of a track")
    rate = _number(message.headers, AudioHeader.RATE, most=2**31)
    if rate != RATE_HZ:
        raise Drop(f"malformed: {AudioHeader.RATE} is {rate}, {RATE_HZ} is recorded")
    samples, odd = divmod(len(message.data), SAMPLE_BYTES)
    if odd or not 0 < samples <= MAX_CHUNK_SAMPLES:
        raise Drop(f"malformed: {len(message.data)} bytes aren't 1 to {MAX_CHUNK_SAMPLES} samples of 16 bit")
    return Chunk(
        tenant=tokens["tenant"],
        session_id=tokens["session_id"],
        note=_note(message, track, samples),
        pcm=message.data,
    )


def _note(message: Message, track: Track, samples: int) -> ChunkNote:
    headers = message.headers
    return ChunkNote(
        track=track,
        epoch=_number(headers, AudioHeader.EPOCH, most=MAX_EPOCH),
        seq=_number(headers, AudioHeader.SEQ, least=1, most=MAX_SEQ),
        position=_number(headers, AudioHeader.POSITION, most=2**40),
        samples=samples,
        origin_ns=_number(headers, AudioHeader.ORIGIN_NS, most=2**63 - 1),
        at_ns=message.at_ns,
    )


def _number(headers: Mapping[str, str], name: AudioHeader, *, least: int = 0, most: int) -> int:
    text = headers.get(name, "")
    if text.isascii() and text.isdigit() and len(text) <= len(str(most)) and least <= int(text) <= most:
        return int(text)
    raise Drop(f"malformed: {name} isn't a number from {least} to {most}")


class AudioIngest:
    """Stores audio.

    Args:
        broker: where it comes from.
        ledger: tells which sessions there are.
        store: tells of sessions that the ledger has forgotten.
        parts: where it goes.
        metrics: chunks, bytes, open files.
        max_batch: chunks written and synced together at most, of 32 kB each.
        troubles: is told whether the disk takes audio.
    """

    def __init__(
        self,
        *,
        broker: Broker,
        ledger: Ledger,
        store: Store,
        parts: Parts,
        metrics: Metrics,
        max_batch: int,
        troubles: Troubles | None = None,
    ) -> None:
        self.consumer: Final = Consumer(
            broker,
            STREAM,
            CONSUMER,
            decode=decode,
            handle=self.handle,
            max_batch=max_batch,
            linger_s=LINGER_S,
            ahead=True,
        )
        self._broker = broker
        self._ledger = ledger
        self._store = store
        self._parts = parts
        self._max_batch = max_batch
        self._troubles = troubles or Troubles()
        self._behind = False
        # When PostgreSQL, which was away, is worth asking again, on the clock of the loop.
        self._ask_at = 0.0
        # Which sessions the ledger has closed, of which PostgreSQL, which was away, has to tell the rest.
        self._untold: set[tuple[str, str]] = set()
        self._put_off = PutOff()
        # Of its own: what others do in threads may wait for a storage that is away, and audio mustn't wait with it. One
        # is for batches, one for the log's being emptied.
        self._writing = ThreadPoolExecutor(2, thread_name_prefix="audio")
        self._permits: OrderedDict[str, Permit] = OrderedDict()
        self._frozen: set[str] = set()
        self._chunks = metrics.counter("recorder_audio_chunks", "Chunks of audio stored", ["track"])
        self._bytes = metrics.counter("recorder_audio_bytes", "Bytes of audio stored")
        self._open_files = metrics.gauge("recorder_open_parts", "Files of live recordings that are open")
        self._write_s = metrics.histogram("recorder_audio_write_seconds", "From a batch's arrival to its last sync")

    async def run(self) -> None:
        """Consume until canceled."""
        await self.consumer.run()

    @property
    def behind(self) -> bool:
        """Whether more audio waits than was stored at once, or it can't be stored now: what isn't there may come."""
        return self._behind

    def shutdown(self) -> None:
        """Let go of the threads that write."""
        self._writing.shutdown(wait=False)

    async def recover(self) -> None:
        """Return when the files have what is in the log, also what another recorder has left there."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                return await loop.run_in_executor(self._writing, self._parts.checkpoint)
            except OSError as error:
                _log.error("audio_not_synced", error=error.strerror, again_in_s=AWAY_RETRY_S)
            await asyncio.sleep(AWAY_RETRY_S)

    async def checkpoints(self) -> None:
        """Have the log emptied all the time, until canceled."""
        while True:
            await asyncio.sleep(CHECKPOINT_S)
            await self.recover()

    def freeze(self, session_id: str) -> None:
        """Put off audio of a session from now on, while it is being sealed."""
        self._frozen.add(session_id)

    def thaw(self, session_id: str) -> None:
        """Look at the session anew when its next audio comes."""
        self._frozen.discard(session_id)
        self._permits.pop(session_id, None)

    async def handle(self, batch: Sequence[Chunk]) -> None:
        """Store chunks; when this returns, they are on the disk.

        Raises:
            Retry: the broker, the database or the disk fails now, or a session is being sealed; it names the chunks
                that have to wait if others needn't.
            Drop: one of them can't belong to its session.
        """
        self._behind = len(batch) >= self._max_batch
        try:
            storable, untold = await self._sorted(batch)
        except BrokerUnavailable as error:
            self._behind = True
            _log.warning("audio_not_stored", code=error.code, chunks=len(batch), again_in_s=AWAY_RETRY_S)
            raise Retry(AWAY_RETRY_S) from error
        frozen = [chunk for chunk in storable if chunk.session_id in self._frozen]
        storable = [chunk for chunk in storable if chunk.session_id not in self._frozen]
        if storable:
            await self._write(storable)
            for track in TRACKS:
                self._chunks.inc(sum(chunk.note.track == track for chunk in storable), track=track)
            self._bytes.inc(sum(len(chunk.pcm) for chunk in storable))
            self._open_files.set(self._parts.open_files)
        if untold:
            self._behind = True
            wait_s = self._put_off.wait_s(len(untold), asyncio.get_running_loop().time())
            _log.warning("audio_not_stored", code=DatabaseUnavailable.code, chunks=len(untold), again_in_s=wait_s)
            raise Retry(wait_s, only=[*untold, *frozen])
        if frozen:
            raise Retry(FROZEN_RETRY_S, only=frozen)

    async def _sorted(self, batch: Sequence[Chunk]) -> tuple[list[Chunk], list[Chunk]]:
        """Return what of a batch is to be stored, and what only PostgreSQL could tell of, which is away.

        Sessions that were erased take no audio; so only of sessions that take none (any more) it is asked why.

        Raises:
            Drop: one of them can't belong to its session.
            BrokerUnavailable: the ledger can't be asked.
        """
        permits: list[tuple[Chunk, Permit]] = []
        untold: list[Chunk] = []
        for chunk in batch:
            try:
                permits.append((chunk, await self._permit_or_refusal(chunk)))
            except DatabaseUnavailable:
                untold.append(chunk)
        if refusing := [chunk for chunk, permit in permits if permit.refused is not None]:
            try:
                erased = await self._store.erased([chunk.session_id for chunk in refusing])
                unwanted = erased | await self._copied(chunk for chunk in refusing if chunk.session_id not in erased)
            except DatabaseUnavailable:
                untold += refusing
                permits = [(chunk, permit) for chunk, permit in permits if permit.refused is None]
            else:
                permits = [(chunk, permit) for chunk, permit in permits if chunk.session_id not in unwanted]
        for chunk, permit in permits:
            _check(chunk, permit)
        return [chunk for chunk, permit in permits if not permit.off], untold

    async def _copied(self, refused: Iterable[Chunk]) -> set[str]:
        """Return the sessions of which there is no audio left in the stream: what came of them are copies.

        A copy is a chunk that was delivered again while it was being stored, and came behind its own acknowledgement.
        Its audio is in the recording, nobody has to hear of it.
        """
        tenants = {chunk.session_id: chunk.tenant for chunk in refused}
        subject = subjects.SESSION_AUDIO.wildcard
        return {
            session_id
            for session_id, tenant in tenants.items()
            if not await self._broker.count(STREAM, subject(tenant=tenant, session_id=session_id))
        }

    async def _permit_or_refusal(self, chunk: Chunk) -> Permit:
        try:
            return await self._permit(chunk)
        except Drop as drop:
            return Permit(refused=drop.reason)

    async def _write(self, batch: Sequence[Chunk]) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            await loop.run_in_executor(self._writing, self._parts.write, batch)
        except OSError as error:
            # A full disk or one that is away: the broker keeps the audio (for two days) until it is back.
            self._behind = True
            said = self._troubles.failed(LIVE_AUDIO, error)
            _log.error("audio_not_written", error=said, chunks=len(batch), again_in_s=AWAY_RETRY_S)
            raise Retry(AWAY_RETRY_S) from error
        self._troubles.worked(LIVE_AUDIO)
        self._write_s.observe(loop.time() - began)

    async def _permit(self, chunk: Chunk) -> Permit:
        permit = self._permits.get(chunk.session_id)
        if permit is None:
            if (chunk.tenant, chunk.session_id) in self._untold:
                self._require_database()
            permit = await self._look_up(chunk.tenant, chunk.session_id)
            self._permits[chunk.session_id] = permit
            while len(self._permits) > MAX_PERMITS:
                self._permits.popitem(last=False)
        return permit

    async def _look_up(self, tenant: str, session_id: str) -> Permit:
        try:
            entry = await self._ledger.last(tenant, session_id)
        except LedgerCorrupt:
            entry = None  # garbage in its place, which will be parked; what was stored before it still holds
        if entry is not None and not entry.session.ended:
            return _permit_of(entry.session)
        try:
            stored = await self._stored(session_id)
        except DatabaseUnavailable:
            if entry is not None and len(self._untold) < MAX_PERMITS:
                self._untold.add((tenant, session_id))
            raise
        if stored is not None and stored.sealed:
            return Permit(refused="the recording is sealed")
        known = entry or stored
        if known is None:
            subject = subjects.SESSION_LIFECYCLE.format(tenant=tenant, session_id=session_id)
            # In a cluster any server answers that, also one that is behind; what isn't there the stream's leader says.
            if await self._broker.count(SESSIONS, subject):
                raise BrokerUnavailable("the server that answers is behind")
        if known is None or known.session.tenant != tenant:
            raise Drop("there is no such session")
        return _permit_of(known.session)

    async def _stored(self, session_id: str) -> AudioPermit | None:
        """Return what PostgreSQL knows of a session; while it is away, it is asked once in a while, not for each."""
        self._require_database()
        try:
            stored = (await self._store.audio_permits([session_id])).get(session_id)
        except DatabaseUnavailable:
            self._ask_at = asyncio.get_running_loop().time() + AWAY_RETRY_S
            raise
        self._untold.clear()
        self._put_off.over()
        return stored

    def _require_database(self) -> None:
        if asyncio.get_running_loop().time() < self._ask_at:
            raise DatabaseUnavailable("PostgreSQL was away just now")


def _permit_of(session: Session) -> Permit:
    limits = session.limits
    longest_s = (
        limits.start_timeout_s + limits.join_timeout_s + limits.max_duration_s + limits.end_timeout_s + DURATION_SLACK_S
    )
    return Permit(
        off=session.recording.off,
        max_samples=int(longest_s * RATE_HZ),
        earliest_origin_ns=int((session.requested_at + EARLIEST_ORIGIN).timestamp() * NS),
        latest_origin_ns=int((session.requested_at + LATEST_ORIGIN).timestamp() * NS),
    )


def _check(chunk: Chunk, permit: Permit) -> None:
    """Raise `Drop` for what can't belong to the session."""
    if permit.refused is not None:
        raise Drop(permit.refused)
    end = chunk.note.position + chunk.note.samples
    if end > permit.max_samples:
        raise Drop(f"it ends at sample {end}, the session may have {permit.max_samples}")
    if not permit.earliest_origin_ns <= chunk.note.origin_ns <= permit.latest_origin_ns:
        raise Drop(f"{AudioHeader.ORIGIN_NS} isn't a time near the session's request")
