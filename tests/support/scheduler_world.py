"""A scheduler's board in a world that does whatever it likes: sessions, runners, policy and clock change at random.

What the board is told is kept beside it, plainly, so that a board made anew, and counts made by going through
everything, can be compared with it.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from greenroom.common import lifecycle
from greenroom.common.lifecycle import (
    Ended,
    Ending,
    Leased,
    Moved,
    Moving,
    Outcome,
    Ready,
    Requested,
    Requeued,
    Session,
    Started,
    State,
    Stayed,
    Transition,
)
from greenroom.common.messages import BotDensity, BotOffer
from greenroom.common.policy import Limit, Policy, RolledBack
from greenroom.scheduler.actions import (
    Action,
    Ask,
    AskLauncher,
    ColdLease,
    Lease,
    RollBack,
)
from greenroom.scheduler.board import Board
from greenroom.scheduler.capacity import ColdAllowance
from greenroom.scheduler.core import PlanLimits, Tracked
from greenroom.scheduler.fleet import Fleet
from greenroom.scheduler.history import History
from tests.support.scheduler_builders import T0, heartbeat
from tests.support.scheduler_draws import LABELS, documents, keys, policies

LIMITS = PlanLimits()
RUNNERS = ("r0", "r1", "r2", "r3")
POOLS = ("default", "gpu")
COLD = {
    "default": ColdAllowance(count=2, deadline_s=90.0),
    "gpu": ColdAllowance(count=0, reason="the launcher is down", deadline_s=90.0),
}


class BoardWorld(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.now = T0
        self.stepped_back = False
        self.fleet = Fleet()
        self.fleet.ticked(self.now, connected=True)
        self.policy = Policy()
        self.verdicts: tuple[RolledBack, ...] = ()
        self.known: dict[str, Tracked] = {}
        self.requested = 0
        self.ended: dict[str, Session] = {}
        self.lease_times: list[tuple[datetime, Session]] = []
        self.seq = 0
        self.board = Board(self.fleet, LIMITS)
        self.runners: dict[str, dict[str, Any]] = {}
        for runner_id in RUNNERS:
            self.beat(runner_id, (1, 2), None, reports=True, slots=2, standby=1, labels=LABELS[int(runner_id[1]) // 2])
        self.actions: tuple[Action, ...] = ()

    # ------------------------------------------------------------------------ what the board is told

    def tell(self, tracked: Tracked) -> None:
        """Keep a session, and tell the board."""
        self.known[tracked.session.id] = tracked
        self.board.session_changed(tracked)

    def move(self, tracked: Tracked, transition: Transition) -> Session:
        """Move a session on."""
        after = lifecycle.apply(tracked.session, transition, self.now)
        self.board.witnessed(transition, after)
        if after.ended:
            del self.known[after.id]
            self.ended[after.id] = after
            self.board.forget(after.id)
        else:
            asked = tracked.asked and after.epoch == tracked.session.epoch
            self.tell(Tracked(session=after, seen_at=self.now, asked=asked))
        return after

    def in_state(self, *states: State) -> list[Tracked]:
        """Return the sessions in some states that no action is under way on."""
        return [each for each in self.known.values() if each.session.state in states and not each.busy]

    # ------------------------------------------------------------------------ sessions

    @rule(document=documents(), count=st.sampled_from([1, 1, 4]))
    def request(self, document: Session, count: int) -> None:
        """Somebody asks for one session, or for many."""
        for _ in range(count):
            self.requested += 1
            named = msgspec.structs.replace(document, id=f"s{self.requested:03}")
            session = lifecycle.apply(None, Requested(session=named), self.now)
            self.tell(Tracked(session=session, seen_at=self.now))

    @rule(steps=st.lists(st.sampled_from(["well", "well", "badly", "not"]), min_size=1, max_size=6))
    def proceed(self, steps: list[str]) -> None:
        """Sessions are claimed, get ready, end; or are refused, fail to start, are stopped."""
        going = self.in_state(State.LEASED, State.STARTED, State.READY, State.ENDING)
        for number, tracked in enumerate(going):
            how = steps[number % len(steps)]
            if how != "not":
                self.move(tracked, self.step(tracked.session, well=how == "well", odd=number % 2 == 0))

    def step(self, session: Session, *, well: bool, odd: bool) -> Transition:
        """Return what happens next to a session."""
        ok = Ended(by="runner", epoch=session.epoch, outcome=Outcome.COMPLETED, reason="goodbye")
        failed = Ended(by="runner", epoch=session.epoch, outcome=Outcome.FAILED, reason="bot-failed")
        reason = "bot-import-failed" if odd else "no-free-slot"
        steps: dict[State, tuple[Transition, Transition]] = {
            State.LEASED: (
                Started(runner_id=session.runner_id or "", epoch=session.epoch),
                Requeued(epoch=session.epoch, reason=reason, exclude_runner=odd),
            ),
            State.STARTED: (Ready(epoch=session.epoch), failed),
            State.READY: (ok, Ending(by="client", epoch=session.epoch, reason="client-stop")),
            State.ENDING: (ok, ok),
        }
        return steps[session.state][0 if well else 1]

    @rule(number=st.integers(0, 99), room=st.sampled_from([None, "lobby", "hall"]), let_in=st.booleans())
    def go(self, number: int, room: str | None, *, let_in: bool) -> None:
        """A session that is ready begins to go to another room, if that is free; one on its way is there, or back."""
        ready = self.in_state(State.READY)
        if not ready:
            return
        tracked = ready[number % len(ready)]
        session = tracked.session
        if session.moving is not None:
            end = Moved if let_in else Stayed
            self.move(tracked, end(epoch=session.epoch, id=session.moving.id))
        elif (taken := self.board.room_taken(session, room, {})) is None:
            self.move(tracked, Moving(epoch=session.epoch, id=f"m{self.requested}", room=room, transport_info={}))
        else:
            other = self.known[taken].session
            assert room in {other.room, other.moving.room if other.moving is not None else None}
            assert other.tenant == session.tenant

    @rule(number=st.integers(0, 99))
    def cancel(self, number: int) -> None:
        """Somebody who waits gives up, whatever the scheduler is about to do."""
        waiting = [each for each in self.known.values() if each.session.state is State.REQUESTED]
        if waiting:
            tracked = waiting[number % len(waiting)]
            canceled = Ended(by="client", epoch=tracked.session.epoch, outcome=Outcome.CANCELED, reason="hung-up")
            self.move(tracked, canceled)

    @rule(number=st.integers(0, 99))
    def say_again(self, number: int) -> None:
        """The board is told what it knows."""
        if self.known:
            self.tell(list(self.known.values())[number % len(self.known)])

    # ------------------------------------------------------------------------ runners, operators, time

    @rule(
        runner_id=st.sampled_from(RUNNERS),
        slots=st.sampled_from([0, 1, 2, 4]),
        standby=st.integers(0, 2),
        draining=st.sampled_from([False, False, False, True]),
        brake=st.sampled_from([None, None, None, "loop lag 80 ms", "cpu 97 %"]),
        claim=st.sampled_from([None, None, None, "s1-1"]),
        labels=st.sampled_from(LABELS),
        versions=st.sampled_from([(1,), (2,), (1, 2), (1, 2)]),
        broken=st.sampled_from([None, None, None, "ImportError"]),
        more=st.sampled_from([None, None, 0, 1, 2, 3]),
        reports=st.sampled_from([True, True, False]),
    )
    def beat(
        self,
        runner_id: str,
        versions: tuple[int, ...],
        broken: str | None,
        *,
        more: int | None = None,
        reports: bool,
        **fields: Any,
    ) -> None:
        """A runner is heard and offers something else; it may not report what it was leased."""
        said = {"versions": versions, "broken": broken, "more": more, "reports": reports}
        self.runners[runner_id] = said | fields
        self.seq += 1
        pool = POOLS[int(runner_id[1]) % 2]
        held = [each.session for each in self.known.values() if each.session.runner_id == runner_id and reports]
        bots = tuple(BotOffer(name="echo", version=version, error=broken) for version in versions)
        if more is not None:
            density = (BotDensity(bot="echo", cores=0.1, memory=1, seen=20, more=more),)
            fields |= {"by_cost": True, "density": density}
        beat = heartbeat(runner_id, seq=self.seq, pool=pool, held=tuple(held), bots=bots, **fields)
        if self.fleet.heard(beat, self.now):
            self.board.runner_changed((pool, runner_id))

    @rule(
        seconds=st.sampled_from([0.25, 1.0, 1.0, 4.0, 70.0, -2.0, -30.0]),
        connected=st.sampled_from([True, True, True, False]),
        heard=st.sampled_from([4, 4, 2, 0]),
    )
    def wait(self, seconds: float, *, connected: bool, heard: int) -> None:
        """Time passes, or is set back; so many runners are heard, as they were; the scheduler may be cut off."""
        self.now += timedelta(seconds=seconds)
        for runner_id in RUNNERS[:heard]:
            self.beat(runner_id, **self.runners[runner_id])
        self.stepped_back |= seconds < 0
        for key in self.fleet.ticked(self.now, connected=connected):
            self.board.runner_changed(key)

    @rule(runner_id=st.sampled_from(RUNNERS))
    def close(self, runner_id: str) -> None:
        """A runner had no slot."""
        key = (POOLS[int(runner_id[1]) % 2], runner_id)
        self.fleet.closed(key)
        self.board.runner_changed(key)

    @initialize(policy=policies())
    def begin(self, policy: Policy) -> None:
        """There is a policy from the beginning."""
        self.decree(policy)

    @rule(policy=policies())
    def decree(self, policy: Policy) -> None:
        """The operators decide otherwise."""
        self.policy = policy
        self.board.policy_changed(policy, self.verdicts)

    @rule()
    def take_over(self) -> None:
        """Another scheduler takes over, which has never seen what has ended."""
        self.board = self.made_anew(History())

    # ------------------------------------------------------------------------ plans

    def made_anew(self, history: History) -> Board:
        """Return a board that is told everything at once, the newest first."""
        board = Board(self.fleet, LIMITS, self.policy, self.verdicts, history)
        for tracked in reversed(self.known.values()):
            board.session_changed(tracked)
        return board

    @rule(carried_out=st.sampled_from(["all", "all", "all", "half", "none"]), most=st.sampled_from([None, None, 2]))
    def plan(self, carried_out: str, most: int | None) -> None:
        """The board plans; as a board made anew does, and as it does itself when it is asked again."""
        bound = {} if most is None else {"most": most}
        plan = self.board.plan(self.now, COLD, **bound)
        assert plan == self.board.plan(self.now, COLD, **bound), "planning changed something"
        fresh = self.made_anew(self.board.history)
        assert plan == fresh.plan(self.now, COLD, **bound)
        assert self.board.outlook().waiting() == fresh.outlook().waiting()
        assert len(plan.actions) <= (most or len(plan.actions))
        self.actions = tuple(plan.actions)
        self.check_leases(plan.actions)
        if most is None:
            self.check_everybody(plan.actions)
        keep = {"all": len(plan.actions), "half": len(plan.actions) // 2, "none": 0}[carried_out]
        for action in plan.actions[:keep]:
            self.carry_out(action)

    @rule(failing=st.booleans())
    def plan_slowly(self, *, failing: bool) -> None:
        """Actions are under way for a while, and others plan meanwhile; in the end they come to something, or not."""
        plan = self.board.plan(self.now, COLD)
        begun = [action for action in plan.actions if not isinstance(action, RollBack)]
        before = {action.session_id: self.known[action.session_id] for action in begun}
        for action in begun:
            tracked = before[action.session_id]
            expected = tracked.session
            if isinstance(action, Lease | ColdLease):
                expected = lifecycle.apply(expected, action.transition, self.now)
            self.tell(msgspec.structs.replace(tracked, session=expected, busy=True))
        meanwhile = self.board.plan(self.now, COLD)
        assert not {each.session_id for each in meanwhile.actions if not isinstance(each, RollBack)} & before.keys()
        self.check_leases(meanwhile.actions)
        assert meanwhile == self.made_anew(self.board.history).plan(self.now, COLD)
        for action in begun:
            self.tell(before[action.session_id])
            if not failing:
                self.carry_out(action)

    def carry_out(self, action: Action) -> None:
        """Do what the executor does."""
        if isinstance(action, RollBack):
            self.verdicts = (*self.verdicts, action.rolled_back)
            self.board.policy_changed(self.policy, self.verdicts)
            return
        tracked = self.known[action.session_id]
        if isinstance(action, Ask | AskLauncher):
            self.tell(msgspec.structs.replace(tracked, asked=True))
            return
        after = self.move(tracked, action.transition)
        if isinstance(action, Lease | ColdLease):
            self.tell(msgspec.structs.replace(self.known[after.id], asked=True))
            self.lease_times.append((self.now, after))

    # ------------------------------------------------------------------------ what must hold

    def check_leases(self, actions: Iterable[Action]) -> None:
        """No more sessions than slots, none above a limit, and nothing but what the policy says."""
        active = [each.session for each in self.known.values() if each.session.state is not State.REQUESTED]
        cold: Counter[str] = Counter()
        for action in actions:
            if not isinstance(action, Lease | ColdLease):
                continue
            session = self.known[action.session_id].session
            leased = lifecycle.apply(session, action.transition, self.now)
            # One that is moved was active before; only a cold lease can be.
            assert session.cold or session.state is State.REQUESTED
            active = [each for each in active if each.id != leased.id] + [leased]
            self.check_version(leased, action.transition)
            for limit in self.policy.limits:
                self.check_limit(limit, leased, active)
            assert not any(
                each.room == leased.room and each.tenant == leased.tenant and each.id != leased.id
                for each in active
                if leased.room
            )
            if isinstance(action, ColdLease):
                cold[session.pool] += 1
            else:
                self.check_slots(leased, active)
        assert all(count <= COLD[pool].count for pool, count in cold.items())

    def check_slots(self, leased: Session, active: list[Session]) -> None:
        """The runner has room for it, is heard, and may have it."""
        runner = self.fleet.runners[leased.pool, leased.runner_id or ""]
        holds = {(each.id, each.epoch) for each in active if (each.pool, each.runner_id) == (runner.pool, runner.id)}
        assert len(holds | runner.held) <= runner.slots
        assert self.now - runner.heard_at < timedelta(seconds=LIMITS.runner_lost_s)
        assert (runner.draining, runner.brake, runner.claim, runner.closed) == (False, None, None, False)
        assert runner.id not in leased.refused_by
        assert leased.transport in runner.offers[leased.bot, leased.agent_version]
        assert all(runner.labels.get(name) == value for name, value in leased.requires.items())

    def check_version(self, leased: Session, transition: Leased) -> None:
        """Who belongs to a rollout gets one of its versions, and nobody one that was rolled back."""
        rollouts = {each.tenant: each for each in self.policy.rollouts if each.agent == leased.agent}
        rollout = rollouts.get(leased.tenant) or rollouts.get("*")
        if rollout is not None:
            assert transition.agent_version in {rollout.current, rollout.canary}
            for verdict in self.verdicts:
                if (verdict.tenant, verdict.agent) == (rollout.tenant, rollout.agent):
                    assert transition.agent_version != verdict.version

    def check_limit(self, limit: Limit, leased: Session, active: list[Session]) -> None:
        """With this lease no limit is exceeded."""
        for key in keys(limit, leased):
            peers = [each for each in active if key in keys(limit, each)]
            assert limit.max_sessions is None or len(peers) <= limit.max_sessions
            if limit.max_starts_per_s is None or self.stepped_back:
                continue
            bucket = max(int(limit.max_starts_per_s), 1)
            since = self.now - timedelta(seconds=bucket / limit.max_starts_per_s)
            recent = {(each.id, each.epoch) for at, each in self.departed() if at > since and key in keys(limit, each)}
            recent |= {(each.id, each.epoch) for each in peers if each.leased_at and each.leased_at > since}
            assert len(recent) <= bucket

    def departed(self) -> list[tuple[datetime, Session]]:
        """Return the leases that a new leader could know of, or that this one saw."""
        kept = {(each.id, each.epoch) for each in self.board.history.departed}
        return [(at, each) for at, each in self.lease_times if (each.id, each.epoch) in kept]

    def check_everybody(self, actions: Iterable[Action]) -> None:
        """Who is asked for and isn't busy has a decision or a place with a reason; nobody has two decisions."""
        acted = [each.session_id for each in actions if not isinstance(each, RollBack)]
        assert len(set(acted)) == len(acted)
        queue = self.board.outlook().waiting()
        assert all(each.text and each.reason for each in queue)
        queued = {each.session_id for each in queue}
        requested = {each.session.id for each in self.in_state(State.REQUESTED)}
        assert requested <= queued | set(acted)
        assert queued <= requested
        for pool in POOLS:
            places = [each.position for each in queue if self.known[each.session_id].session.pool == pool]
            assert places == list(range(1, len(places) + 1))

    @invariant()
    def every_action_says_why(self) -> None:
        """In words and with a code."""
        assert all(action.why.text and action.why.reason for action in self.actions)

    @invariant()
    def nobody_is_forgotten(self) -> None:
        """Whoever was asked for is known, or has ended."""
        assert len(self.known) + len(self.ended) == self.requested
        assert self.board.sessions == self.known
        cold = {
            f"{each.session.id}-{each.session.epoch}"
            for each in self.known.values()
            if each.session.cold and each.session.state is State.LEASED
        }
        assert cold == self.board.cold_leases("default") | self.board.cold_leases("gpu")

    def teardown(self) -> None:
        """Without limits, and with all carried out for a while, nobody waits beyond his deadline."""
        self.decree(Policy())
        for _ in range(40):
            self.wait(1.0, connected=True, heard=4)
            for tracked in list(self.known.values()):
                if tracked.busy:
                    self.tell(msgspec.structs.replace(tracked, busy=False))
            self.plan("all", None)
        waiting = [each.session for each in self.known.values() if each.session.state is State.REQUESTED]
        assert all(each.queue_deadline_at > self.now for each in waiting)
