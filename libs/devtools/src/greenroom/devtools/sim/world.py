"""A scenario, played from its beginning until the last session has ended."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final

import msgspec

from greenroom.common.lifecycle import Limits, Session, State
from greenroom.common.messages import Heartbeat
from greenroom.devtools.sim import arrivals
from greenroom.devtools.sim.calls import Answer, Calls
from greenroom.devtools.sim.clockwork import Clockwork
from greenroom.devtools.sim.faults import Fault, LeaderChange, Partition, RunnerLoss
from greenroom.devtools.sim.follower import Follower
from greenroom.devtools.sim.invariants import Invariants
from greenroom.devtools.sim.launcher import Launched, VirtualLauncher
from greenroom.devtools.sim.leader import Leader
from greenroom.devtools.sim.ledger import VirtualLedger
from greenroom.devtools.sim.measure import Effort, Measure, Moment, Summary
from greenroom.devtools.sim.runners import Runners, VirtualRunner
from greenroom.devtools.sim.scenario import Callers, Pool, Scenario
from greenroom.devtools.sim.spans import chance_of
from greenroom.scheduler.fleet import RunnerKey
from greenroom.scheduler.launchers.base import Launcher
from greenroom.scheduler.launchers.none import NoLauncher

_MOMENTS: Final = 600
# After the last caller: calls and waits of a day, and nobody has longer ones.
_LONGEST_END_S: Final = 86400.0

# Is told which share of the scenario is over, 0 to 1.
type Progress = Callable[[float], None]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it: figures that depend on the scenario and its seed alone, what it cost, and the course of it."""

    summary: Summary
    effort: Effort
    moments: list[Moment]


def simulate(scenario: Scenario, progress: Progress | None = None) -> Result:
    """Play a scenario.

    Args:
        scenario: which; nothing but it and its seed decides on the summary.
        progress: see `Progress`.

    Raises:
        InvariantBroken: the scheduler did what it must never do.
    """
    began = time.perf_counter()
    return asyncio.run(World(scenario, progress).play(began))


