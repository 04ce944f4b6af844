"""One of the schedulers: the real picture, board and keeper of the pools, fed by the virtual ledger and runners.

All of them follow; one leads (`leader.py`).
"""

import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any, cast

from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, Message, RequestTimeout
from greenroom.common.ledger import Entry
from greenroom.common.lifecycle import Session
from greenroom.common.messages import Decision, Done, Heartbeat
from greenroom.devtools.sim.clockwork import Clockwork
from greenroom.devtools.sim.hearing import HearingFleet
from greenroom.devtools.sim.measure import Measure
from greenroom.devtools.sim.scenario import Scenario
from greenroom.scheduler.board import Board
from greenroom.scheduler.decisions import Decisions
from greenroom.scheduler.fleet import RunnerKey
from greenroom.scheduler.keeper import Keeper
from greenroom.scheduler.launchers.base import Launcher
from greenroom.scheduler.picture import Picture

# Tells a runner to drain; False: it can't be reached.
type DrainRunner = Callable[[RunnerKey], bool]


class Follower:
    """See the module.

    Args:
        scenario: has the policy and how patient the scheduler is.
        clock: virtual time.
        launcher: of runners.
        measure: of what is decided about pools.
        drain: see `DrainRunner`.

    Attributes:
        picture: what it knows.
        keeper: of the pools.
    """

    def __init__(
        self, scenario: Scenario, clock: Clockwork, launcher: Launcher, measure: Measure, drain: DrainRunner
    ) -> None:
        self._clock = clock
        self._fleet = HearingFleet(clock)
        self.picture = Picture(limits=scenario.scheduler)
        # The picture's own, of which the runners needn't speak each second.
        self.picture.fleet = self._fleet
        self.picture.board = Board(self._fleet, scenario.scheduler)
        self.picture.policy_changed(scenario.policy)
        self.keeper = Keeper(
            cast("Broker", _Wire(drain)),  # that is all that a keeper does with it
            launcher,
            self.picture,
            _Said(measure.pool_decisions),
            clock=_PatientClock(clock, scenario.look_s, measure),
            lost_s=scenario.scheduler.runner_lost_s,
        )

    def followed(self, before: Session | None, entry: Entry) -> bool:
        """Take in an entry of the ledger, and return whether there may be something to decide."""
        self.keeper.learned(entry, first=before is None)
        return self.picture.watched(entry, self._clock.now())

    def heard(self, heartbeat: Heartbeat) -> bool:
        """Take in a heartbeat, and return whether there may be something to decide."""
        return self.picture.heard(heartbeat, self._clock.now())

    def silenced(self, key: RunnerKey, heard_at: datetime) -> None:
        """Take in that a runner was heard then for the last time. What follows from that follows when it is missed."""
        if self._fleet.silenced(key, heard_at):
            self.picture.board.runner_changed(key)

    def ticked(self) -> None:
        """Take in that time has passed."""
        self.picture.ticked(self._clock.now(), connected=True)


class _Said(Decisions):
    """Counts what is decided about pools; what is decided about sessions the ledger has."""

    def __init__(self, counts: Counter[str]) -> None:
        self.policy_revision = 0
        self._counts = counts

    def on_pool(self, pool: str, decision: Decision) -> None:
        """Count a decision."""
        del pool
        self._counts[f"{decision.decision} {decision.reason}"] += 1

    def on_session(self, *arguments: Any, **more: Any) -> None:
        """Do nothing."""


class _Wire:
    """What the keeper reaches runners by: it tells them to drain, and nothing else."""

    def __init__(self, drain: DrainRunner) -> None:
        self._drain = drain

    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> Message:
        """Carry out a command.

        Raises:
            RequestTimeout: nobody can be reached there.
        """
        del data, timeout_s
        tokens = subjects.RUNNER_CMD.parse(subject)
        if tokens is None or not self._drain((tokens["pool"], tokens["runner_id"])):
            raise RequestTimeout(subject)
        return Message(subject=subject, data=messages.encode(Done()))


class _PatientClock:
    """The keeper's: it looks as often as the scenario says. Between two of its sleeps is one look."""

    def __init__(self, clock: Clockwork, look_s: float, measure: Measure) -> None:
        self._clock = clock
        self._look_s = look_s
        self._measure = measure
        self._began: float | None = None

    def now(self) -> datetime:
        """Return what the clocks show."""
        return self._clock.now()

    def monotonic(self) -> float:
        """Return seconds since the beginning."""
        return self._clock.monotonic()

    async def sleep(self, delay_s: float) -> None:
        """Wait until the next look."""
        if self._began is not None:
            self._measure.looked(time.perf_counter() - self._began)
        await self._clock.sleep(max(delay_s, self._look_s))
        self._began = time.perf_counter()
