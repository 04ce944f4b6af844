"""Random histories of the whole scheduler: callers, runners, launcher, broker, policy and leaders, all of them faulty.

What must hold whatever happens is checked on the ledger, on the runners and on the launcher, and once everything is
mended again everybody must have come to an end.
"""

import math
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from greenroom.common.ledger import Entry, decode_entry
from greenroom.common.lifecycle import Leased, Limits, Session, State
from greenroom.common.policy import AtLimit, Limit, Policy, PoolPolicy, Scope
from greenroom.scheduler.launchers.base import LaunchRefused
from tests.support.scheduler_rig import Rig, RunningScheduler
from tests.support.scheduler_scenarios import play, refusing, silent
from tests.support.simulated_runner import SimulatedRunner, Whim
from tests.support.virtual_launcher import VirtualLauncher

type Fault = Literal["refuses", "away", "loses", "stuck", "crashes", "mute", "slow", "no size", "holds", "hangs"]

CALL_S = 1.5
COLD = PoolPolicy(name="default", cold_starts=2, cold_deadline_s=15.0)
WARM = PoolPolicy(
    name="default", cold_starts=1, cold_deadline_s=15.0, minimum=1, maximum=3, cooldown_s=5.0, idle_retire_s=10.0
)
POLICIES: dict[str, dict[str, Any]] = {
    "fixed": {},
    "cold": {"pools": (COLD,)},
    "warm": {"pools": (WARM,)},
    "three each": {"pools": (COLD,), "limits": (Limit(id="three", scope=Scope.TENANT, max_sessions=3),)},
    "two or go": {
        "pools": (COLD,),
        "limits": (Limit(id="two", scope=Scope.TENANT, max_sessions=2, at_limit=AtLimit.REFUSE),),
    },
}
FAULTS: tuple[Fault, ...] = (
    "refuses",
    "away",
    "loses",
    "stuck",
    "crashes",
    "mute",
    "slow",
    "no size",
    "holds",
    "hangs",
)
WHIMS: dict[str, Whim] = {
    "no-slot": refusing("no-slot"),
    "broken": refusing("bot-import-failed", times=3),
    "silent": silent,
    "willing": lambda _: None,
}
# A policy reaches the leader within this long, an outage of it included.
HEARD = timedelta(seconds=4)

STEPS = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.05, 0.4, 1.0, 3.5, 8.0])),
    st.tuples(st.just("request"), st.integers(1, 4), st.sampled_from("tu"), st.sampled_from([None, "room"])),
    st.tuples(st.just("stop"), st.integers(0, 30)),
    st.tuples(st.just("leader_goes"), st.sampled_from(["stopped", "crashed"])),
    st.tuples(st.just("cut"), st.sampled_from([0.3, 2.0, 4.0]), st.sampled_from(["leader", "all"])),
    st.tuples(st.just("policy"), st.sampled_from(sorted(POLICIES))),
    st.tuples(st.just("fault"), st.sampled_from(FAULTS), st.booleans()),
    st.tuples(st.just("runner"), st.integers(1, 2)),
    st.tuples(st.just("whim"), st.integers(0, 5), st.sampled_from(sorted(WHIMS))),
    st.tuples(st.just("drain"), st.integers(0, 5)),
    st.tuples(st.just("kill"), st.integers(0, 5)),
)


