"""How a session went, from everything that is known once its process is gone. Pure."""

import signal
from typing import Final

import msgspec

from greenroom.common.lifecycle import Outcome
from greenroom.common.reasons import Reason
from greenroom.runner.control import Finished
from greenroom.runner.isolation.groups import GroupEnd
from greenroom.runner.slots import Step, Verdict

_OURS: Final = {Step.TERMINATE: signal.SIGTERM, Step.KILL: signal.SIGKILL}


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How a process ended; `code` is negative for a signal, None where nobody was left to see it."""

    code: int | None
    max_rss_bytes: int = 0
    cpu_s: float = 0.0
    # What its control group has counted, where it had one.
    group: GroupEnd = GroupEnd()

    @property
    def signal_name(self) -> str | None:
        """The signal that killed it, e.g. `SIGKILL`; None if it ended in another way."""
        if self.code is None or self.code >= 0:
            return None
        try:
            return signal.Signals(-self.code).name
        except ValueError:
            return f"signal {-self.code}"

    @property
    def in_words(self) -> str:
        """For people, e.g. `exit code 3` or `SIGKILL`."""
        return self.signal_name or ("exit status unknown" if self.code is None else f"exit code {self.code}")


def judge(*, announced: Verdict | None, finished: Finished | None, exited: Exit, last_step: Step | None) -> Verdict:
    """Return the verdict for the ledger.

    What the session process says of itself counts if it lived to say it: a process that was killed by a signal has
    failed, whatever it had meant to say. A failure that was announced stays what it was, however the process then died:
    it is nearer to the cause.

    Args:
        announced: the verdict with which the session began to end (the runner's, a client's or its own); None if it
            hadn't.
        finished: the last word of the process, if it came to that.
        exited: how the process ended.
        last_step: the last step of the end ladder that was taken.
    """
    failed_already = announced is not None and announced.outcome is Outcome.FAILED
    if finished is not None and exited.signal_name is None:
        if announced is not None and (failed_already or finished.reason == announced.reason):
            return msgspec.structs.replace(announced, detail=announced.detail or finished.detail)
        return Verdict(by="session", outcome=finished.outcome, reason=finished.reason, detail=finished.detail)
    if announced is not None and failed_already:
        return announced
    if exited.code == -signal.SIGKILL and last_step is not Step.KILL and exited.group.oom_kills:
        return Verdict.of(Reason.OUT_OF_MEMORY, detail=_most(exited.group))
    number = _OURS.get(last_step) if last_step is not None else None
    if number is not None and exited.code == -number:
        wanted = f"; it was to end with {announced.reason}" if announced else ""
        return Verdict.of(Reason.END_TIMEOUT, detail=f"killed with {number.name}{wanted}")
    return Verdict.of(Reason.PROCESS_KILLED, detail=_how(exited))


def _most(group: GroupEnd) -> str | None:
    return None if group.peak_bytes is None else f"it had {group.peak_bytes // 2**20} MB at most"


def _how(exited: Exit) -> str:
    if exited.code == -signal.SIGKILL:
        return "SIGKILL, which the runner didn't send"
    if exited.code is not None and exited.code >= 0:
        return f"{exited.in_words} without a last word"
    return exited.in_words
