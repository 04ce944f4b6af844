"""The slots of a runner: what is taken, and what becomes due."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from greenroom.common.lifecycle import Limits, Outcome, Session, State
from greenroom.common.messages import BotOffer, StartAccepted, StartRefused
from greenroom.common.reasons import Reason
from greenroom.runner.slots import CANCEL_AT, KILL_AGAIN_S, TERMINATE_AT, Decision, Slots, Step, Verdict

RUNNER = "runner-1"
AT = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS = Limits(start_timeout_s=30, max_duration_s=600, join_timeout_s=120, end_timeout_s=10)
BOTS = (BotOffer(name="echo"), BotOffer(name="broken", error="ImportError: no"))
STOP = Verdict(by="client", outcome=Outcome.COMPLETED, reason="client-stop")


def leased(session_id: str = "s1", epoch: int = 1, **changes: Any) -> Session:
    """A session that is leased to the runner for 10 s."""
    fields: dict[str, Any] = {
        "id": session_id,
        "tenant": "default",
        "agent": "echo",
        "bot": "echo",
        "limits": LIMITS,
        "state": State.LEASED,
        "epoch": epoch,
        "runner_id": RUNNER,
        "lease_expires_at": AT + timedelta(seconds=10),
        "requested_at": AT,
        "queue_deadline_at": AT + timedelta(seconds=30),
    }
    return Session(**{**fields, **changes})


def offer(
    slots: Slots,
    session: Session,
    *,
    now: float = 0.0,
    draining: bool = False,
    capacity: int = 99,
    overload: str | None = None,
    bots: Iterable[BotOffer] = BOTS,
) -> Decision:
    """Offer a session at a moment."""
    bot = next((each for each in bots if each.name == session.bot), None)
    return slots.offer(session, now=now, at=AT, bot=bot, draining=draining, capacity=capacity, overload=overload)


def steps(slots: Slots, now: float) -> list[Step]:
    """The steps that are due."""
    return [due.step for due in slots.due(now=now, at=AT)]


def ready(slots: Slots, now: float = 1.0) -> None:
    """Take `s1`, claim it and have it ready."""
    offer(slots, leased())
    slots.claimed(("s1", 1), AT)
    assert slots.ready(("s1", 1), now=now, at=AT)


def refusal(decision: Decision) -> str:
    """The code of a refusal."""
    assert isinstance(decision.answer, StartRefused)
    assert decision.held is None
    return decision.answer.code


def test_a_leased_session_is_taken_once() -> None:
    """The first start is carried out, its repetition gets the same answer and is not."""
    slots = Slots(RUNNER, 2)
    first, again = offer(slots, leased()), offer(slots, leased())
    assert first.answer == again.answer == StartAccepted(session_id="s1", epoch=1)
    assert first.held is not None
    assert again.held is None
    assert len(slots) == 1
    assert steps(slots, 0.0) == []


def test_a_start_that_comes_again_after_the_end_is_not_run_again() -> None:
    """A late repetition of a start whose session has ended here is answered as before and starts nothing."""
    slots = Slots(RUNNER, 1)
    offer(slots, leased())
    slots.exited(("s1", 1))
    again = offer(slots, leased())
    assert isinstance(again.answer, StartAccepted)
    assert again.held is None
    assert len(slots) == 0


def test_refusals_have_codes() -> None:
    """Every reason not to take a session has a code of its own."""
    slots = Slots(RUNNER, 1)
    assert refusal(offer(slots, leased(), draining=True)) == "draining"
    assert refusal(offer(slots, leased(bot="other"))) == "bot-unknown"
    assert refusal(offer(slots, leased(bot="broken"))) == "bot-import-failed"
    assert refusal(offer(slots, leased(runner_id="runner-2"))) == "stale-epoch"
    assert refusal(offer(slots, leased(state=State.REQUESTED))) == "stale-epoch"
    assert refusal(offer(slots, leased(), capacity=0)) == "no-slot"
    assert refusal(offer(slots, leased(), overload="1 % memory available")) == "overloaded"
    offer(slots, leased("s2"))
    assert refusal(offer(slots, leased())) == "no-slot"


def test_an_older_lease_is_refused() -> None:
    """A start of a lease older than one that was here is refused, whether that one runs or has ended."""
    slots = Slots(RUNNER, 2)
    offer(slots, leased(epoch=3))
    assert refusal(offer(slots, leased(epoch=2))) == "stale-epoch"
    slots.exited(("s1", 3))
    assert refusal(offer(slots, leased(epoch=2))) == "stale-epoch"


def test_a_newer_lease_kills_the_process_of_the_older_one_first() -> None:
    """A newer lease ends the older process at once, and must wait for its exit."""
    slots = Slots(RUNNER, 2)
    offer(slots, leased())
    decision = offer(slots, leased(epoch=2))
    assert decision.held is not None
    assert decision.held.after == ("s1", 1)
    [due] = slots.due(now=0.0, at=AT)
    assert (due.key, due.step, due.verdict.reason) == (("s1", 1), Step.KILL, "fenced")


def test_a_newer_lease_without_a_slot_is_refused_but_fences_all_the_same() -> None:
    """The process of the older lease still has its slot, so a full runner refuses, and ends that process anyway."""
    slots = Slots(RUNNER, 1)
    offer(slots, leased())
    assert refusal(offer(slots, leased(epoch=2))) == "no-slot"
    assert steps(slots, 0.0) == [Step.KILL]


def test_a_slot_is_free_when_the_process_has_exited_and_not_before() -> None:
    """Ending a session frees nothing; its exit does."""
    slots = Slots(RUNNER, 1)
    offer(slots, leased())
    slots.end(("s1", 1), STOP, now=0.0, at=AT)
    slots.due(now=100.0, at=AT)
    assert slots.free == 0
    slots.exited(("s1", 1))
    assert slots.free == 1


def test_the_end_ladder_has_one_deadline() -> None:
    """Stop at once, then cancel, terminate and kill within `end_timeout_s`, and kill again each second."""
    slots = Slots(RUNNER, 1)
    ready(slots)
    assert slots.end(("s1", 1), STOP, now=5.0, at=AT)
    [stop] = slots.due(now=5.0, at=AT)
    assert (stop.step, stop.verdict) == (Step.STOP, STOP)
    assert stop.deadline_s == pytest.approx(10 * CANCEL_AT)
    assert slots.next_due() == 5.0 + 10 * CANCEL_AT
    assert steps(slots, 5.0 + 10 * CANCEL_AT) == [Step.CANCEL]
    assert steps(slots, 5.0 + 10 * TERMINATE_AT) == [Step.TERMINATE]
    assert steps(slots, 15.0) == [Step.KILL]
    assert steps(slots, 15.0) == []
    assert steps(slots, 15.0 + KILL_AGAIN_S) == [Step.KILL]


def test_there_may_be_less_time_than_usual() -> None:
    """The ladder of a session that must end sooner than its own limit says is as much shorter."""
    slots = Slots(RUNNER, 1)
    ready(slots)
    slots.end(("s1", 1), STOP, now=5.0, at=AT, within_s=1.0)
    [stop] = slots.due(now=5.0, at=AT)
    assert stop.deadline_s == pytest.approx(CANCEL_AT)
    assert steps(slots, 6.0) == [Step.CANCEL, Step.TERMINATE, Step.KILL]


def test_a_second_reason_to_end_changes_nothing() -> None:
    """The first verdict and its deadline stand."""
    slots = Slots(RUNNER, 1)
    ready(slots)
    slots.end(("s1", 1), STOP, now=5.0, at=AT)
    assert not slots.end(("s1", 1), Verdict.of(Reason.DRAIN_DEADLINE), now=9.0, at=AT)
    assert {due.verdict.reason for due in slots.due(now=99.0, at=AT)} == {"client-stop"}


def test_a_session_that_ends_itself_is_not_told_to_but_has_the_same_deadline() -> None:
    """After its own notice a session gets no Stop, but the rest of the ladder."""
    slots = Slots(RUNNER, 1)
    ready(slots)
    verdict = Verdict(by="session", outcome=Outcome.COMPLETED, reason="goodbye")
    assert slots.ends_itself(("s1", 1), verdict, now=5.0, at=AT)
    assert steps(slots, 5.0) == []
    assert steps(slots, 15.0) == [Step.CANCEL, Step.TERMINATE, Step.KILL]


def test_a_pipeline_that_is_not_ready_in_time_ends_the_session() -> None:
    """`start_timeout_s` after the start without a pipeline the session fails with `start-timeout`."""
    slots = Slots(RUNNER, 1)
    offer(slots, leased(lease_expires_at=None))
    assert steps(slots, 29.9) == []
    [due] = slots.due(now=30.0, at=AT)
    assert (due.step, due.verdict.reason, due.verdict.outcome) == (Step.STOP, "start-timeout", Outcome.FAILED)
    assert not slots.ready(("s1", 1), now=30.1, at=AT)


def test_nobody_joins() -> None:
    """`join_timeout_s` after ready without a client the session is `expired`; with one it is not."""
    slots = Slots(RUNNER, 1)
    ready(slots, now=1.0)
    [due] = slots.due(now=121.0, at=AT)
    assert (due.verdict.reason, due.verdict.outcome) == ("nobody-joined", Outcome.EXPIRED)
    slots = Slots(RUNNER, 1)
    ready(slots, now=1.0)
    slots.connected(("s1", 1))
    assert steps(slots, 121.0) == []


def test_who_is_to_come_into_another_room_has_as_long_as_at_first() -> None:
    """From when the bot is there; unless somebody is there already, or the session ends."""
    slots = Slots(RUNNER, 1)
    ready(slots, now=1.0)
    slots.connected(("s1", 1))
    slots.moved(("s1", 1), connected=True, now=50.0)
    assert steps(slots, 170.0) == []
    slots.moved(("s1", 1), connected=False, now=171.0)
    assert steps(slots, 290.9) == []
    [due] = slots.due(now=291.0, at=AT)
    assert due.verdict.reason == "nobody-joined"
    slots.moved(("s1", 1), connected=False, now=291.0)
    assert all(held.join_by is None for held in slots)


def test_a_session_is_ended_after_its_longest_duration() -> None:
    """`max_duration_s` after ready the session is completed, with `max-duration-exceeded`."""
    slots = Slots(RUNNER, 1)
    ready(slots, now=1.0)
    slots.connected(("s1", 1))
    [due] = slots.due(now=601.0, at=AT)
    assert (due.verdict.reason, due.verdict.outcome) == ("max-duration-exceeded", Outcome.COMPLETED)


def test_a_claim_that_is_not_stored_before_the_lease_runs_out_is_given_up() -> None:
    """Without a claim in the ledger the process is killed when the lease ends: another runner may get the session."""
    slots = Slots(RUNNER, 1)
    offer(slots, leased())
    slots.ready(("s1", 1), now=1.0, at=AT)
    [due] = slots.due(now=10.0, at=AT)
    assert (due.step, due.verdict.reason) == (Step.KILL, "fenced")


def test_the_heartbeat_tells_the_phase() -> None:
    """A held session is leased, started, ready and ending in turn."""
    slots = Slots(RUNNER, 1)
    offer(slots, leased())
    phases = [slots.sessions()[0].phase]
    slots.claimed(("s1", 1), AT)
    phases.append(slots.sessions()[0].phase)
    slots.ready(("s1", 1), now=0.0, at=AT)
    phases.append(slots.sessions()[0].phase)
    slots.end(("s1", 1), STOP, now=0.0, at=AT)
    phases.append(slots.sessions()[0].phase)
    assert phases == [State.LEASED, State.STARTED, State.READY, State.ENDING]


SESSIONS = st.sampled_from(["s1", "s2", "s3", "s4"])
SIZE = 3


class SlotsMachine(RuleBasedStateMachine):
    """Anything that can happen, in any order, with a world that obeys: processes exit when they are killed."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots(RUNNER, SIZE)
        self.now = 0.0
        self.carried_out: set[tuple[str, int]] = set()
        self.alive: dict[tuple[str, int], float | None] = {}
        self.newest: dict[str, int] = {}

    @rule(session_id=SESSIONS, back=st.integers(0, 2), draining=st.booleans())
    def start(self, session_id: str, back: int, draining: bool) -> None:  # noqa: FBT001 hypothesis fills it in by name
        """A start comes, of the newest lease or of an older one."""
        epoch = max(1, self.newest.get(session_id, 0) + 1 - back)
        before = len(self.slots)
        decision = offer(
            self.slots,
            leased(session_id, epoch, lease_expires_at=AT + timedelta(seconds=self.now + 10)),
            now=self.now,
            draining=draining,
        )
        self.newest[session_id] = max(epoch, self.newest.get(session_id, 0))
        if decision.held is not None:
            assert not draining
            assert before < SIZE
            assert decision.held.key not in self.carried_out
            assert all(epoch > key[1] for key in self.carried_out if key[0] == session_id)
            self.carried_out.add(decision.held.key)
            self.alive[decision.held.key] = None

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0, 20.0, 200.0]))
    def wait(self, seconds: float) -> None:
        """Time passes; whoever is killed exits."""
        self.now += seconds
        for due in self.slots.due(now=self.now, at=AT):
            assert due.key in self.alive
            if self.alive[due.key] is None:
                self.alive[due.key] = self.now
            if due.step is Step.KILL:
                del self.alive[due.key]
                self.slots.exited(due.key)

    @precondition(lambda self: self.alive)
    @rule(
        data=st.data(), what=st.sampled_from(["claimed", "ready", "connected", "end", "ends_itself", "kill", "exited"])
    )
    def happens(self, data: st.DataObject, what: str) -> None:
        """Something happens to a live process."""
        key = data.draw(st.sampled_from(sorted(self.alive)))
        match what:
            case "claimed":
                self.slots.claimed(key, AT)
            case "ready":
                self.slots.ready(key, now=self.now, at=AT)
            case "connected":
                self.slots.connected(key)
            case "end":
                self.slots.end(key, STOP, now=self.now, at=AT)
            case "ends_itself":
                self.slots.ends_itself(key, STOP, now=self.now, at=AT)
            case "kill":
                self.slots.kill(key, STOP, now=self.now)
            case _:
                self.slots.exited(key)
                del self.alive[key]

    @invariant()
    def never_more_than_there_are_slots(self) -> None:
        """Live processes, whatever their state, never outnumber the slots."""
        assert len(self.slots) == len(self.alive) <= SIZE

    @invariant()
    def something_is_always_due(self) -> None:
        """No session is held without a moment at which something will be done about it, and that moment comes."""
        if self.alive:
            when = self.slots.next_due()
            assert when is not None
            assert when <= self.now + LIMITS.max_duration_s

    @invariant()
    def one_process_a_session_is_not_on_its_way_out(self) -> None:
        """Of several processes of one session all but the newest are being killed."""
        for session_id in {key[0] for key in self.alive}:
            older = sorted(key for key in self.alive if key[0] == session_id)[:-1]
            for held in self.slots:
                if held.key in older:
                    assert [step for _, step in held.ladder] == [Step.KILL]

    @invariant()
    def heartbeats_can_be_sent(self) -> None:
        """What the heartbeat tells is what is held."""
        told = msgspec.json.decode(msgspec.json.encode(self.slots.sessions()))
        assert {(row["session_id"], row["epoch"]) for row in told} == set(self.alive)


TestSlotsMachine = SlotsMachine.TestCase
TestSlotsMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
