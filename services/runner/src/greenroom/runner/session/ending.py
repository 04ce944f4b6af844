"""How and why a session ends: decided once, by whoever is first."""

import asyncio
import re
from typing import Final

import msgspec
from pipecat.frames.frames import CancelFrame, EndFrame, Frame

from greenroom.common.lifecycle import Outcome
from greenroom.common.reasons import Reason

_NOT_A_CODE: Final = re.compile(r"[^a-z0-9]+")
_MAX_CODE: Final = 64
_MAX_DETAIL: Final = 300
# What Pipecat itself gives as the reason of a CancelFrame (pinned by a conformance test).
_IDLE: Final = "idle timeout"
_FATAL: Final = re.compile(r"^fatal error|can no longer do its job$")


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome and reason code of a session; `detail` is for people."""

    outcome: Outcome
    reason: str
    detail: str | None = None


class Ending:
    """The end of one session.

    `begun` is set with the verdict; later ones change nothing: what comes while a session ends is a consequence.
    `hurry` is set when there is no time for the bot to finish in order.
    """

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.hurry = asyncio.Event()
        self.verdict: Verdict | None = None
        self._handed_over = False

    def decide(self, outcome: Outcome, reason: str, detail: str | None = None) -> bool:
        """Give the verdict; returns whether it counts."""
        if self.verdict is not None:
            return False
        verdict = Verdict(outcome=outcome, reason=reason, detail=detail[:_MAX_DETAIL] if detail else None)
        self.verdict = self._named(verdict)
        self.begun.set()
        return True

    def handed_over(self) -> None:
        """A carrier has taken the caller: he hasn't left, though it looks so, and may have before this is known."""
        self._handed_over = True
        if self.verdict is not None:
            self.verdict = self._named(self.verdict)

    def _named(self, verdict: Verdict) -> Verdict:
        if self._handed_over and verdict.reason == Reason.CLIENT_LEFT.value:
            return msgspec.structs.replace(verdict, reason=Reason.TRANSFERRED.value)
        return verdict

    def stop(self, now: bool, detail: str | None) -> None:  # noqa: FBT001 a callback
        """End in order, or at once, because somebody asks for it."""
        self.decide(Outcome.COMPLETED, Reason.CLIENT_STOP.value, detail)
        if now:
            self.hurry.set()


def verdict_on(frame: Frame) -> Verdict:
    """Return what a frame that ends a pipeline says of the session.

    A bot names its reason with `EndFrame(reason="goodbye")`, or with the frames and methods that lead to one.
    """
    reason = frame.reason if isinstance(frame, EndFrame | CancelFrame) else None
    text = reason if isinstance(reason, str) else ""
    if isinstance(frame, CancelFrame) and text == _IDLE:
        return Verdict(outcome=Outcome.COMPLETED, reason=Reason.IDLE_TIMEOUT.value)
    if isinstance(frame, CancelFrame) and _FATAL.search(text):
        return Verdict(outcome=Outcome.FAILED, reason=Reason.BOT_FAILED.value, detail=text)
    code = _NOT_A_CODE.sub("-", text.lower()).strip("-")[:_MAX_CODE].rstrip("-")
    return Verdict(outcome=Outcome.COMPLETED, reason=code or Reason.COMPLETED.value)


def verdict_for(reason: str) -> Verdict:
    """Return the verdict on a session that is canceled for `reason`: as the catalogue has it, else `canceled`."""
    known = next((entry for entry in Reason if entry.value == reason and entry.outcome), None)
    return Verdict(outcome=Outcome(known.outcome) if known and known.outcome else Outcome.CANCELED, reason=reason)


def where_raised(error: BaseException) -> str:
    """Return the error's class and the place it was raised at, without its text, which may hold anything."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = f" ({frame.tb_frame.f_code.co_filename.rpartition('/')[2]}:{frame.tb_lineno})" if frame else ""
    return f"{type(error).__qualname__}{place}"
