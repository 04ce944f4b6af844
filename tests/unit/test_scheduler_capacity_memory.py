"""What is remembered of a pool: arrivals, launches and what became of them."""

from typing import Any

import pytest

from greenroom.common import lifecycle
from greenroom.common.lifecycle import Ended, Leased, Outcome, Ready, Requested, Requeued, Session, Started, Transition
from greenroom.common.reasons import Reason
from greenroom.scheduler import pool_memory
from greenroom.scheduler.breaker import verdict
from greenroom.scheduler.pool_memory import PoolMemory
from tests.support.capacity_pools import NOW, at, instance, pool, runner


class Story:
    """Sessions of a pool, entry by entry, as one scheduler learns of them."""

    def __init__(self) -> None:
        self.memory = PoolMemory()

    def tell(self, name: str, *steps: tuple[float, Transition]) -> None:
        """Let a session be asked for at the time of its first step, and take the steps."""
        document = Session(id=name, tenant="t", agent="a", bot="echo", requested_at=NOW, queue_deadline_at=NOW)
        request = Requested(session=document)
        known = lifecycle.apply(None, request, at(steps[0][0]))
        self.memory = pool_memory.learned(self.memory, request, known, at(steps[0][0]), first=True)
        for second, step in steps:
            known = lifecycle.apply(known, step, at(second))
            self.memory = pool_memory.learned(self.memory, step, known, at(second))

    def pass_to(self, second: float) -> None:
        """Look at a pool without runners."""
        self.memory = pool_memory.observed(self.memory, pool(), at(second))


def cold(name: str, second: float) -> tuple[float, Transition]:
    """Return the step by which a runner is launched for a session."""
    return second, Leased(runner_id=f"cold-{name}-1", epoch=1, expires_at=at(second + 90), cold=True)


def warm(second: float) -> tuple[float, Transition]:
    """Return the step by which a session gets a slot."""
    return second, Leased(runner_id="r1", epoch=1, expires_at=at(second + 5))


def started(runner_id: str, second: float) -> tuple[float, Transition]:
    """Return the step by which a runner claims a session."""
    return second, Started(runner_id=runner_id, epoch=1)


def ended(second: float, outcome: Outcome, reason: str) -> tuple[float, Transition]:
    """Return the step by which a session ends."""
    return second, Ended(by="runner", epoch=1, outcome=outcome, reason=reason)


def test_arrivals_are_counted_once() -> None:
    """Each session counts as one arrival, however often it is put back."""
    story = Story()
    story.tell("s1", warm(0), (1, Requeued(epoch=1, reason="lease-expired")))

    assert story.memory.arrivals.fast == pytest.approx(0.1, rel=0.1)


def test_a_cold_start_is_measured() -> None:
    """A cold start takes from its lease to the claim, and is a success a minute later."""
    story = Story()
    story.tell("s1", cold("s1", 0), started("cold-s1-1", 12))
    assert (story.memory.cold_starts.took_s, list(story.memory.launches)) == ((12,), ["s1-1"])

    story.pass_to(72)
    assert story.memory.launches == {}


def test_a_short_call_is_a_success() -> None:
    """A cold runner whose call ends in order within the minute has shown that it can run."""
    story = Story()
    for name in ("s1", "s2"):
        story.tell(name, cold(name, 0), (90, Requeued(epoch=1, reason="lease-expired")))
    story.tell("s3", cold("s3", 100), started("cold-s3-1", 110), ended(120, Outcome.COMPLETED, "completed"))

    assert (story.memory.breaker.failures, story.memory.launches) == (0, {})


def test_launches_that_do_not_come() -> None:
    """Cold starts whose leases run out without a claim open the breaker; it says which was the last."""
    story = Story()
    for number in range(3):
        story.tell(f"s{number}", cold(f"s{number}", number), (90 + number, Requeued(epoch=1, reason="lease-expired")))

    known = verdict(story.memory.breaker, at(93))
    assert known.allowed == 0
    assert (known.reason or "").startswith("3 launches failed in a row, last: lease-expired (s2-1)")


def test_a_death_in_the_first_minute() -> None:
    """A cold runner that is lost within its first minute is a failure, later it isn't."""
    story = Story()
    lost = (Outcome.LOST, "runner-lost")
    story.tell("s1", cold("s1", 0), started("cold-s1-1", 10), (10, Ready(epoch=1)), ended(30, *lost))
    assert story.memory.breaker.failures == 1

    story.tell("s2", cold("s2", 0), started("cold-s2-1", 10))
    story.pass_to(71)
    story.tell("s3", cold("s3", 80), ended(85, Outcome.CANCELED, "client-canceled"))
    assert (story.memory.breaker.failures, story.memory.launches) == (0, {})


def test_a_launch_that_the_launcher_refused() -> None:
    """A refusal counts as a failed launch, once."""
    story = Story()
    story.tell("s1", cold("s1", 0))
    story.memory = pool_memory.launch_failed(story.memory, "s1-1", "no such job", at(1))
    again = pool_memory.launch_failed(story.memory, "s1-1", "launch-failed (s1-1)", at(2))

    assert (again.breaker.failures, again.breaker.last) == (1, "no such job")