class World:
    """A rig with two schedulers, a launcher and whatever a history brings."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.launcher: VirtualLauncher = rig.virtual_launcher(
            delay_s=1.0, cold={"call_s": CALL_S}, baseline={"call_s": CALL_S}
        )
        self.sessions: list[Session] = []
        self.runners: list[SimulatedRunner] = []
        self.whims: dict[str, Whim] = {}
        self.decreed: list[tuple[datetime, Policy]] = []
        self._schedulers = 0

    async def begin(self) -> None:
        """Have two schedulers and a policy."""
        await self.policy("cold")
        for _ in range(2):
            await self.new_scheduler()

    async def new_scheduler(self) -> None:
        """Start one more, and let it read what there is."""
        self._schedulers += 1
        running = self.rig.scheduler(f"scheduler-{self._schedulers}")
        await running.scheduler.caught_up.wait()

    @property
    def leader(self) -> RunningScheduler | None:
        """The scheduler that leads, if one does."""
        alive = [each for each in self.rig.schedulers if not each.task.done()]
        return next((each for each in alive if each.scheduler.leading), None)

    async def step(self, kind: str, *arguments: Any) -> None:
        """Have something happen."""
        await getattr(self, kind)(*arguments)
        self.check_runners()

    # ------------------------------------------------------------------------ what happens

    async def wait(self, delay_s: float) -> None:
        """Let time pass."""
        await self.rig.clock.sleep(delay_s)

    async def request(self, count: int, tenant: str, room: str | None) -> None:
        """Ask for sessions."""
        patience = Limits(queue_timeout_s=40.0)
        for _ in range(count):
            self.sessions.append(await self.rig.request(tenant=tenant, room=room, limits=patience))

    async def stop(self, number: int) -> None:
        """Stop a session, whatever it is doing."""
        if number < len(self.sessions):
            await self.rig.stop(self.sessions[number])

    async def leader_goes(self, how: str) -> None:
        """Have the leader go, and another scheduler stand by."""
        leader = self.leader
        if leader is not None:
            await (leader.stop() if how == "stopped" else leader.crash())
            await self.new_scheduler()

    async def cut(self, span_s: float, whom: str) -> None:
        """Cut the leader off, or everybody."""
        leader = self.leader
        brokers = [leader.broker] if leader is not None else []
        if whom == "all":
            brokers = [each.broker for each in self.rig.schedulers if not each.task.done()]
            brokers += [each.broker for each in self.launcher.up]
        for broker in brokers:
            broker.connected = False
        await self.rig.clock.sleep(span_s)
        for broker in brokers:
            broker.connected = True

    async def policy(self, name: str) -> None:
        """Have operators decide otherwise."""
        self.decreed.append((self.rig.clock.now(), await self.rig.decree(**POLICIES[name])))

    async def fault(self, fault: Fault, on: bool) -> None:  # noqa: FBT001
        """Have the launcher fail in some way, or no more."""
        launcher = self.launcher
        no = LaunchRefused("no room", permanent=False, retry_after_s=2.0)
        controls: dict[Fault, tuple[str, Any, Any]] = {
            "refuses": ("refuses", no, None),
            "no size": ("refuses_count", no, None),
            "away": ("away", True, False),
            "loses": ("loses", 2, 0),
            "stuck": ("comes_up", False, True),
            "crashes": ("crashes", True, False),
            "mute": ("reports", False, True),
            "slow": ("delay_s", 20.0, 1.0),
            "holds": ("holds", "no capacity", None),
            "hangs": ("hangs", "after", "no"),
        }
        name, failing, working = controls[fault]
        setattr(launcher, name, failing if on else working)

    async def runner(self, slots: int) -> None:
        """Start a runner by hand."""
        name = f"r{len(self.runners)}"

        def whim(request: Any) -> Any:
            return self.whims.get(name, WHIMS["willing"])(request)

        self.runners.append(await self.rig.runner(name, slots=slots, call_s=CALL_S, whim=whim))

    async def whim(self, number: int, name: str) -> None:
        """Have a runner answer otherwise."""
        self.whims[f"r{number}"] = WHIMS[name]

    async def drain(self, number: int) -> None:
        """Have a runner take nothing new."""
        if number < len(self.runners):
            self.runners[number].draining = True

    async def kill(self, number: int) -> None:
        """Have a runner gone."""
        if number < len(self.runners):
            await self.runners[number].kill()

    # ------------------------------------------------------------------------ what must hold

    @property
    def everyone(self) -> list[SimulatedRunner]:
        """All runners there ever were."""
        return [*self.runners, *self.launcher.runners()]

    def check_runners(self) -> None:
        """Nobody runs on two runners at once."""
        held = Counter(session_id for runner in self.everyone for session_id in runner.held)
        assert not held or max(held.values()) == 1, held

    async def check_waiting(self) -> None:
        """Whoever waits has a place and a reason."""
        waiting = [each for each in self.sessions if (await self.rig.now(each)).state is State.REQUESTED]
        for each in waiting:
            position = await self.rig.position(each.id)
            assert position.reason
            assert position.position or "it is" in position.reason or "being launched for it" in position.reason

    def check_ledger(self) -> None:
        """No limit and no bound of launches was exceeded by any lease, and no epoch was granted or claimed twice."""
        stored = self.rig.server.stream("SESSIONS").messages.values()
        entries = [decode_entry(each) for each in stored if each.subject.endswith(".lifecycle")]
        active: dict[str, str] = {}
        launching: set[str] = set()
        granted: Counter[tuple[str, int]] = Counter()
        for entry in entries:
            session = entry.session
            launching.discard(session.id)
            if session.cold and session.state is State.LEASED:
                launching.add(session.id)
                assert len(launching) <= COLD.cold_starts, f"{len(launching)} launches in flight at {entry.at}"
            if session.state in {State.REQUESTED, State.ENDED}:
                active.pop(session.id, None)
                continue
            active[session.id] = session.tenant
            if isinstance(entry.transition, Leased):
                granted[session.id, session.epoch] += 1
                count = sum(tenant == session.tenant for tenant in active.values())
                assert count <= self.bound(entry), f"{count} of {session.tenant} at {entry.at}"
        assert not granted or max(granted.values()) == 1
        started = Counter(each for runner in self.everyone for each in runner.started)
        assert not started or max(started.values()) == 1
        assert started.keys() <= granted.keys()

    def bound(self, entry: Entry) -> float:
        """Return the largest limit that a lease may have been granted by."""
        before = [policy for at, policy in self.decreed if at <= entry.at - HEARD][-1:]
        recent = [policy for at, policy in self.decreed if entry.at - HEARD < at <= entry.at]
        bounds = [[each.max_sessions for each in policy.limits] for policy in (*before, *recent)]
        return max(min((each for each in row if each is not None), default=math.inf) for row in bounds)

    async def mend(self) -> None:
        """Mend everything, and see that everybody comes to an end and nothing is left over."""
        for fault in FAULTS:
            await self.fault(fault, on=False)
        self.whims.clear()
        await self.policy("cold")

        async def over() -> bool:
            states = [(await self.rig.now(each)).state for each in self.sessions]
            self.check_runners()
            return all(state is State.ENDED for state in states) and not self.launcher.cold

        await self.rig.until(over, within_s=300, every_s=0.5)
        await self.rig.clock.sleep(2)
        leader = self.leader
        assert leader is not None
        scheduler = leader.scheduler
        picture, keeper = scheduler._picture, scheduler._keeper
        left = [picture.sessions, picture._entries, picture._asked, picture._over, picture.pools]
        left += [keeper._written, scheduler._said._said]
        assert not any(left), left
        assert all(not memory.launches for memory in keeper._memories.values())


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=st.lists(STEPS, min_size=8, max_size=40))
def test_whatever_happens_everybody_is_placed_once_or_told_why_not(history: Sequence[tuple[Any, ...]]) -> None:
    """And in the end nothing is left over: no session, no instance, nothing in memory."""

    async def scenario(rig: Rig) -> None:
        world = World(rig)
        await world.begin()
        for kind, *arguments in history:
            await world.step(kind, *arguments)
        await rig.clock.sleep(5)
        await world.check_waiting()
        await world.mend()
        world.check_ledger()

    play(scenario)
