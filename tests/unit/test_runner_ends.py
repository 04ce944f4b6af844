"""Each reason that a runner or its session process decides by itself, brought about."""

import signal
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import pytest
from pipecat.frames.frames import CancelFrame, EndFrame

from greenroom.common.ends import ENDS
from greenroom.common.lifecycle import Limits, Session, State
from greenroom.common.messages import BotOffer
from greenroom.common.reasons import Reason
from greenroom.runner.session.ending import verdict_for, verdict_on
from greenroom.runner.session.vigil import Over, Vigil
from greenroom.runner.slots import Slots, Step
from greenroom.runner.verdicts import Exit, judge
from tests.support.session_rig import new_session

AT = datetime(2026, 2, 3, tzinfo=UTC)
LIMITS = Limits(
    start_timeout_s=1,
    join_timeout_s=2,
    max_duration_s=3,
    first_audio_timeout_s=4,
    no_progress_timeout_s=5,
    silence_timeout_s=6,
    rejoin_timeout_s=7,
)
# Brought about with real processes, in tests/integration.
ELSEWHERE = {
    Reason.CLIENT_LEFT,
    Reason.TRANSFERRED,
    Reason.BOT_IMPORT_FAILED,
    Reason.TRANSPORT_FAILED,
    Reason.BODY_UNAVAILABLE,
    Reason.UNRESPONSIVE,
    Reason.OUT_OF_MEMORY,
    Reason.TOO_MANY_PROCESSES,
    Reason.DRAIN_DEADLINE,
}


def leased() -> Session:
    """Return a session that is leased to the runner `r`."""
    fields = {"state": State.LEASED, "runner_id": "r", "limits": LIMITS}
    return msgspec.structs.replace(new_session("echo"), **fields)


def due_in_slots(*, ready: bool, connected: bool) -> str:
    """Return why a session is ended when its time is up."""
    slots, session = Slots("r", 1), leased()
    slots.offer(session, now=0, at=AT, bot=BotOffer(name="echo"), draining=False, capacity=1)
    key = session.id, session.epoch
    slots.claimed(key, AT)
    if ready:
        slots.ready(key, now=0, at=AT)
    if connected:
        slots.connected(key)
    when = slots.next_due()
    assert when is not None
    [due] = slots.due(now=when, at=AT)
    return due.verdict.reason


def due_in_call(without: Reason) -> str:
    """Return why a call is ended in which all is well but for what leads to a reason."""
    vigil = Vigil(LIMITS)
    vigil.ready(0)
    vigil.connected(0)
    for tick in range(4 * 10):
        now = tick / 4
        vigil.heard(now)
        if without is not Reason.NO_PROGRESS:
            vigil.moved(now)
        if without is not Reason.NO_FIRST_AUDIO and tick == 0:
            vigil.sounded(now)
        vigil.speaks("user", now, begins=without is not Reason.SILENCE_TIMEOUT) if tick == 0 else None
        if without is Reason.ROOM_EMPTY and tick == 1:
            vigil.left(now)
        overs = [finding for finding in vigil.look(now) if isinstance(finding, Over)]
        if overs:
            return overs[0].reason.value
    return "none"


def killed(last_step: Step | None) -> str:
    """Return what is made of a process that was killed with nothing announced."""
    return judge(announced=None, finished=None, exited=Exit(code=-signal.SIGKILL), last_step=last_step).reason


CAUSES: dict[Reason, Callable[[], str]] = {
    Reason.COMPLETED: lambda: verdict_on(EndFrame()).reason,
    Reason.IDLE_TIMEOUT: lambda: verdict_on(CancelFrame(reason="idle timeout")).reason,
    Reason.BOT_FAILED: lambda: verdict_on(CancelFrame(reason="fatal error: no key")).reason,
    Reason.START_TIMEOUT: lambda: due_in_slots(ready=False, connected=False),
    Reason.NOBODY_JOINED: lambda: due_in_slots(ready=True, connected=False),
    Reason.MAX_DURATION_EXCEEDED: lambda: due_in_slots(ready=True, connected=True),
    Reason.END_TIMEOUT: lambda: killed(Step.KILL),
    Reason.PROCESS_KILLED: lambda: killed(None),
    **{
        reason: lambda reason=reason: due_in_call(reason)
        for reason in (Reason.NO_FIRST_AUDIO, Reason.NO_PROGRESS, Reason.SILENCE_TIMEOUT, Reason.ROOM_EMPTY)
    },
}


def test_no_reason_is_left_out() -> None:
    """Every end that is decided on a runner is brought about, here or with real processes."""
    decided = {reason for reason, end in ENDS.items() if end.by in {"runner", "session", "bot"}}
    assert set(CAUSES) | ELSEWHERE == decided


@pytest.mark.parametrize("reason", CAUSES)
def test_what_leads_to_a_reason_leads_to_it(reason: Reason) -> None:
    """The reason is the one that the table of ends has."""
    assert CAUSES[reason]() == reason.value


@pytest.mark.parametrize("reason", [reason for reason in ENDS if ENDS[reason].by in {"runner", "session"}])
def test_a_cancelation_knows_the_outcome_of_every_reason(reason: Reason) -> None:
    """Whoever cancels for a reason of the table needn't say how the session went."""
    assert verdict_for(reason.value).outcome.value == reason.outcome
