"""How a runner tells of itself: each second, and soon after something has changed.

Who a runner is stays the same for as long as its process runs; how it is, is asked of it for each heartbeat.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from importlib import metadata
from typing import Any, Final

import msgspec

from greenroom.common import subjects
from greenroom.common.broker import Broker
from greenroom.common.clock import Clock
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.messages import Heartbeat, encode
from greenroom.runner.settings import RunnerSettings

HEARTBEAT_S: Final = 1.0
# Changes within this time of a heartbeat go into one.
COALESCE_S: Final = 0.05


class Heartbeats:
    """The heartbeats of one runner.

    Args:
        settings: say who it is.
        broker: takes them.
        clock: time.
        in_a_hurry: tells whether a start is under way, which the runner has to see to.
    """

    def __init__(
        self, settings: RunnerSettings, *, broker: Broker, clock: Clock, in_a_hurry: Callable[[], bool]
    ) -> None:
        self._subject = subjects.RUNNER_HEARTBEAT.format(pool=settings.pool, runner_id=settings.runner_id)
        self._broker = broker
        self._clock = clock
        self._in_a_hurry = in_a_hurry
        self._news = asyncio.Event()
        now = clock.now()
        self._count = 0
        self._who = Heartbeat(
            runner_id=settings.runner_id,
            pool=settings.pool,
            at=now,
            seq=0,
            slots=0,
            labels=settings.label_values,
            instance=settings.instance,
            ordinal=settings.ordinal,
            claim=settings.claimed.id if settings.claimed else None,
            host=socket.gethostname(),
            version=metadata.version("greenroom-runner"),
            started_at=now,
        )

    def changed(self) -> None:
        """Something is new: the next heartbeat comes soon."""
        self._news.set()

    def next(self, **now: Any) -> Heartbeat:
        """Return the next heartbeat; `now` are those of its fields that say how the runner is."""
        self._count += 1
        return msgspec.structs.replace(self._who, at=self._clock.now(), seq=self._count, **now)

    async def send(self, make: Callable[[], Heartbeat]) -> None:
        """Send heartbeats until canceled.

        Args:
            make: returns the next one.
        """
        while True:
            self._news.clear()
            with contextlib.suppress(BrokerUnavailable):
                await self._broker.publish(self._subject, encode(make()))
            await self._clock.sleep(COALESCE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S - COALESCE_S):
                    await self._news.wait()
                    if self._in_a_hurry():
                        # All schedulers and api instances hear it, who have a start to see to: it takes no longer.
                        await self._clock.sleep(COALESCE_S)
