"""The recorder put together: all of its instances store what happens; one leads, and stores and seals audio."""

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Final

import structlog

from greenroom.common import topology_admin
from greenroom.common.envelope import Keys
from greenroom.common.errors import GreenroomError
from greenroom.common.leadership import Leadership
from greenroom.common.ledger import STREAM as SESSIONS
from greenroom.common.ledger import Ledger
from greenroom.common.metrics import Metrics
from greenroom.common.nats_broker import NatsBroker
from greenroom.common.objects import open_bucket
from greenroom.common.tenant_keys import open_keys
from greenroom.recorder import audio, ingest, migrate, side_work
from greenroom.recorder.audio import AudioIngest
from greenroom.recorder.backlog import Watch, backlog
from greenroom.recorder.database import Pool
from greenroom.recorder.endings import Endings
from greenroom.recorder.events_first import EventsFirst
from greenroom.recorder.ingest import Ingest
from greenroom.recorder.missing import MissingAudio
from greenroom.recorder.multipart import uploads_to
from greenroom.recorder.partitions import Partitions
from greenroom.recorder.parts import Parts
from greenroom.recorder.purge import Purger
from greenroom.recorder.reconcile import Reconciler
from greenroom.recorder.retention.daily import Daily
from greenroom.recorder.retention.eraser import Eraser
from greenroom.recorder.retention.recordings import BucketRecordings, LocalRecordings
from greenroom.recorder.retention.store import RetentionStore
from greenroom.recorder.retention.times import parse_at, parse_zone
from greenroom.recorder.seal import Sealer
from greenroom.recorder.settings import RecorderSettings
from greenroom.recorder.storage import Bucket, Folder
from greenroom.recorder.store import Store
from greenroom.recorder.transcripts import Transcriber
from greenroom.recorder.troubles import Troubles
from greenroom.recorder.usage.keeper import UsageKeeper

_log = structlog.get_logger()

LEADERSHIP: Final = "recorder"
# Live audio, among the folders of the tenants; no tenant's name has a dot.
PARTS_DIR: Final = ".parts"
TOPOLOGY_RETRY_S: Final = 0.5


