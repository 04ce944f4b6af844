"""Lets the broker forget sessions that are stored and sealed, some time after their end.

The stream then holds live and recent sessions only, so a scheduler that starts cold reads little; and whoever
followed a session has had the time of grace to read its end from the stream.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from greenroom.common import subjects
from greenroom.common.broker import Broker
from greenroom.common.errors import GreenroomError
from greenroom.common.ledger import STREAM
from greenroom.common.metrics import Metrics
from greenroom.recorder.store import Store

_log = structlog.get_logger()

# Looked for this often in each time of grace, within these bounds.
ROUNDS_PER_GRACE: Final = 4
SHORTEST_ROUND_S: Final = 0.25
LONGEST_ROUND_S: Final = 15.0
# One purge takes 0.3 ms.
ROUND_LIMIT: Final = 1000


class Purger:
    """Purges sessions.

    Args:
        broker: what forgets.
        store: knows what is stored, and is told what was purged.
        settled_to: returns the stream sequence up to which every message of SESSIONS has been dealt with: nothing
            before it waits to be delivered again.
        grace_s: how long a session stays in the stream after its end, and after the last thing stored of it.
        metrics: sessions purged.
    """

    def __init__(
        self,
        *,
        broker: Broker,
        store: Store,
        settled_to: Callable[[], Awaitable[int]],
        grace_s: float,
        metrics: Metrics,
    ) -> None:
        self._broker = broker
        self._store = store
        self._settled_to = settled_to
        self._grace_s = grace_s
        self._round_s = min(max(grace_s / ROUNDS_PER_GRACE, SHORTEST_ROUND_S), LONGEST_ROUND_S)
        self._purged = metrics.counter("recorder_purged_sessions", "Sessions that the broker has forgotten")

    async def run(self) -> None:
        """Purge until canceled."""
        while True:
            try:
                await self.purge()
            except GreenroomError as error:
                _log.warning("purge_failed", code=error.code, again_in_s=self._round_s)
            await asyncio.sleep(self._round_s)

    async def purge(self) -> int:
        """Purge what is due and return how many sessions that were.

        Raises:
            BrokerUnavailable, DatabaseUnavailable: the rest is purged in the next round.
        """
        # Asked first: what is stored later than this answer isn't purged by it.
        settled = await self._settled_to()
        done = 0
        for due in await self._store.purgeable(grace_s=self._grace_s, limit=ROUND_LIMIT):
            if due.stream_seq > settled:
                continue
            everything = subjects.SESSION_ALL.wildcard(tenant=due.tenant, session_id=due.session_id)
            await self._broker.purge(STREAM, everything, up_to=due.stream_seq)
            await self._store.mark_purged(due)
            done += 1
        if done:
            self._purged.inc(done)
            _log.info("sessions_purged", sessions=done)
        return done
