"""Pins in a world that does whatever it likes: ends, leaders that stall or know little, a ledger that forgets."""

from datetime import datetime, timedelta
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace

from greenroom.common import lifecycle
from greenroom.common.lifecycle import Ended, Ending, Leased, Outcome, Ready, Requested, Session, Started, State
from greenroom.common.pins import Pin, PinRecord, Relaunch
from greenroom.scheduler.pin_keeper import session_id
from greenroom.scheduler.pins import Asking, backoff_s, document, review
from tests.support.scheduler_builders import T0

RELAUNCH = Relaunch(first_s=1.0, longest_s=8.0, max_failures=4, window_s=60.0, stable_s=20.0)
# What the ledger's clients and the recorder keep to.
WRITE_S, BEHIND_S, GRACE_S = 15.0, 50.0, 300.0
BAD = ("bot-failed", Outcome.FAILED)
ENDS = (BAD, BAD, ("goodbye", Outcome.COMPLETED), ("runner-lost", Outcome.LOST), ("queue-expired", Outcome.EXPIRED))


class Pending(NamedTuple):
    """A write that a leader is about to make."""

    session: Session
    begun_at: datetime


class Leader:
    """What one scheduler knows."""

    def __init__(self, record: PinRecord) -> None:
        self.record, self.revision = record, 0
        self.read = 0
        self.sessions: dict[str, Session] = {}
        self.pending: list[Pending] = []
        self.heard_at = T0