class Recorder:
    """Everything the service does.

    Args:
        broker: streams, consumers, leadership.
        pool: connections to PostgreSQL.
        settings: parsed.
        metrics: of the process.
    """

    def __init__(self, *, broker: NatsBroker, pool: Pool, settings: RecorderSettings, metrics: Metrics) -> None:
        self._broker = broker
        self._settings = settings
        self._metrics = metrics
        self._topology_seen = False
        self._schema_seen = False
        self._leadership = Leadership(broker, LEADERSHIP, settings.instance_id)
        self._leads = metrics.gauge("recorder_leads", "Whether this instance leads, and has the audio (1), or not (0)")

        recordings_dir = Path(settings.recordings_dir).absolute()
        bucket = open_bucket(settings.recordings_url) if settings.recordings_url else None
        uploads = uploads_to(settings.recordings_url, os.environ) if settings.recordings_url else None
        self._store = Store(pool)
        self.troubles: Final = Troubles(metrics)
        self._parts = Parts(recordings_dir / PARTS_DIR, max_open=settings.max_open_parts)
        self._audio = AudioIngest(
            broker=broker,
            ledger=Ledger(broker),
            store=self._store,
            parts=self._parts,
            metrics=metrics,
            max_batch=settings.audio_batch,
            troubles=self.troubles,
        )
        self._sealer = Sealer(
            broker=broker,
            store=self._store,
            parts=self._parts,
            audio=self._audio,
            storage=Bucket(bucket, uploads) if bucket is not None else Folder(recordings_dir),
            metrics=metrics,
            at_once=settings.seal_at_once,
            form=settings.recording_format,
            layout=settings.recording_layout,
            keys=_keys(settings),
            troubles=self.troubles,
        )
        self._missing = MissingAudio(
            broker=broker,
            store=self._store,
            parts=self._parts,
            after_s=settings.recording_missing_s,
            metrics=metrics,
        )
        self._ingest = Ingest(
            broker=broker,
            store=self._store,
            on_ended=self._sealer.notice,
            metrics=metrics,
            max_batch=settings.event_batch,
            max_batch_bytes=settings.event_batch_bytes,
        )
        self._endings = Endings(self._store, self._sealer.notice)
        self._partitions = Partitions(pool, metrics)
        self._reconciler = Reconciler(
            broker=broker,
            pool=pool,
            settled_to=self._settled_to,
            handle=self._ingest.handle,
            metrics=metrics,
            max_batch=settings.event_batch,
        )
        self._purger = Purger(
            broker=broker,
            store=self._store,
            settled_to=self._settled_to,
            grace_s=settings.purge_grace_s,
            metrics=metrics,
        )
        retained = RetentionStore(pool)
        self._eraser = Eraser(
            broker=broker,
            store=retained,
            recordings=BucketRecordings(bucket) if bucket is not None else LocalRecordings(recordings_dir),
            parts=self._parts,
            audio=self._audio,
            settled_to=self._settled_to,
            metrics=metrics,
        )
        self._daily = Daily(
            store=retained,
            eraser=self._eraser,
            at=parse_at(settings.retention_at),
            zone=parse_zone(settings.retention_zone),
            metrics=metrics,
        )
        events_first = EventsFirst(lambda: self._ingest.behind)
        self._transcriber = Transcriber(pool, metrics, events_first=events_first)
        self._usage = UsageKeeper(
            pool=pool,
            broker=broker,
            metrics=metrics,
            interval_s=settings.budget_interval_s,
            events_first=events_first,
        )
        consumers = {
            (SESSIONS, ingest.CONSUMER): self._ingest.consumer.counts,
            (audio.STREAM, audio.CONSUMER): self._audio.consumer.counts,
        }
        self._watch = Watch(broker, consumers, metrics)

    @property
    def leading(self) -> bool:
        """Whether this instance stores and seals audio, and does what one must do for all."""
        return self._leadership.leading

    async def run(self) -> None:
        """Store what happens, and lead or stand by, until canceled; waits for the topology to be applied."""
        try:
            while (reason := await self.check_topology()) is not None:
                _log.warning("topology_awaited", code=reason)
                await asyncio.sleep(TOPOLOGY_RETRY_S)
            async with asyncio.TaskGroup() as tasks:
                if "keep" in self._settings.recorder_work:
                    tasks.create_task(self._ingest.run(), name="ingest")
                    tasks.create_task(self._watch.run(), name="watch")
                    tasks.create_task(self._leadership.run(self._lead), name="leadership")
                work = side_work.run(broker=self._broker, settings=self._settings, metrics=self._metrics)
                tasks.create_task(work, name="side-work")
        finally:
            self._audio.shutdown()
            self._parts.shutdown()

    async def check_postgres(self) -> str | None:
        """Return None when the database answers and has our schema, else why not."""
        await self._store.ping()
        if not self._schema_seen:
            files = await migrate.status(self._settings.database_url, timeout_s=0)
            self._schema_seen = all(file.applied_at is not None for file in files)
        return None if self._schema_seen else "schema-not-migrated"

    def check_broker(self) -> str | None:
        """Return None while the broker can be reached, else why not."""
        return None if self._broker.connected else "broker-unavailable"

    async def check_topology(self) -> str | None:
        """Return None once streams and consumers have been seen as they should be, else why not."""
        if not self._topology_seen:
            try:
                await topology_admin.check(self._broker)
            except GreenroomError as error:
                return error.code
            self._topology_seen = True
        return None

    async def _lead(self) -> None:
        self._leads.set(1)
        try:
            # Before anything is sealed: the leader before may have been cut off with its host.
            await self._audio.recover()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._sealer.run(), name="sealer")
                tasks.create_task(self._endings.run(), name="endings")
                tasks.create_task(self._audio.run(), name="audio")
                tasks.create_task(self._audio.checkpoints(), name="checkpoints")
                tasks.create_task(self._purger.run(), name="purger")
                tasks.create_task(self._partitions.run(), name="partitions")
                tasks.create_task(self._reconciler.run(), name="reconciler")
                tasks.create_task(self._eraser.run(), name="eraser")
                tasks.create_task(self._daily.run(), name="retention")
                tasks.create_task(self._transcriber.run(), name="transcriber")
                tasks.create_task(self._usage.run(), name="usage")
                tasks.create_task(self._missing.run(), name="missing-audio")
        finally:
            self._leads.set(0)
            # The next leader writes to the same files: nothing of ours stays open, or to be done.
            self._parts.close()
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self._parts.checkpoint)

    async def _settled_to(self) -> int:
        return (await backlog(self._broker, SESSIONS, ingest.CONSUMER)).settled_to


def _keys(settings: RecorderSettings) -> Keys | None:
    return open_keys(
        settings.recording_keys_dir,
        settings.recording_keys,
        os.environ,
        required=settings.recording_keys_required,
    )