class World:
    """See the module.

    Args:
        scenario: is played.
        progress: see `Progress`.
    """

    def __init__(self, scenario: Scenario, progress: Progress | None = None) -> None:
        self._scenario = scenario
        self._progress = progress
        self._clock = clock = Clockwork(scenario.begins)
        self._instances: dict[str, VirtualRunner] = {}
        self._lengths: dict[str, float] = {}
        self._count = 0
        self.ledger = VirtualLedger(clock)
        self.runners = Runners(
            clock,
            heard=self._heard,
            silent=self._silenced,
            counted=self._counted,
        )
        self.measure = Measure(clock, self.runners.count, scenario.duration_s)
        self.invariants = Invariants(scenario.policy, self.ledger, self.runners)
        self.calls = Calls(
            clock,
            self.ledger,
            self.runners,
            chance_of(scenario.seed, "processes"),
            length_of=self._lengths.__getitem__,
            on_empty=self._emptied,
        )
        self._virtual = self._virtual_launcher()
        launcher: Launcher = self._virtual or NoLauncher()
        standbys = sum(isinstance(fault, LeaderChange) for fault in scenario.faults)
        self.leader = Leader(
            scenario.latency,
            clock,
            self.ledger,
            launcher,
            self.measure,
            start=self._asked_to_start,
            followers=[
                Follower(scenario, clock, launcher, self.measure, self._told_to_drain) for _ in range(standbys + 1)
            ],
        )
        self.ledger.followers += [self.measure.follow, self.invariants.follow, self.leader.follow]

    def _virtual_launcher(self) -> VirtualLauncher | None:
        spec = self._scenario.launcher
        if spec is None:
            return None
        chance = chance_of(self._scenario.seed, "launches")
        return VirtualLauncher(self._scenario, spec, self._clock, chance, up=self._came_up, down=self._told_to_end)

    async def play(self, began: float) -> Result:
        """Play it, and return what came of it.

        Args:
            began: when the real time began that counts, by `time.perf_counter`.

        Raises:
            InvariantBroken: see there.
        """
        scenario, clock = self._scenario, self._clock
        self.leader.begin()
        ordinals: Counter[str] = Counter()
        for pool in scenario.pools:
            for _ in range(pool.runners):
                self._first(pool, ordinals[pool.name])
                ordinals[pool.name] += 1
        for number, callers in enumerate(scenario.callers):
            lengths = chance_of(scenario.seed, f"lengths of {number}")
            times = arrivals.times(scenario, callers, chance_of(scenario.seed, f"arrivals of {number}"))
            self._next_call(callers, times, lambda callers=callers, chance=lengths: callers.length.draw(chance))
        for number, fault in enumerate(scenario.faults):
            self._appoint(number, fault)
        self._sample()
        clock.at(scenario.duration_s, self._close)
        try:
            await clock.run()
        finally:
            await self.leader.stop()
        self.invariants.check_end()
        summary = self.measure.summary(scenario.title, scenario.seed)
        effort = self.measure.effort(time.perf_counter() - began)
        return Result(summary=summary, effort=effort, moments=self.measure.moments)

    def _sample(self) -> None:
        clock, scenario = self._clock, self._scenario
        self.invariants.check(self.leader.picture.board.sessions, clock.now(), led_s=self.leader.led_s)
        self.measure.sample(self.leader.target)
        if self._progress is not None:
            self._progress(min(clock.now_s / scenario.duration_s, 1.0))
        clock.after(max(scenario.duration_s / _MOMENTS, 1.0), self._sample)

    def _close(self) -> None:
        """Stop when the last session has ended."""
        late = self._clock.now_s > self._scenario.duration_s + _LONGEST_END_S
        if not self.ledger.open or late:
            self._clock.stop()
        else:
            self._clock.after(1.0, self._close)

    # ------------------------------------------------------------------------ callers

    def _next_call(self, callers: Callers, times: Iterator[float], length: Callable[[], float]) -> None:
        at_s = next(times, None)
        if at_s is not None:
            self._clock.at(at_s, self._call, callers, times, length)

    def _call(self, callers: Callers, times: Iterator[float], length: Callable[[], float]) -> None:
        self._count += 1
        session_id, now = f"s{self._count:08d}", self._clock.now()
        # Drawn whatever becomes of it, so that two policies are compared with the same callers.
        self._lengths[session_id] = length()
        session = Session(
            id=session_id,
            tenant=callers.tenant,
            agent=callers.agent,
            bot=callers.bot,
            pool=callers.pool,
            limits=Limits(queue_timeout_s=callers.patience_s),
            on_loss=callers.on_loss,
            requires=callers.requires,
            prefers=callers.prefers,
            priority=callers.priority,
            accounts=callers.accounts,
            carrier=callers.carrier,
            requested_at=now,
            queue_deadline_at=now,
        )
        self.ledger.create(session)
        self._next_call(callers, times, length)

    # ------------------------------------------------------------------------ runners

    def _heard(self, heartbeat: Heartbeat) -> None:
        self.leader.heard(heartbeat)

    def _silenced(self, key: RunnerKey, heard_at: datetime) -> None:
        self.leader.silenced(key, heard_at)

    def _counted(self) -> None:
        self.measure.pass_time()

    def _first(self, pool: Pool, ordinal: int) -> None:
        """Have a runner up that was up before the beginning."""
        if self._virtual is not None:
            self._came_up(self._virtual.adopted(pool, ordinal))
        else:
            self.runners.came(VirtualRunner(f"{pool.name}-{ordinal:05d}", pool, self._clock.now()))

    def _came_up(self, launched: Launched) -> None:
        start = launched.start
        runner = VirtualRunner(
            start.runner_id if start else f"{launched.pool.name}-{launched.id}",
            launched.pool,
            self._clock.now(),
            instance=launched.id,
            ordinal=launched.ordinal,
            claim=start.launch_id if start else None,
        )
        self._instances[launched.id] = runner
        self.runners.came(runner)
        if start is not None:
            entry = self.ledger.open.get(start.session_id)
            current = entry is not None and (entry.session.state, entry.session.epoch) == (State.LEASED, start.epoch)
            if entry is None or not current or not self.calls.claim(runner, entry.session):
                self._leave(runner)

    def _leave(self, runner: VirtualRunner) -> None:
        self.runners.went(runner)
        self._instances.pop(runner.instance, None)
        if self._virtual is not None:
            self._virtual.left(runner.instance)

    def _emptied(self, runner: VirtualRunner) -> None:
        if runner.claim is not None:
            self._leave(runner)

    def _asked_to_start(self, key: RunnerKey, session: Session) -> Answer:
        return self.calls.start(self.runners.get(key), session)

    def _told_to_drain(self, key: RunnerKey) -> bool:
        runner = self.runners.get(key)
        if runner is None or runner.cut:
            return False
        runner.draining = True
        self.runners.beat(runner)
        return True

    def _told_to_end(self, instance_id: str) -> None:
        runner = self._instances.pop(instance_id, None)
        if runner is None or not runner.up:
            return
        for session_id in runner.held:
            raise self.invariants.broken(f"runner {runner.id} is ended with a call up", session_id)
        self.runners.went(runner)

    # ------------------------------------------------------------------------ faults

    def _appoint(self, number: int, fault: Fault) -> None:
        match fault:
            case RunnerLoss():
                self._clock.at(fault.at_s, self._lose, number, fault)
            case Partition():
                self._clock.at(fault.from_s, self._cut_off, number, fault)
            case LeaderChange():
                self._clock.at(fault.at_s, self.leader.die, fault.gap_s)
            case _:
                pass  # the launcher looks at the clock itself

    def _victims(self, number: int, pool: str, share: float) -> list[VirtualRunner]:
        runners = sorted(self.runners.of(pool), key=lambda runner: runner.id)
        return chance_of(self._scenario.seed, f"fault {number}").sample(runners, round(share * len(runners)))

    def _lose(self, number: int, fault: RunnerLoss) -> None:
        for runner in self._victims(number, fault.pool, fault.share):
            self.runners.went(runner)
            self._instances.pop(runner.instance, None)
            if self._virtual is not None:
                self._virtual.lost(runner.instance)
            elif fault.back_s is not None:
                self._clock.after(fault.back_s, self._come_back, runner)

    def _come_back(self, before: VirtualRunner) -> None:
        self.runners.came(VirtualRunner(before.id, before.pool, self._clock.now()))

    def _cut_off(self, number: int, fault: Partition) -> None:
        runners = self._victims(number, fault.pool, fault.share)
        for runner in runners:
            self.runners.cut_off(runner)
        self._clock.at(fault.to_s, self._heal, runners)

    def _heal(self, runners: list[VirtualRunner]) -> None:
        for runner in runners:
            if runner.up:
                self.calls.healed(runner)
