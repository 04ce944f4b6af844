"""What becomes of a delivery after an attempt."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from greenroom.recorder.webhooks.schedule import LONGEST_DELAY_S, Outcome, Verdict, delay_s, judge

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
DAY = timedelta(hours=24)

chances = st.floats(0, 1)
failed = st.one_of(
    st.builds(Outcome, error=st.sampled_from(["timeout", "connection-failed", "url-refused"])),
    st.builds(
        Outcome,
        status=st.integers(100, 599).filter(lambda status: status // 100 != 2 and status != 410),
        retry_after_s=st.none() | st.floats(0, 1e9),
    ),
)


def test_a_day_of_failures() -> None:
    """The delay doubles from 5 s to an hour; the last of some thirty attempts is made when a day is over."""
    now, attempts, delays = NOW, 0, list[float]()
    while True:
        attempts += 1
        verdict = judge(
            Outcome(status=500), attempts=attempts, failures=attempts, now=now, give_up_at=NOW + DAY, chance=0.5
        )
        if verdict.fate == "dead":
            break
        delays.append(verdict.delay_s)
        now += timedelta(seconds=verdict.delay_s)
    assert delays[:4] == [5, 10, 20, 40]
    assert max(delays) == LONGEST_DELAY_S
    assert now == NOW + DAY
    assert 30 <= attempts <= 36


@given(outcome=failed, attempts=st.integers(1, 10_000), failures=st.integers(0, 10_000), chance=chances)
def test_failures_are_tried_again(outcome: Outcome, attempts: int, failures: int, chance: float) -> None:
    """Until its time is up, with a delay that is bounded, not before its endpoint wants it, and not behind the end."""
    verdict = judge(outcome, attempts=attempts, failures=failures, now=NOW, give_up_at=NOW + DAY, chance=chance)
    assert verdict.fate == "again"
    assert 3.99 <= verdict.delay_s <= LONGEST_DELAY_S * 1.201
    assert verdict.delay_s >= min(outcome.retry_after_s or 0, LONGEST_DELAY_S)
    assert 0 <= verdict.pause_s <= 60
    assert (verdict.pause_s > 0) == (failures >= 2)
    late = judge(outcome, attempts=attempts, failures=0, now=NOW + DAY, give_up_at=NOW + DAY, chance=chance)
    assert late.fate == "dead"


@given(status=st.integers(200, 299), late=st.booleans())
def test_success(status: int, *, late: bool) -> None:
    """Any status of 2xx delivers it, however late."""
    now = NOW + 2 * DAY if late else NOW
    verdict = judge(Outcome(status=status), attempts=9, failures=9, now=now, give_up_at=NOW + DAY, chance=1)
    assert verdict == Verdict(fate="delivered")


def test_final_verdicts() -> None:
    """410 ends it and the endpoint; what can't be sent at all ends it alone."""
    gone = judge(Outcome(status=410), attempts=1, failures=0, now=NOW, give_up_at=NOW + DAY, chance=0)
    assert gone == Verdict(fate="dead", disable=True)
    erased = judge(
        Outcome(error="event-erased", final=True), attempts=1, failures=5, now=NOW, give_up_at=NOW + DAY, chance=0
    )
    assert erased == Verdict(fate="dead")


@given(attempts=st.integers(1, 100), chance=chances)
def test_jitter(attempts: int, chance: float) -> None:
    """Chance moves a delay by a fifth at most."""
    middle = delay_s(attempts, 0.5)
    assert 0.79 * middle <= delay_s(attempts, chance) <= 1.21 * middle
