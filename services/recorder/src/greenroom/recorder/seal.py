"""Seals the recordings of sessions that have ended, however they ended, and finishes what a crash left half done.

The order makes each step repeatable: the files, the row, the event `recording_saved`, the mark on the session, and
last of all the parts are removed. Whoever finds a session without the mark starts over and comes to the same files,
the same row and the same event. A session without audio gets the mark and nothing else.
"""

import asyncio
import contextlib
import time
from contextlib import AbstractContextManager
from typing import Final

import msgspec
import structlog

from greenroom.common import messages, subjects, telemetry
from greenroom.common.broker import Broker, WrongLastSequence
from greenroom.common.clock import utcnow
from greenroom.common.envelope import Keys
from greenroom.common.errors import DatabaseUnavailable, GreenroomError
from greenroom.common.ids import derived_id
from greenroom.common.lifecycle import Outcome, Session
from greenroom.common.messages import Event, EventType
from greenroom.common.metrics import Metrics
from greenroom.common.objects import StorageUnavailable
from greenroom.common.recordings import Format, Layout
from greenroom.recorder.audio import RATE_HZ, AudioIngest
from greenroom.recorder.parts import Parts
from greenroom.recorder.recording import FORMAT, LAYOUT, Manifest, write_recording
from greenroom.recorder.storage import Storage
from greenroom.recorder.store import RecordingRow, Store
from greenroom.recorder.troubles import SEALING, Troubles
from greenroom.recorder.unstored import Unstored

_log = structlog.get_logger()

# Audio is published before its end: this is for what is still on its way from one stream or the other.
SETTLE_S: Final = 0.5
# Where the process died, what it had sent may come late.
SETTLE_AFTER_CRASH_S: Final = 1.5
_CRASHES: Final = frozenset({Outcome.FAILED, Outcome.LOST})
AUDIO_POLL_S: Final = 0.25
# What can't be stored although everything else is: for so long, counted from when the disk last refused audio, or more
# waited than could be stored at once. (What a killed recorder had in its hands is delivered again after 10 s.) What
# isn't stored by then is left out, and parked, should it come after all.
AUDIO_DEADLINE_S: Final = 600.0
# How often PostgreSQL is asked for sessions that nobody told us of, or whose sealing failed.
SCAN_S: Final = 10.0
SCAN_LIMIT: Final = 1000


