"""What the ledger says of an end."""

import pytest

from greenroom.common.lifecycle import Outcome
from greenroom.common.reasons import Reason
from greenroom.runner.control import Finished
from greenroom.runner.slots import Step, Verdict
from greenroom.runner.verdicts import Exit, judge

CLEAN = Exit(code=0)
KILLED = Exit(code=-9)
TERMINATED = Exit(code=-15)
STOPPED = Verdict(by="client", outcome=Outcome.COMPLETED, reason="client-stop", detail="by key k1")
TIMEOUT = Verdict.of(Reason.START_TIMEOUT, detail="30 s")
RAISED = Verdict(by="session", outcome=Outcome.FAILED, reason="bot-failed", detail="ValueError")
GOODBYE = Finished(outcome=Outcome.COMPLETED, reason="goodbye")


@pytest.mark.parametrize(
    ("announced", "finished", "exited", "last_step", "expected"),
    [
        pytest.param(None, GOODBYE, CLEAN, None, ("session", "completed", "goodbye"), id="it ended itself"),
        pytest.param(STOPPED, GOODBYE, CLEAN, Step.STOP, ("session", "completed", "goodbye"), id="it was quicker"),
        pytest.param(
            STOPPED,
            Finished(outcome=Outcome.COMPLETED, reason="client-stop"),
            CLEAN,
            Step.STOP,
            ("client", "completed", "client-stop"),
            id="a client stopped it",
        ),
        pytest.param(
            TIMEOUT, GOODBYE, CLEAN, Step.STOP, ("runner", "failed", "start-timeout"), id="too late to be well"
        ),
        pytest.param(STOPPED, None, KILLED, Step.KILL, ("runner", "failed", "end-timeout"), id="had to be killed"),
        pytest.param(STOPPED, None, TERMINATED, Step.TERMINATE, ("runner", "failed", "end-timeout"), id="terminated"),
        pytest.param(TIMEOUT, None, KILLED, Step.KILL, ("runner", "failed", "start-timeout"), id="the cause stays"),
        pytest.param(RAISED, None, KILLED, Step.CANCEL, ("session", "failed", "bot-failed"), id="its own cause stays"),
        pytest.param(None, None, KILLED, None, ("runner", "failed", "process-killed"), id="killed by others"),
        pytest.param(
            STOPPED, None, KILLED, Step.STOP, ("runner", "failed", "process-killed"), id="killed while ending"
        ),
        pytest.param(None, None, Exit(code=3), None, ("runner", "failed", "process-killed"), id="it just left"),
        pytest.param(None, None, Exit(code=None), None, ("runner", "failed", "process-killed"), id="nobody saw how"),
        pytest.param(
            None, GOODBYE, Exit(code=-11), None, ("runner", "failed", "process-killed"), id="crashed at the end"
        ),
        pytest.param(None, GOODBYE, Exit(code=1), None, ("session", "completed", "goodbye"), id="its word counts"),
    ],
)
def test_verdicts(
    announced: Verdict | None,
    finished: Finished | None,
    exited: Exit,
    last_step: Step | None,
    expected: tuple[str, str, str],
) -> None:
    """What a process says counts if it lived to say it; a failure that is known already is nearer to the cause."""
    verdict = judge(announced=announced, finished=finished, exited=exited, last_step=last_step)
    assert (verdict.by, verdict.outcome.value, verdict.reason) == expected


def test_the_detail_names_the_signal_and_who_sent_it() -> None:
    """A SIGKILL that the runner didn't send is told apart: most often that is the kernel, out of memory."""
    by_others = judge(announced=None, finished=None, exited=KILLED, last_step=None)
    assert by_others.detail == "SIGKILL, which the runner didn't send"
    by_us = judge(announced=STOPPED, finished=None, exited=KILLED, last_step=Step.KILL)
    assert by_us.detail == "killed with SIGKILL; it was to end with client-stop"
    silent = judge(announced=None, finished=None, exited=Exit(code=3), last_step=None)
    assert silent.detail == "exit code 3 without a last word"
