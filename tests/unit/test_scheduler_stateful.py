"""A scheduler's picture and plans against a world that crashes, delays and contradicts: a model, no broker, no time.

How: the ledger is a dict with compare-and-set, runners are sets of processes, and the scheduler is the real picture
and the real plan. Hypothesis picks what happens next: requests, late echoes, heartbeats, lost start requests,
crashes, restarts, stops, another scheduler taking over. What must hold is checked after each step; at the end all
is left in peace for a while, and then nothing may be left hanging.
"""

from datetime import datetime, timedelta

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from greenroom.common import lifecycle
from greenroom.common.ledger import Entry
from greenroom.common.lifecycle import (
    Ended,
    Ending,
    Leased,
    Moved,
    Moving,
    OnLoss,
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
from greenroom.scheduler.actions import Ask, AskLauncher, Lease, RollBack, SessionAction
from greenroom.scheduler.core import PlanLimits, plan
from greenroom.scheduler.fleet import holder
from greenroom.scheduler.picture import Picture
from tests.support.scheduler_builders import T0, heartbeat

RUNNERS = ("r0", "r1", "r2")
SLOTS = 2
ROOMS = ("lobby", "hall")
LIMITS = PlanLimits()


class ModelRunner:
    """A runner as it really is."""

    def __init__(self, runner_id: str, at: datetime) -> None:
        self.id = runner_id
        self.up = True
        self.started_at = at
        self.seq = 0
        self.processes: dict[str, int] = {}


class SchedulerWorld(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.now = T0
        self.log: list[Entry] = []
        self.ledger: dict[str, Entry] = {}
        self.claims: set[tuple[str, int]] = set()
        self.runners = {runner_id: ModelRunner(runner_id, self.now) for runner_id in RUNNERS}
        self.picture = Picture()
        self.delivered = 0
        self.picture.ticked(self.now, connected=True)

    # ------------------------------------------------------------------------ the ledger

    def write(self, before: Session | None, revision: int, transition: Transition) -> Entry | None:
        """Compare-and-set; None when somebody else was first."""
        session_id = before.id if before else transition.session.id if isinstance(transition, Requested) else ""
        known = self.ledger.get(session_id)
        if (known.revision if known else 0) != revision:
            return None
        after = lifecycle.apply(before, transition, self.now)
        entry = Entry(session=after, transition=transition, at=self.now, revision=len(self.log) + 1)
        self.log.append(entry)
        self.ledger[after.id] = entry
        return entry

    def live(self, *states: State) -> list[Entry]:
        """Return the sessions that are in one of the states."""
        return [entry for entry in self.ledger.values() if entry.session.state in states]

    # ------------------------------------------------------------------------ what happens

    @rule(on_loss=st.sampled_from(OnLoss), room=st.sampled_from([None, None, *ROOMS]))
    def request(self, on_loss: OnLoss, room: str | None) -> None:
        """Somebody asks for a session, perhaps in a room."""
        number = len(self.ledger)
        document = Session(
            id=f"s{number:03}",
            tenant="t",
            agent="a",
            bot="echo",
            on_loss=on_loss,
            room=room,
            requested_at=T0,
            queue_deadline_at=T0,
        )
        self.write(None, 0, Requested(session=document))

    @rule(count=st.integers(1, 5))
    def echo(self, count: int) -> None:
        """The watch delivers some entries, in order."""
        for entry in self.log[self.delivered : self.delivered + count]:
            self.picture.watched(entry, self.now)
        self.delivered = min(self.delivered + count, len(self.log))

    @rule(runner_id=st.sampled_from(RUNNERS))
    def beat(self, runner_id: str) -> None:
        """A runner sends a heartbeat."""
        runner = self.runners[runner_id]
        if runner.up:
            runner.seq += 1
            held = tuple(
                msgspec.structs.replace(self.ledger[session_id].session, epoch=epoch)
                for session_id, epoch in runner.processes.items()
            )
            beat = heartbeat(runner_id, seq=runner.seq, slots=SLOTS, held=held, started_at=runner.started_at)
            self.picture.heard(beat, self.now)

    @rule(seconds=st.sampled_from([0.25, 1.0, 1.75]))
    def wait(self, seconds: float) -> None:
        """Time passes, and those that are up send heartbeats."""
        self.now += timedelta(seconds=seconds)
        for runner_id in RUNNERS:
            self.beat(runner_id)
        self.picture.ticked(self.now, connected=True)

    @rule(lost=st.sampled_from(["nothing", "nothing", "request", "answer"]))
    def keep_up(self, lost: str) -> None:
        """The scheduler hears all there is to hear, and plans."""
        for runner_id in RUNNERS:
            self.beat(runner_id)
        self.echo(len(self.log))
        self.schedule(lost)

    @rule(lost=st.sampled_from(["nothing", "request", "answer"]))
    def schedule(self, lost: str) -> None:
        """The scheduler plans and carries it all out; start requests or their answers may get lost."""
        decided = self.picture.board.plan(self.now)
        assert decided == plan(self.now, self.picture.fleet, self.picture.sessions, LIMITS)
        actions = [action for action in decided.actions if not isinstance(action, RollBack)]
        entries = {action.session_id: self.picture.entry(action.session_id) for action in actions}
        for action in actions:
            entry = entries[action.session_id]
            assert entry is not None
            self.carry_out(action, entry, lost)

    def carry_out(self, action: SessionAction, entry: Entry, lost: str) -> None:
        """Do what the executor does."""
        self.picture.begin(action.session_id)
        stored: Entry | None = entry
        if not isinstance(action, Ask | AskLauncher):
            stored = self.move(entry, action.transition)
        if stored is not None and isinstance(action, Lease | Ask):
            self.start(stored, lost)
        self.picture.finish(action.session_id)

    def move(self, entry: Entry, transition: Transition) -> Entry | None:
        """Write, and take what is in the ledger then into the picture."""
        stored = self.write(entry.session, entry.revision, transition)
        self.picture.fold(stored or self.ledger[entry.session.id], self.now)
        return stored

    def start(self, entry: Entry, lost: str) -> None:
        """Ask the runner; it answers at once, or nobody hears."""
        session = entry.session
        assert session.runner_id is not None
        runner = self.runners[session.runner_id]
        self.picture.asked(session)
        if not runner.up:
            self.move(entry, Requeued(epoch=session.epoch, reason="no-responder"))
            return
        if lost == "request":
            return
        if len(runner.processes) >= SLOTS or session.id in runner.processes:
            if lost != "answer":
                self.picture.closed(("default", runner.id))
                self.move(entry, Requeued(epoch=session.epoch, reason="no-free-slot", exclude_runner=False))
            return
        runner.processes[session.id] = session.epoch
        claim = self.write(session, entry.revision, Started(runner_id=runner.id, epoch=session.epoch))
        if claim is None:
            del runner.processes[session.id]  # fenced: the process is killed
            return
        assert (session.id, session.epoch) not in self.claims, "a lease was claimed twice"
        self.claims.add((session.id, session.epoch))

    @rule(number=st.integers(0, 99), early=st.booleans())
    def proceed(self, number: int, *, early: bool) -> None:
        """A session gets ready, or ends by itself."""
        running = self.live(State.STARTED, State.READY, State.ENDING)
        if running:
            entry = running[number % len(running)]
            session = entry.session
            runner = self.runners[str(session.runner_id)]
            if runner.processes.get(session.id) != session.epoch:
                return
            if session.state is State.STARTED and not early:
                self.write(session, entry.revision, Ready(epoch=session.epoch))
                return
            del runner.processes[session.id]
            ended = Ended(by="runner", epoch=session.epoch, outcome=Outcome.COMPLETED, reason="goodbye")
            self.write(session, entry.revision, ended)

    @rule(room=st.sampled_from([None, *ROOMS, *ROOMS]))
    def come(self, room: str | None) -> None:
        """Somebody asks for a session, and all that have a process get ready, as far as the scheduler is told."""
        self.request(OnLoss.ALWAYS, room)
        self.keep_up("nothing")
        for entry in self.live(State.STARTED):
            session = entry.session
            if self.runners[str(session.runner_id)].processes.get(session.id) == session.epoch:
                self.write(session, entry.revision, Ready(epoch=session.epoch))
        self.echo(len(self.log))

    @rule(first=st.integers(0, 99), second=st.integers(0, 99), room=st.sampled_from(ROOMS), starts=st.booleans())
    def race(self, first: int, second: int, room: str, *, starts: bool) -> None:
        """Two want one room: one goes there, and another one goes there too, or is asked for there."""
        self.come(None)
        self.go(first, room)
        if starts:
            self.come(room)
        else:
            self.go(second, room)

    @rule(number=st.integers(0, 99), room=st.sampled_from([None, *ROOMS, *ROOMS]))
    def go(self, number: int, room: str | None) -> None:
        """A session is to go to another room: the leader keeps that for it, if nobody has it, as far as it knows."""
        ready = [each.session for each in self.picture.sessions if each.session.state is State.READY]
        if not ready:
            return
        session = ready[number % len(ready)]
        entry = self.picture.entry(session.id)
        assert entry is not None
        if session.moving is None and self.picture.board.room_taken(session, room, {}) is None:
            moving = Moving(epoch=session.epoch, id=f"m{len(self.log)}", room=room, transport_info={})
            self.move(entry, moving)

    @rule(number=st.integers(0, 99), let_in=st.booleans())
    def arrive(self, number: int, *, let_in: bool) -> None:
        """A session has come to the other room, or is back; its runner says so."""
        going = [entry for entry in self.live(State.READY) if entry.session.moving is not None]
        if going:
            entry = going[number % len(going)]
            session = entry.session
            assert session.moving is not None
            if self.runners[str(session.runner_id)].processes.get(session.id) == session.epoch:
                end = Moved if let_in else Stayed
                self.write(session, entry.revision, end(epoch=session.epoch, id=session.moving.id))

    @rule(number=st.integers(0, 99))
    def stop(self, number: int) -> None:
        """A client stops a session."""
        stoppable = self.live(State.LEASED, State.STARTED, State.READY)
        if stoppable:
            entry = stoppable[number % len(stoppable)]
            self.write(
                entry.session, entry.revision, Ending(by="client", epoch=entry.session.epoch, reason="client-stop")
            )

    @precondition(lambda self: any(runner.processes for runner in self.runners.values()))
    @rule()
    def crash(self) -> None:
        """The busiest runner dies with its processes."""
        busiest = max(self.runners.values(), key=lambda runner: len(runner.processes))
        busiest.up = False
        busiest.processes.clear()

    @precondition(lambda self: any(not runner.up for runner in self.runners.values()))
    @rule()
    def restart(self) -> None:
        """Runners that are down come back under their old ids."""
        for runner in self.runners.values():
            if not runner.up:
                self.runners[runner.id] = ModelRunner(runner.id, self.now)

    @rule()
    def fence(self) -> None:
        """Runners notice which of their sessions were taken away or are to end, and kill their processes."""
        for runner in self.runners.values():
            for session_id, epoch in list(runner.processes.items()):
                entry = self.ledger[session_id]
                mine = entry.session.runner_id == runner.id and entry.session.epoch == epoch
                if not mine or entry.session.ended:
                    del runner.processes[session_id]

    @rule()
    def take_over(self) -> None:
        """Another scheduler takes over: it knows the ledger as it is now, and of runners what it hears."""
        self.picture = Picture()
        self.picture.ticked(self.now, connected=True)
        for entry in sorted(self.ledger.values(), key=lambda each: each.revision):
            self.picture.watched(entry, self.now)
        self.delivered = len(self.log)

    # ------------------------------------------------------------------------ what must hold

    @invariant()
    def no_runner_has_more_leases_than_slots(self) -> None:
        """However late the echoes are, the scheduler knows of its own leases."""
        for runner_id in RUNNERS:
            assigned = [
                entry
                for entry in self.live(State.LEASED, State.STARTED, State.READY, State.ENDING)
                if holder(entry.session) == ("default", runner_id)
            ]
            assert len(assigned) <= SLOTS

    @invariant()
    def no_room_has_two_sessions(self) -> None:
        """Nor is one kept for two: whoever moves, starts, is put back or comes under another scheduler."""
        held = [
            room
            for entry in self.live(State.LEASED, State.STARTED, State.READY, State.ENDING)
            for room in {entry.session.room, entry.session.moving.room if entry.session.moving else None}
            if room is not None
        ]
        assert len(held) == len(set(held)), held

    @invariant()
    def the_picture_is_never_ahead_of_the_ledger(self) -> None:
        """What it shows was written, and what it doesn't show has ended or is still to be delivered."""
        shown = {tracked.session.id: tracked for tracked in self.picture.sessions}
        for session_id, tracked in shown.items():
            entry = self.picture.entry(session_id)
            assert entry is not None
            assert self.log[entry.revision - 1] == entry
            assert not tracked.busy
        delivered = {entry.session.id for entry in self.log[: self.delivered]}
        for session_id in delivered - shown.keys():
            assert self.ledger[session_id].session.ended

    def teardown(self) -> None:
        """Left in peace for two minutes, every session has ended or is running in a process of its own.

        Runners that are down stay down.
        """
        for _ in range(120):
            self.wait(1.0)
            self.fence()
            self.echo(len(self.log))
            self.schedule("nothing")
        for entry in self.ledger.values():
            session = entry.session
            if not session.ended:
                assert session.state in {State.STARTED, State.READY, State.ENDING}, session
                assert self.runners[str(session.runner_id)].processes.get(session.id) == session.epoch, session
        leased = sum(isinstance(entry.transition, Leased) for entry in self.log)
        assert leased <= len(self.ledger) * (LIMITS.max_attempts + 1)


TestSchedulerWorld = SchedulerWorld.TestCase
TestSchedulerWorld.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