class PinWorld(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.now = T0
        self.pin: Pin | None = Pin(
            id="p", uid="u1", tenant="t", agent="a", bot="echo", count=2, relaunch=RELAUNCH, changed_at=T0
        )
        self.record, self.revision = PinRecord(uid="u1", pool="default"), 0
        self.log: list[Session] = []
        self.ledger: dict[str, Session] = {}
        self.ever: set[str] = set()
        self.leaders = [Leader(self.record), Leader(self.record)]
        # When each slot may have its next session at the earliest, and its failures in a row; by what was seen of it.
        self.streaks: dict[int, int] = {}
        self.ended: dict[int, tuple[datetime, float]] = {}

    # ------------------------------------------------------------------------ leaders

    @rule(who=st.integers(0, 1))
    def hear(self, who: int) -> None:
        """A scheduler reads all that was written."""
        leader = self.leaders[who]
        for session in self.log[leader.read :]:
            leader.sessions[session.id] = session
        leader.read, leader.heard_at = len(self.log), self.now
        leader.record, leader.revision = self.record, self.revision

    @rule(who=st.integers(0, 1), stalls=st.sampled_from([False, False, True]))
    def look(self, who: int, *, stalls: bool) -> None:
        """A scheduler that thinks that it leads reviews the pin, and carries out what it can."""
        leader = self.leaders[who]
        found = review(self.now, self.pin, leader.record, list(leader.sessions.values()))
        if found.record != leader.record:
            if leader.revision != self.revision:
                return
            self.record = found.record or PinRecord(uid="u1", pool="default")
            self.revision += 1
            leader.record, leader.revision = self.record, self.revision
        for asking in found.ask:
            assert self.pin is not None
            assert 1 <= asking.slot <= self.pin.count
            leader.pending.append(Pending(document(self.pin, asking, session_id(self.pin, asking), self.now), self.now))
        for stopping in found.stop:
            self.stop(stopping.session.id)
        if not stalls:
            self.send(who)

    @rule(who=st.integers(0, 1))
    def send(self, who: int) -> None:
        """What a scheduler was about to write is written, or given up; the ledger takes each id once."""
        leader = self.leaders[who]
        for session, begun_at in leader.pending:
            if self.now - begun_at >= timedelta(seconds=WRITE_S) or session.id in self.ledger:
                continue
            assert session.id not in self.ever, "an id is used twice"
            assert session.pin is not None
            self.check_backoff(session.pin.slot)
            self.write(lifecycle.apply(None, Requested(session=session), self.now))
        leader.pending = []

    def check_backoff(self, slot: int) -> None:
        """Nothing is asked for before its time."""
        at, delay_s = self.ended.get(slot, (T0 - timedelta(days=1), 0.0))
        assert self.now - at >= timedelta(seconds=delay_s)

    def write(self, session: Session) -> None:
        """Append to the ledger."""
        self.ledger[session.id] = session
        self.ever.add(session.id)
        self.log.append(session)

    def stop(self, session_id: str) -> None:
        """Have a session end in order, as the executor does."""
        session = self.ledger.get(session_id)
        if session is None or session.state in {State.ENDING, State.ENDED}:
            return
        if session.state is State.REQUESTED:
            self.over(session, "unpinned", Outcome.CANCELED, by="scheduler")
        else:
            self.write(lifecycle.apply(session, Ending(by="scheduler", epoch=1, reason="unpinned"), self.now))

    # ------------------------------------------------------------------------ sessions

    def live(self) -> list[Session]:
        """Return the sessions that haven't ended."""
        return [each for each in self.ledger.values() if not each.ended]

    @rule()
    def proceed(self) -> None:
        """What was asked for runs, what is to end ends."""
        for session in self.live():
            if session.state is State.REQUESTED:
                lease = Leased(runner_id="r", epoch=1, expires_at=self.now)
                for step in (lease, Started(runner_id="r", epoch=1), Ready(epoch=1)):
                    session = lifecycle.apply(session, step, self.now)  # noqa: PLW2901
                self.write(session)
            elif session.state is State.ENDING:
                self.over(session, "unpinned", Outcome.COMPLETED, by="scheduler")

    @rule(number=st.integers(0, 5), end=st.sampled_from(ENDS))
    def end(self, number: int, end: tuple[str, Outcome]) -> None:
        """A session ends by itself, badly or well."""
        live = self.live()
        if live:
            self.over(live[number % len(live)], *end, by="runner")

    def over(self, session: Session, reason: str, outcome: Outcome, *, by: lifecycle.Actor) -> None:
        """End a session, and reckon when its slot's next one may come."""
        ended = Ended(by=by, epoch=session.epoch, outcome=outcome, reason=reason)
        after = lifecycle.apply(session, ended, self.now)
        self.write(after)
        assert after.pin is not None
        slot = after.pin.slot
        lived_s = (self.now - after.ready_at).total_seconds() if after.ready_at else 0.0
        stable = lived_s >= RELAUNCH.stable_s
        fails = outcome is Outcome.FAILED or (outcome is Outcome.COMPLETED and not stable and by == "runner")
        before = self.streaks.get(slot, 0)
        self.streaks[slot] = (1 if stable else before + 1) if fails else (0 if stable else before)
        self.ended[slot] = self.now, backoff_s(RELAUNCH, self.streaks[slot]) if fails else RELAUNCH.first_s

    # ------------------------------------------------------------------------ the operator, the recorder, time

    @rule(count=st.integers(0, 4))
    def change(self, count: int) -> None:
        """The operator changes the pin: what failed before is forgiven."""
        self.now += timedelta(seconds=0.001)
        if self.pin is not None:
            self.pin = replace(self.pin, count=count, changed_at=self.now)
            self.streaks.clear()
            self.ended.clear()
            # Requests that were decided on before are as good as those that come now.

    @rule(seconds=st.sampled_from([0.25, 1.0, 1.0, 3.0, 10.0, 25.0, 100.0]))
    def wait(self, seconds: float) -> None:
        """Time passes; nobody is behind for as long as a minute."""
        self.now += timedelta(seconds=seconds)
        for who, leader in enumerate(self.leaders):
            if self.now - leader.heard_at > timedelta(seconds=BEHIND_S):
                self.hear(who)
        gone = [
            each
            for each in self.ledger.values()
            if each.ended_at and (self.now - each.ended_at).total_seconds() > GRACE_S
        ]
        for session in gone:
            del self.ledger[session.id]

    @invariant()
    def there_is_one_in_a_slot_at_most(self) -> None:
        """Whoever leads, and whatever it knows."""
        slots = [each.pin.slot for each in self.live() if each.pin is not None]
        assert len(slots) == len(set(slots))

    def teardown(self) -> None:
        """When all is well again, each slot that wasn't given up has its session, and none beyond has."""
        for _ in range(160):
            self.hear(0)
            self.look(0, stalls=False)
            self.proceed()
            self.wait(1.0)
        self.hear(0)
        assert self.pin is not None
        given_up = {each.number for each in self.record.slots if each.gave_up}
        live = {each.pin.slot for each in self.live() if each.pin is not None}
        assert live == set(range(1, self.pin.count + 1)) - given_up
        assert all(each.state is State.READY for each in self.live())


TestPinWorld = PinWorld.TestCase
TestPinWorld.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def test_a_slot_and_a_generation_make_one_id() -> None:
    """Whoever asks for it, and whenever; others make others, and so does the next pin of that name."""
    pins = [Pin(id="p", uid=uid, tenant="t", agent="a", bot="echo", count=2) for uid in ("u1", "u2")]
    askings = [Asking(slot, generation) for slot in range(1, 20) for generation in range(1, 20)]
    assert len({session_id(pin, asking) for pin in pins for asking in askings}) == 2 * len(askings)
    assert session_id(pins[0], Asking(3, 4)) == session_id(replace(pins[0], count=9, agent="b"), Asking(3, 4))
