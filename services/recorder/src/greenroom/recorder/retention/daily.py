"""The daily run: finds what is due by rules, and has it deleted.

A run that was missed, because nobody led or the database was away, is made up for as soon as somebody leads; several
missed ones are one. A run that is interrupted begins again: what it found is written down as it goes, and is deleted by
whoever leads next even if the rules change meanwhile (holds still count).
"""

from datetime import UTC, datetime, time
from typing import Final
from zoneinfo import ZoneInfo

import structlog

from greenroom.common import retention
from greenroom.common.clock import Clock, SystemClock
from greenroom.common.errors import DatabaseUnavailable, GreenroomError
from greenroom.common.metrics import Metrics
from greenroom.recorder.database import UnstorableRow
from greenroom.recorder.retention.eraser import Eraser
from greenroom.recorder.retention.store import RetentionStore, Run
from greenroom.recorder.retention.times import last_due

_log = structlog.get_logger()

# How often the clock is looked at; it may be set, and the machine may have slept.
LOOK_S: Final = 30.0
# Sessions looked at in one go, of which each may be due.
PAGE: Final = 1000
# A month's last sessions may go on for days, and events come late.
MONTHS_REST_DAYS: Final = 31
_BEGINNING: Final = datetime(1, 1, 1, tzinfo=UTC)


class Daily:
    """Runs once a day.

    Args:
        store: rules, sessions, and which runs are over.
        eraser: deletes.
        at: when, on the clocks of `zone`.
        zone: whose clocks.
        metrics: runs, and when the last one was.
        clock: time.
    """

    def __init__(
        self,
        *,
        store: RetentionStore,
        eraser: Eraser,
        at: time,
        zone: ZoneInfo,
        metrics: Metrics,
        clock: Clock | None = None,
    ) -> None:
        self._store = store
        self._eraser = eraser
        self._at = at
        self._zone = zone
        self._clock = clock or SystemClock()
        self._runs = metrics.counter("recorder_cleanups", "Daily runs by result", ["result"])
        self._last = metrics.gauge(
            "recorder_last_cleanup_timestamp_seconds", "When the last daily run was over, since 1970"
        )

    async def run(self) -> None:
        """Run each day until canceled."""
        while True:
            try:
                await self.catch_up()
            except (GreenroomError, UnstorableRow) as error:
                self._runs.inc(result="failed")
                code = error.code if isinstance(error, GreenroomError) else "unstorable"
                _log.warning("cleanup_failed", code=code, again_in_s=LOOK_S)
            await self._clock.sleep(LOOK_S)

    async def catch_up(self) -> Run | None:
        """Do the run that is due, if one is, and return what it deleted; None: none is.

        Raises:
            BrokerUnavailable, DatabaseUnavailable, TopologyMissing: it begins again the next time.
        """
        due_at = last_due(self._clock.now(), self._at, self._zone)
        last = await self._store.last_run()
        if last is not None and last >= due_at:
            return None
        await self._delete_due()
        await self._eraser.forget_late()
        await self._drop_months()
        run = await self._store.finish_run(due_at)
        if run is not None:
            self._runs.inc(result="completed")
            self._last.set(self._clock.now().timestamp())
            _log.info(
                "cleanup_completed",
                due_at=due_at.isoformat(),
                recordings=run.recordings,
                events=run.events,
                sessions=run.sessions,
            )
        return run

    async def _drop_months(self) -> None:
        """Give back the space of months whose events are all deleted."""
        try:
            dropped = await self._store.drop_empty_partitions(MONTHS_REST_DAYS)
        except DatabaseUnavailable:
            # Somebody has read or written for long: it can be done tomorrow just as well.
            _log.info("empty_months_not_dropped")
            return
        if dropped:
            _log.info("empty_months_dropped", names=dropped)

    async def _delete_due(self) -> None:
        rules, holds = await self._store.rules(), await self._store.holds()
        now = self._clock.now()
        until = retention.horizon(rules, now)
        after = (_BEGINNING, "")
        while until is not None:
            page = await self._store.ended(until, after, PAGE)
            due = [(found, what) for found in page for what in retention.due(found.kept, rules, holds, now)]
            if due:
                await self._store.wish(due)
            # Also what an interrupted run has left.
            while await self._eraser.round():
                pass
            if len(page) < PAGE:
                return
            after = (page[-1].kept.ended_at, page[-1].kept.session_id)