class Sealer:
    """Seals recordings; each session in a task of its own, a few at a time.

    Args:
        broker: knows whether audio is left, and takes `recording_saved`.
        store: rows and marks.
        parts: the audio.
        audio: is stopped from adding to what is being sealed.
        storage: where recordings are kept.
        form: of recordings whose agent has no other.
        layout: the same.
        keys: what recordings are encrypted with; None: they aren't.
        metrics: recordings by result, and how long sealing took.
        at_once: recordings written at the same time.
        troubles: is told whether recordings can be written.
    """

    def __init__(
        self,
        *,
        broker: Broker,
        store: Store,
        parts: Parts,
        audio: AudioIngest,
        storage: Storage,
        metrics: Metrics,
        at_once: int,
        form: Format = FORMAT,
        layout: Layout = LAYOUT,
        keys: Keys | None = None,
        troubles: Troubles | None = None,
    ) -> None:
        self._troubles = troubles or Troubles()
        self._broker = broker
        self._unstored = Unstored(broker)
        self._store = store
        self._parts = parts
        self._audio = audio
        self._storage = storage
        self._form: Format = form
        self._layout: Layout = layout
        self._keys = keys
        self._writing = asyncio.Semaphore(at_once)
        self._tasks: asyncio.TaskGroup | None = None
        self._active: set[str] = set()
        self._results = metrics.counter("recorder_recordings", "Sessions sealed", ["result"])
        self._seal_s = metrics.histogram("recorder_seal_seconds", "How long it took to write a recording")

    async def run(self) -> None:
        """Seal until canceled; begins with what others left."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                while True:
                    await self._scan()
                    await asyncio.sleep(SCAN_S)
        finally:
            self._tasks = None
            self._active.clear()

    def notice(self, session: Session) -> None:
        """Seal a session whose end is stored, as soon as its audio is complete.

        Never blocks; with a thousand sessions under way, or when not running, the next scan finds it.
        """
        if self._tasks is None or session.id in self._active or len(self._active) >= SCAN_LIMIT:
            return
        self._active.add(session.id)
        self._tasks.create_task(self._seal_in_time(session), name=f"seal-{session.id}")

    async def _scan(self) -> None:
        """Find sessions to seal that nobody told us of, and parts that were left behind the end of their sealing."""
        try:
            for session in await self._store.unsealed(besides=self._active, limit=SCAN_LIMIT):
                self.notice(session)
            there = set(await asyncio.to_thread(self._parts.sessions))
            for session_id in await self._store.sealed(there - self._active):
                await asyncio.to_thread(self._parts.remove, session_id)
        except (DatabaseUnavailable, OSError) as error:
            _log.warning("scan_failed", error=type(error).__name__, again_in_s=SCAN_S)

    async def _seal_in_time(self, session: Session) -> None:
        try:
            await self._wait_for_audio(session)
            await self._seal(session)
        except (GreenroomError, OSError) as error:
            self._results.inc(result="failed")
            code = error.code if isinstance(error, GreenroomError) else type(error).__name__
            if isinstance(error, OSError | StorageUnavailable):
                code = self._troubles.failed(SEALING, error)
            _log.warning("recording_not_sealed", session_id=session.id, error=code, again_in_s=SCAN_S)
        except Exception:  # noqa: BLE001 whatever it is about this one session, the others must not suffer from it
            _log.exception("recording_not_sealed", session_id=session.id, again_in_s=SCAN_S)
            self._results.inc(result="failed")
        finally:
            self._audio.thaw(session.id)
            self._active.discard(session.id)

    async def _wait_for_audio(self, session: Session) -> None:
        """Return when all audio is stored (or given up) and no more is taken."""
        deadline = time.monotonic() + AUDIO_DEADLINE_S
        await asyncio.sleep(SETTLE_AFTER_CRASH_S if session.outcome in _CRASHES else SETTLE_S)
        while left := await self._audio_left(session):
            if self._audio.behind:
                deadline = time.monotonic() + AUDIO_DEADLINE_S
            if time.monotonic() >= deadline:
                _log.warning("audio_given_up", session_id=session.id, messages=left, after_s=AUDIO_DEADLINE_S)
                self._audio.freeze(session.id)
                return
            await asyncio.sleep(AUDIO_POLL_S)

    async def _audio_left(self, session: Session) -> int:
        """Return how much audio isn't stored yet; 0 means that none is under way either, and none is taken any more."""
        if left := await self._unstored.count(session):
            return left
        # What came since the count may be on its way to the disk: then it isn't acknowledged yet, and is counted now.
        self._audio.freeze(session.id)
        if left := await self._unstored.count(session):
            self._audio.thaw(session.id)
        return left

    async def _seal(self, session: Session) -> None:
        manifest = None
        if self._parts.exist(session.id):
            async with self._writing:
                manifest = await self._save(session)
        await self._store.mark_sealed(session.id)
        if self._parts.exist(session.id):
            await asyncio.to_thread(self._parts.remove, session.id)
        self._results.inc(result="saved" if manifest else "no_audio")
        if manifest is None:
            _log.info("session_without_audio", session_id=session.id, tenant=session.tenant)
            return
        _log.info(
            "recording_saved",
            session_id=session.id,
            tenant=session.tenant,
            path=manifest.path,
            duration_s=manifest.duration_s,
            gaps=len(manifest.gaps),
        )

    async def _save(self, session: Session) -> Manifest | None:
        began = time.monotonic()
        with _span(session):
            manifest = await asyncio.to_thread(
                write_recording,
                session,
                self._parts,
                self._storage,
                rate=RATE_HZ,
                form=self._form,
                layout=self._layout,
                keys=self._keys,
            )
            if manifest is not None:
                self._troubles.worked(SEALING)
                await self._store.save_recording(_row(manifest))
                await self._publish(session, manifest)
                self._seal_s.observe(time.monotonic() - began)
        return manifest

    async def _publish(self, session: Session, manifest: Manifest) -> None:
        event = Event(
            id=derived_id(session.id, EventType.RECORDING_SAVED),
            tenant=session.tenant,
            session_id=session.id,
            type=EventType.RECORDING_SAVED,
            at=utcnow(),
            epoch=session.epoch,
            source="recorder",
            data={
                "path": manifest.path,
                "format": manifest.format,
                "layout": manifest.layout,
                "files": [file.path for file in manifest.files],
                "duration_s": manifest.duration_s,
                "channels": len(manifest.channels),
                "rate": manifest.rate,
                "bytes": manifest.bytes,
                "sha256": manifest.sha256,
                "gaps": msgspec.to_builtins(manifest.gaps),
            },
        )
        subject = subjects.SESSION_EVENT.format(tenant=session.tenant, session_id=session.id, type=event.type)
        # Written once, however often and however late this is tried again: the duplicate window of the stream alone
        # would do for two minutes. (Whoever was first wrote the same.)
        with contextlib.suppress(WrongLastSequence):
            await self._broker.append(
                subject, messages.encode(event), msg_id=event.id, expected_last=0, headers=telemetry.inject()
            )


def _span(session: Session) -> AbstractContextManager[object]:
    if session.traceparent is None:
        return contextlib.nullcontext()
    return telemetry.session_span(
        "recording.seal", session_id=session.id, tenant=session.tenant, traceparent=session.traceparent
    )


def _row(manifest: Manifest) -> RecordingRow:
    return RecordingRow(
        session_id=manifest.session_id,
        tenant=manifest.tenant,
        path=manifest.path,
        format=manifest.format,
        duration_s=manifest.duration_s,
        channels=len(manifest.channels),
        rate=manifest.rate,
        bytes=manifest.bytes,
        sha256=manifest.sha256,
        gaps=manifest.gaps,
        manifest=manifest,
    )
