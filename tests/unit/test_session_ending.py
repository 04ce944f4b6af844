"""How and why a session ends."""

import pytest
from pipecat.frames.frames import CancelFrame, EndFrame, Frame, StopFrame

from greenroom.common.lifecycle import Outcome
from greenroom.runner.session.ending import Ending, Verdict, verdict_for, verdict_on, where_raised

COMPLETED, FAILED = Outcome.COMPLETED, Outcome.FAILED


@pytest.mark.parametrize(
    ("frame", "outcome", "reason"),
    [
        (EndFrame(), COMPLETED, "completed"),
        (EndFrame(reason="goodbye"), COMPLETED, "goodbye"),
        (EndFrame(reason="Transferred to a person!"), COMPLETED, "transferred-to-a-person"),
        (EndFrame(reason="…"), COMPLETED, "completed"),
        (EndFrame(reason={"any": "thing"}), COMPLETED, "completed"),
        (EndFrame(reason="x" * 100), COMPLETED, "x" * 64),
        (StopFrame(), COMPLETED, "completed"),
        (CancelFrame(), COMPLETED, "completed"),
        (CancelFrame(reason="idle timeout"), COMPLETED, "idle-timeout"),
        (CancelFrame(reason="fatal error: no key"), FAILED, "bot-failed"),
        (CancelFrame(reason="TTS#0 can no longer do its job"), FAILED, "bot-failed"),
    ],
)
def test_a_bot_says_why_it_ends(frame: Frame, outcome: Outcome, reason: str) -> None:
    """The reason of the frame that ends a pipeline becomes the reason code of the session."""
    verdict = verdict_on(frame)
    assert (verdict.outcome, verdict.reason) == (outcome, reason)


def test_the_first_verdict_counts() -> None:
    """What comes while a session ends is a consequence, not another end."""
    ending = Ending()
    assert ending.decide(COMPLETED, "goodbye")
    assert not ending.decide(FAILED, "bot-failed", "noise")
    assert ending.verdict == Verdict(outcome=COMPLETED, reason="goodbye")
    assert ending.begun.is_set()


@pytest.mark.parametrize("reason", ["client-left", "goodbye", "bot-failed"])
@pytest.mark.parametrize("known_first", [True, False])
def test_a_caller_who_was_handed_over_has_not_left(reason: str, known_first: bool) -> None:  # noqa: FBT001 by pytest
    """His connection may close before the carrier has said that it took him; other reasons stand."""
    ending = Ending()
    if known_first:
        ending.handed_over()
    ending.decide(COMPLETED, reason)
    if not known_first:
        ending.handed_over()
    assert ending.verdict is not None
    assert ending.verdict.reason == ("transferred" if reason == "client-left" else reason)


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [("drain-deadline", FAILED), ("client-stop", COMPLETED), ("fenced", Outcome.CANCELED), ("odd", Outcome.CANCELED)],
)
def test_a_cancelation_has_the_outcome_of_its_reason(reason: str, outcome: Outcome) -> None:
    """The catalogue of reasons says how a session went that was canceled for one of them."""
    assert verdict_for(reason) == Verdict(outcome=outcome, reason=reason)


def test_an_error_is_told_without_its_text() -> None:
    """What a bot raised is told by its class and place: its text may hold anything."""
    try:
        raise ValueError("the caller's secret")
    except ValueError as error:
        told = where_raised(error)
    assert told.startswith("ValueError (test_session_ending.py:")
    assert "secret" not in told
    assert where_raised(KeyError("never raised")) == "KeyError"