def test_a_launcher_that_is_away() -> None:
    """A launch that the launcher couldn't be reached for isn't held against anybody."""
    story = Story()
    story.tell("s1", cold("s1", 0))

    assert pool_memory.launch_unknown(story.memory, "s1-1").breaker.failures == 0
    story.pass_to(150)
    assert (story.memory.launches, story.memory.breaker.failures) == ({}, 0)


@pytest.mark.parametrize("reason", [Reason.BOT_FAILED, Reason.START_TIMEOUT, "process-killed", "bot-import-failed"])
def test_a_bot_that_crashes(reason: str) -> None:
    """Three sessions in a row that a bot ends by failing within its first minute open the bot's own breaker."""
    story = Story()
    for number in range(3):
        step = ended(number + 3, Outcome.FAILED, reason)
        story.tell(f"s{number}", warm(number), started("r1", number), step)

    assert verdict(story.memory.bots["echo"], at(6)).allowed == 0
    assert story.memory.bots["echo"].last == f"{reason} after 3 s"
    assert verdict(story.memory.breaker, at(6)).allowed is None


@pytest.mark.parametrize(
    ("end", "counts"),
    [
        (ended(9, Outcome.COMPLETED, "goodbye"), False),
        (ended(200, Outcome.FAILED, "bot-failed"), False),
        (ended(9, Outcome.FAILED, "drain-deadline"), True),
        (ended(9, Outcome.LOST, "runner-lost"), True),
    ],
)
def test_what_clears_a_bot(end: tuple[float, Transition], counts: bool) -> None:  # noqa: FBT001
    """A call that ends in order or lives for a minute clears the bot; one that others end says nothing of it."""
    story = Story()
    story.tell("s1", warm(0), started("r1", 0), ended(3, Outcome.FAILED, "bot-failed"))
    story.tell("s2", warm(4), started("r1", 4), end)

    assert ("echo" in story.memory.bots) == counts


# ---------------------------------------------------------------------------- baseline runners


def look(memory: PoolMemory, second: float, *runners: Any) -> PoolMemory:
    """Return the memory after a look at a pool of these runners."""
    return pool_memory.observed(memory, pool(*runners), at(second))


def test_a_runner_that_dies_young() -> None:
    """A baseline runner that is gone within its first minute, or is up anew, is a failure of its launch."""
    memory = look(PoolMemory(), 0, runner("a", up_s=1), runner("b", up_s=2))
    memory = look(memory, 20, runner("a", up_s=21), runner("b", up_s=1))
    assert memory.breaker.last == "runner b died in its first minute, 2 s old"

    memory = look(memory, 30, runner("b", up_s=11))
    assert (memory.breaker.failures, memory.breaker.last) == (2, "runner a died in its first minute, 21 s old")

    memory = look(memory, 80, runner("b", up_s=61))
    assert (memory.breaker.failures, memory.young) == (0, {})


@pytest.mark.parametrize("fields", [{"draining": True}, {"claim": "s1-1"}, {"instance": ""}, {"up_s": 90}])
def test_runners_that_may_go(fields: dict[str, Any]) -> None:
    """One that drains, was launched for one session, was started by hand or is old enough may go without notice."""
    memory = look(PoolMemory(), 0, runner("a", **({"up_s": 5} | fields)))

    assert look(memory, 1).breaker.failures == 0


def test_deaf() -> None:
    """While this scheduler doesn't hear, nothing is learned of who is there."""
    memory = look(PoolMemory(), 0, runner("a", up_s=5))

    assert pool_memory.observed(memory, pool(hearing=False), at(9)) == memory


def test_silence_is_timed() -> None:
    """Instances that don't report are known with the time since when, and whether they ever did."""
    memory = look(PoolMemory(), 0, runner("a"))
    facts = pool(instances=(instance("i-a"), instance("i-b")))
    for second in (5, 6):
        memory = pool_memory.observed(memory, facts, at(second))
    assert (memory.silent_since, memory.reported) == ({"i-a": at(5), "i-b": at(5)}, {"i-a"})

    memory = look(memory, 7, runner("b"))
    assert (memory.silent_since, memory.reported) == ({}, {"i-b"})


def test_the_group_is_measured_too() -> None:
    """A baseline runner takes from when its instance is seen to its first heartbeat; its silence later is no start."""
    coming = pool(instances=(instance("i-a", state="pending"),))
    memory = pool_memory.observed(PoolMemory(), coming, at(0))
    memory = look(pool_memory.observed(memory, coming, at(5)), 17, runner("a"))
    assert memory.cold_starts.took_s == (17,)

    memory = look(pool_memory.observed(memory, coming, at(30)), 40, runner("a"))
    assert memory.cold_starts.took_s == (17,)


def test_a_clock_that_is_set_back() -> None:
    """A runner that has been idle doesn't wait for a clock to catch up."""
    memory = look(look(PoolMemory(), 3600, runner("a")), 0, runner("a"))

    assert memory.idle_since == {"a": at(0)}
