"""Carries out what is to be deleted; see the package for the order, and why it may be killed at any point."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from greenroom.common import subjects
from greenroom.common.broker import Broker
from greenroom.common.errors import GreenroomError
from greenroom.common.ledger import STREAM as SESSIONS
from greenroom.common.metrics import Metrics
from greenroom.common.retention import What
from greenroom.recorder.audio import AudioIngest
from greenroom.recorder.database import UnstorableRow
from greenroom.recorder.parts import Parts
from greenroom.recorder.retention import sweep
from greenroom.recorder.retention.recordings import RecordingFiles, RecordingOf
from greenroom.recorder.retention.store import RETENTION, Erasure, RetentionStore

_log = structlog.get_logger()

# One read of an index that has as many entries as there is to delete.
ROUND_S: Final = 1.0
# The streams that are read through are so once a round.
ROUND_LIMIT: Final = 200
# Parked messages are kept for 30 days.
LATE_DAYS: Final = 31
# A session ends and is sealed within seconds; a hold lasts; storage that fails is mended by somebody.
NOT_OVER_RETRY_S: Final = 1.0
NOT_PURGED_RETRY_S: Final = 60.0
HELD_RETRY_S: Final = 60.0
STORAGE_RETRY_S: Final = 30.0
AWAY_RETRY_S: Final = 2.0


class Eraser:
    """Deletes sessions, recordings and events.

    Args:
        broker: forgets.
        store: what is to be deleted, and the rows.
        recordings: sealed recordings.
        parts: live audio; of a sealed session there is some only if its sealing was interrupted.
        audio: is told to look at sessions anew.
        settled_to: returns the stream sequence up to which every message of SESSIONS has been dealt with.
        metrics: deletions by kind and by who asked.
    """

    def __init__(
        self,
        *,
        broker: Broker,
        store: RetentionStore,
        recordings: RecordingFiles,
        parts: Parts,
        audio: AudioIngest,
        settled_to: Callable[[], Awaitable[int]],
        metrics: Metrics,
    ) -> None:
        self._broker = broker
        self._store = store
        self._recordings = recordings
        self._parts = parts
        self._audio = audio
        self._settled_to = settled_to
        # The daily run does rounds of its own.
        self._one_at_a_time = asyncio.Lock()
        self._deleted = metrics.counter("recorder_deletions", "What was deleted for good", ["what", "by"])
        self._failed = metrics.counter("recorder_deletions_put_off", "Deletions that couldn't be done yet", ["why"])

    async def run(self) -> None:
        """Delete what is to be deleted until canceled."""
        while True:
            pause_s = ROUND_S
            try:
                while await self.round():
                    pass
            except (GreenroomError, UnstorableRow) as error:
                pause_s = AWAY_RETRY_S
                code = error.code if isinstance(error, GreenroomError) else "unstorable"
                _log.warning("deletions_failed", code=code, again_in_s=pause_s)
            await asyncio.sleep(pause_s)

    async def round(self) -> int:
        """Try what is due to be tried, and return how much of it was done or put off; 0: there was nothing.

        Raises:
            BrokerUnavailable, DatabaseUnavailable, TopologyMissing: the rest is done in the next round.
        """
        async with self._one_at_a_time:
            wishes = await self._store.open(ROUND_LIMIT)
            if wishes:
                await self._carry_out(wishes)
        return len(wishes)

    async def forget_late(self) -> None:
        """Have the broker forget what came of erased sessions and couldn't be read. Raises as `round`."""
        buried = await self._store.buried(LATE_DAYS)
        if buried and (late := await sweep.forget_late(self._broker, buried)):
            _log.info("late_messages_forgotten", messages=late)

    async def _carry_out(self, wishes: Sequence[Erasure]) -> None:
        begun = await self._begin(await self._ready(wishes))
        removed: dict[tuple[str, What], int] = {}
        for wish in begun:
            try:
                removed[wish.key] = await self._remove_files(wish)
            except (OSError, GreenroomError) as error:
                why = error.strerror if isinstance(error, OSError) else error.code
                _log.error("files_not_deleted", session_id=wish.session_id, error=why)
                await self._put_off(wish, "storage", STORAGE_RETRY_S)
        begun = [wish for wish in begun if wish.key in removed]
        if erased := [(wish.tenant, wish.session_id) for wish in begun if wish.what is What.SESSION]:
            await sweep.forget(self._broker, erased)
        # The rows lead to the rest, so they go last.
        for wish in begun:
            await self._finish(wish, removed[wish.key])

    async def _ready(self, wishes: Sequence[Erasure]) -> list[Erasure]:
        """Return those that needn't wait for anything, and put the others off."""
        ready = [wish for wish in wishes if wish.begun]
        new = [wish for wish in wishes if not wish.begun]
        settled = await self._settled_to()
        uncounted = await self._store.uncounted(wish.session_id for wish in new)
        for wish in new:
            if wish.session_id in uncounted:
                await self._put_off(wish, "not-counted", NOT_OVER_RETRY_S)
            elif (waiting := await self._waits_for(wish, settled)) is not None:
                await self._put_off(wish, *waiting)
            else:
                ready.append(wish)
        return ready

    async def _begin(self, ready: Sequence[Erasure]) -> list[Erasure]:
        """Pass the point of no return with those that aren't held, and return them."""
        if not ready:
            return []
        keys = await self._store.begin(ready, look_again_s=HELD_RETRY_S)
        begun = [wish for wish in ready if wish.key in keys]
        sessions = [wish.session_id for wish in begun if wish.what is What.SESSION]
        if sessions:
            await self._store.barrier()
        for session_id in sessions:
            self._audio.thaw(session_id)
        return begun

    async def _waits_for(self, wish: Erasure, settled: int) -> tuple[str, float] | None:
        """Return what a deletion that hasn't begun has to wait for, and when to look again; None: nothing."""
        if wish.known:
            if not wish.sealed:
                return "not-sealed", NOT_OVER_RETRY_S
            if wish.what is What.EVENTS and not wish.purged:
                # The purge goes by the last event that is stored.
                return "not-purged", NOT_PURGED_RETRY_S
            return None
        subject = subjects.SESSION_LIFECYCLE.format(tenant=wish.tenant, session_id=wish.session_id)
        last = await self._broker.last(SESSIONS, subject)
        if last is not None and last.stream_seq > settled:
            return "not-stored", NOT_OVER_RETRY_S
        # Nobody will store it any more: never asked for, parked, or its row is gone.
        return None

    async def _remove_files(self, wish: Erasure) -> int:
        if wish.what is What.EVENTS:
            return 0
        if wish.what is What.SESSION:
            # What was recorded lately is in the log too.
            await asyncio.to_thread(self._parts.checkpoint)
            await asyncio.to_thread(self._parts.remove, wish.session_id)
        recording = RecordingOf(tenant=wish.tenant, session_id=wish.session_id, day=wish.day, path=wish.path)
        return await self._recordings.remove(recording)

    async def _finish(self, wish: Erasure, files: int) -> None:
        if not await self._store.finish(wish, files=files):
            return
        by = RETENTION if wish.requested_by == RETENTION else "request"
        self._deleted.inc(what=wish.what.value, by=by)
        if by == "request":
            _log.info("session_erased", session_id=wish.session_id, tenant=wish.tenant, by=wish.requested_by)

    async def _put_off(self, wish: Erasure, why: str, for_s: float) -> None:
        self._failed.inc(why=why)
        await self._store.put_off(wish, why, for_s)
