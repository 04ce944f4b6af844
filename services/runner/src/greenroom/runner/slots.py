"""The slots of a runner: which start is taken, what each session that holds a slot is doing, and what is due when.

Pure: no I/O, no clock. Times are seconds of any monotonic clock. Whatever is to be done to a process comes out of
`due`, and out of nothing else: to stop, cancel, terminate or kill it is a matter of time alone.
"""

import enum
import math
from collections import OrderedDict
from collections.abc import Iterator
from datetime import datetime
from typing import Final

import msgspec

from greenroom.common.lifecycle import Actor, Limits, Outcome, Session, State
from greenroom.common.messages import BotOffer, HeldSession, StartAccepted, StartAnswer, StartRefused
from greenroom.common.reasons import Reason

# The end ladder as shares of `limits.end_timeout_s`: the bot finishes its sentence, the pipeline is canceled, the
# process is asked and then made to end. One deadline for all of it, which runs from the first step on.
CANCEL_AT: Final = 0.6
TERMINATE_AT: Final = 0.8
# A process that was killed is gone in milliseconds, unless the kernel holds it; then it is told again and again.
KILL_AGAIN_S: Final = 1.0
# Starts that come twice come within seconds; this many ended sessions are remembered to know them by.
_REMEMBERED: Final = 4096

# A session and the lease under which it was started here.
type Key = tuple[str, int]


class Step(enum.StrEnum):
    """What is done to a process so that it ends."""

    STOP = "stop"
    CANCEL = "cancel"
    TERMINATE = "terminate"
    KILL = "kill"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Why a session ends, and who says so."""

    by: Actor
    outcome: Outcome
    reason: str
    detail: str | None = None

    @classmethod
    def of(cls, reason: Reason, *, by: Actor = "runner", detail: str | None = None) -> "Verdict":
        """Return the verdict that a reason of ours stands for."""
        return cls(by=by, outcome=Outcome(reason.outcome or Outcome.FAILED), reason=reason.value, detail=detail)


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """A step whose time has come. `deadline_s`: for STOP, how long the bot may take over its goodbye."""

    key: Key
    step: Step
    verdict: Verdict
    deadline_s: float = 0.0


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A session that holds a slot. Deadlines that don't apply (any more) are None."""

    session_id: str
    tenant: str
    epoch: int
    limits: Limits
    phase: State
    since: datetime
    claim_by: float | None
    start_by: float | None
    join_by: float | None = None
    max_until: float | None = None
    # What is still to come, by time; not empty exactly if the session ends, and then the deadlines above are None.
    ladder: tuple[tuple[float, Step], ...] = ()
    verdict: Verdict | None = None
    # An earlier lease of the same session, whose process must be gone before this one's may have the session.
    after: Key | None = None

    @property
    def key(self) -> Key:
        """What it is held under."""
        return self.session_id, self.epoch


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a start; `held` is set if it is a new one that has to be carried out now."""

    answer: StartAnswer
    held: Held | None = None


class Slots:
    """See the module.

    Args:
        runner_id: who holds them.
        size: how many sessions at once.
    """

    def __init__(self, runner_id: str, size: int) -> None:
        self.size: Final = size
        self._runner_id = runner_id
        self._held: dict[Key, Held] = {}
        self._ended: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Held]:
        return iter(tuple(self._held.values()))

    def __contains__(self, key: Key) -> bool:
        return key in self._held

    @property
    def free(self) -> int:
        """How many more sessions can be taken."""
        return self.size - len(self._held)

    def sessions(self) -> tuple[HeldSession, ...]:
        """Return what the heartbeat says of the sessions."""
        return tuple(
            HeldSession(
                session_id=held.session_id, tenant=held.tenant, epoch=held.epoch, phase=held.phase, since=held.since
            )
            for held in self._held.values()
        )

    # ------------------------------------------------------------------------ taking

    def offer(
        self,
        session: Session,
        *,
        now: float,
        at: datetime,
        bot: BotOffer | None,
        draining: bool,
        capacity: int,
        overload: str | None = None,
    ) -> Decision:
        """Decide on a start; the same one gets the same answer, whatever has happened since.

        A newer lease ends the process of an older one at once: somebody has declared that one lost.

        Args:
            session: leased to this runner.
            now: monotonic time.
            at: wall time; what is left of the lease is reckoned from it.
            bot: the session's, in its version; None: it isn't here.
            draining: whether nothing new is taken.
            capacity: how many sessions can be held now; less than `size` while no process can be had.
            overload: why the host can't bear one more, whatever is free.
        """
        key = session.id, session.epoch
        older = [held for held in self._held.values() if held.session_id == session.id and held.epoch < session.epoch]
        for held in older:
            detail = f"leased again to this runner with epoch {session.epoch}"
            self._kill(held, Verdict.of(Reason.FENCED, detail=detail), now)
        if key in self._held or self._ended.get(session.id) == session.epoch:
            return Decision(answer=StartAccepted(session_id=session.id, epoch=session.epoch))
        refusal = self._refusal(session, bot=bot, draining=draining, capacity=capacity, overload=overload)
        if refusal is not None:
            return Decision(answer=refusal)
        lease_s = (session.lease_expires_at - at).total_seconds() if session.lease_expires_at else None
        held = self._held[key] = Held(
            session_id=session.id,
            tenant=session.tenant,
            epoch=session.epoch,
            limits=session.limits,
            phase=State.LEASED,
            since=at,
            claim_by=None if lease_s is None else now + max(lease_s, 0.0),
            start_by=now + session.limits.start_timeout_s,
            after=older[-1].key if older else None,
        )
        return Decision(answer=StartAccepted(session_id=session.id, epoch=session.epoch), held=held)

    def _refusal(
        self, session: Session, *, bot: BotOffer | None, draining: bool, capacity: int, overload: str | None
    ) -> StartRefused | None:
        if (stale := self._stale(session)) is not None:
            return StartRefused(code="stale-epoch", detail=stale)
        if draining:
            return StartRefused(code="draining")
        if (refusal := _bot_refusal(session, bot)) is not None:
            return refusal
        capacity = min(capacity, self.size)
        if len(self._held) >= capacity:
            return StartRefused(code="no-slot", detail=f"{len(self._held)} of {capacity} are taken")
        if overload is not None:
            return StartRefused(code="overloaded", detail=overload)
        return None

    def _stale(self, session: Session) -> str | None:
        newest = max((held.epoch for held in self._held.values() if held.session_id == session.id), default=0)
        newest = max(newest, self._ended.get(session.id, 0))
        if session.epoch < newest:
            return f"epoch {newest} was here already"
        if session.state is not State.LEASED or session.runner_id != self._runner_id:
            return f"it isn't leased to {self._runner_id}"
        return None

    # ------------------------------------------------------------------------ what happens to one that is held

    def claimed(self, key: Key, at: datetime) -> None:
        """The claim is in the ledger."""
        held = self._held.get(key)
        if held is not None:
            phase = State.STARTED if held.phase is State.LEASED else held.phase
            self._change(held, claim_by=None, phase=phase, since=at if phase is not held.phase else held.since)

    def ready(self, key: Key, *, now: float, at: datetime) -> bool:
        """The pipeline runs; return whether that is still of interest."""
        held = self._held.get(key)
        if held is None or held.start_by is None:
            return False
        self._change(
            held,
            phase=State.READY,
            since=at,
            start_by=None,
            join_by=now + held.limits.join_timeout_s,
            max_until=now + held.limits.max_duration_s,
        )
        return True

    def connected(self, key: Key) -> None:
        """Somebody is on the line."""
        held = self._held.get(key)
        if held is not None:
            self._change(held, join_by=None)

    def moved(self, key: Key, *, connected: bool, now: float) -> None:
        """It is in another room, or in its own once more: who isn't there has as long as at first to come."""
        held = self._held.get(key)
        if held is not None and held.phase is State.READY:
            self._change(held, join_by=None if connected else now + held.limits.join_timeout_s)

    def end(self, key: Key, verdict: Verdict, *, now: float, at: datetime, within_s: float = math.inf) -> bool:
        """Begin to end it, within `end_timeout_s` or `within_s`, whichever is less.

        Returns:
            False if it is ending already, or isn't held.
        """
        held = self._held.get(key)
        if held is None or held.ladder:
            return False
        self._end(held, verdict, now, at, first=Step.STOP, within_s=within_s)
        return True

    def ends_itself(self, key: Key, verdict: Verdict, *, now: float, at: datetime) -> bool:
        """It has said that it ends: it need not be told, but its time runs; return False if it was ending already."""
        held = self._held.get(key)
        if held is None or held.ladder:
            return False
        self._end(held, verdict, now, at, first=None)
        return True

    def kill(self, key: Key, verdict: Verdict, *, now: float) -> None:
        """No goodbye: its process must go at once, because it belongs to somebody else or time is up."""
        held = self._held.get(key)
        if held is not None:
            self._kill(held, verdict, now)

    def exited(self, key: Key) -> Held | None:
        """Its process was seen to exit, or it never had one: the slot is free. Return what was held."""
        held = self._held.pop(key, None)
        if held is not None:
            self._ended[held.session_id] = max(held.epoch, self._ended.get(held.session_id, 0))
            self._ended.move_to_end(held.session_id)
            while len(self._ended) > _REMEMBERED:
                self._ended.popitem(last=False)
        return held

    # ------------------------------------------------------------------------ what is due

    def next_due(self) -> float | None:
        """Return when `due` has to be called next; None: when something has changed."""
        return min((when for held in self._held.values() for when in _times(held)), default=None)

    def due(self, *, now: float, at: datetime) -> list[Due]:
        """Return the steps whose time has come, and begin to end what is over time."""
        steps: list[Due] = []
        for held in tuple(self._held.values()):
            self._check_deadlines(held, now, at)
            steps += self._climb(self._held[held.key], now)
        return steps

    def _check_deadlines(self, held: Held, now: float, at: datetime) -> None:
        limits = held.limits
        if _over(held.claim_by, now):
            detail = "the claim wasn't in the ledger when the lease ran out"
            self._kill(held, Verdict.of(Reason.FENCED, detail=detail), now)
        elif _over(held.start_by, now):
            detail = f"no running pipeline after {limits.start_timeout_s:g} s"
            self._end(held, Verdict.of(Reason.START_TIMEOUT, detail=detail), now, at, first=Step.STOP)
        elif _over(held.max_until, now):
            detail = f"{limits.max_duration_s:g} s"
            self._end(held, Verdict.of(Reason.MAX_DURATION_EXCEEDED, detail=detail), now, at, first=Step.STOP)
        elif _over(held.join_by, now):
            detail = f"nobody for {limits.join_timeout_s:g} s"
            self._end(held, Verdict.of(Reason.NOBODY_JOINED, detail=detail), now, at, first=Step.STOP)

    def _climb(self, held: Held, now: float) -> list[Due]:
        reached = [step for when, step in held.ladder if when <= now]
        if not reached or held.verdict is None:
            return []
        left = tuple((when, step) for when, step in held.ladder if when > now)
        if reached[-1] is Step.KILL:
            left = ((now + KILL_AGAIN_S, Step.KILL),)
        self._change(held, ladder=left)
        cancel_at = next((when for when, step in held.ladder if step is Step.CANCEL), now)
        return [Due(key=held.key, step=step, verdict=held.verdict, deadline_s=cancel_at - now) for step in reached]

    def _end(
        self, held: Held, verdict: Verdict, now: float, at: datetime, *, first: Step | None, within_s: float = math.inf
    ) -> None:
        whole = min(held.limits.end_timeout_s, within_s)
        ladder = (
            *(((now, first),) if first else ()),
            (now + whole * CANCEL_AT, Step.CANCEL),
            (now + whole * TERMINATE_AT, Step.TERMINATE),
            (now + whole, Step.KILL),
        )
        self._change(
            held,
            phase=State.ENDING,
            since=at,
            verdict=verdict,
            ladder=ladder,
            start_by=None,
            join_by=None,
            max_until=None,
        )

    def _kill(self, held: Held, verdict: Verdict, now: float) -> None:
        self._change(
            held,
            verdict=verdict,
            ladder=((now, Step.KILL),),
            claim_by=None,
            start_by=None,
            join_by=None,
            max_until=None,
        )

    def _change(self, held: Held, **changes: object) -> None:
        self._held[held.key] = msgspec.structs.replace(held, **changes)


def _bot_refusal(session: Session, offer: BotOffer | None) -> StartRefused | None:
    """Return why the session's bot can't run here."""
    if offer is None:
        return StartRefused(code="bot-unknown", detail=f"{session.bot} in version {session.agent_version}")
    if offer.error is not None:
        return StartRefused(code="bot-import-failed", detail=offer.error)
    if offer.missing_secrets:
        return StartRefused(code="secret-missing", detail=", ".join(offer.missing_secrets))
    return None


def _times(held: Held) -> Iterator[float]:
    deadlines = (held.claim_by, held.start_by, held.join_by, held.max_until)
    yield from (when for when in deadlines if when is not None)
    yield from (when for when, _ in held.ladder[:1])


def _over(deadline: float | None, now: float) -> bool:
    return deadline is not None and deadline <= now
