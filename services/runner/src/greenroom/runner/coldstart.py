"""How a runner that was launched for one session comes to it: reads its lease, claims it once it can, or leaves.

The lease is older than the runner: it was granted to the id that this runner has taken. Whether it still holds is read
when the runner could begin, and settled by the claim, which is a compare-and-set on what was read. So a runner that
comes too late, comes twice, or finds that its caller has hung up does nothing, and leaves.
"""

import asyncio
import contextlib
import enum
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog
from opentelemetry.trace import Span

from greenroom.common import subjects
from greenroom.common.broker import Broker, Message
from greenroom.common.clock import Clock
from greenroom.common.errors import BrokerUnavailable, GreenroomError, LedgerCorrupt, TopologyMissing
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import Ended, Outcome, Requeued, Session, State, Transition
from greenroom.common.messages import StartRefused, StartSession
from greenroom.common.reasons import Reason
from greenroom.common.telemetry import mark_failed, session_span
from greenroom.runner.app import Runner
from greenroom.runner.claim import Claim
from greenroom.runner.discovery import BotSpec
from greenroom.runner.handover import first_of
from greenroom.runner.supervisor import Supervisor

_log = structlog.get_logger()

# The lease is written before the launch: where it can't be seen a replica is behind, or there is none.
_APPEARS_S: Final = 10.0
# What others write about the session is heard; this is for what wasn't.
_LOOK_S: Final = 1.0
_RETRY_S: Final = 0.2
# Gives the lease back within this, or lets it run out.
_GIVE_BACK_S: Final = 5.0
# What a refusal means to the queue; any other is the runner's own business.
_REASONS: Final = {"no-slot": Reason.NO_FREE_SLOT, "draining": Reason.RUNNER_DRAINING}


class ClaimFailed(GreenroomError):
    """A runner that was launched for one session couldn't take it; the session is back in the queue, or soon will be.

    Either the runner can't run it (`detail` has the reason, mostly that the bot isn't installed or can't be imported),
    or it wasn't up, or couldn't reach the broker, before the lease ran out. If that is usual, raise `cold_deadline_s`
    of the pool.
    """

    code = "claim-failed"
    status = 503
    title = "The session it was launched for couldn't be claimed"
    retryable = True


class Finding(enum.StrEnum):
    """What the ledger says of a claim."""

    # Leased to this runner.
    HELD = "held"
    # Nobody has leased it yet, as far as can be seen.
    UNSEEN = "unseen"
    # Somebody has ended it before it began, and it is for whoever holds the lease to say that it is over.
    STOPPED = "stopped"
    # Ended, put back, given to somebody else, or claimed already.
    GONE = "gone"


def judge(claim: Claim, session: Session | None) -> Finding:
    """Return what becomes of a claim in view of the session as the ledger has it; None: the ledger doesn't have it."""
    if session is None or session.epoch < claim.epoch:
        return Finding.UNSEEN
    if (session.epoch, session.runner_id) != (claim.epoch, claim.runner_id):
        return Finding.GONE
    if session.state is State.ENDING and session.started_at is None:
        return Finding.STOPPED
    return Finding.HELD if session.state is State.LEASED else Finding.GONE


class ColdStart:
    """See the module.

    Args:
        claim: what the runner was launched for.
        timeout_s: how long the lease may take to be read; from then on it says itself how long it holds.
        broker: tells what others write about the session.
        ledger: where the lease is.
        runner: carries the session out.
        supervisor: is told which bot to import.
        discover: returns where a session's bot is; empty if it isn't here, or not in the session's version.
        clock: time.
        age_s: for how long this process has been there.
    """

    def __init__(
        self,
        claim: Claim,
        *,
        timeout_s: float,
        broker: Broker,
        ledger: Ledger,
        runner: Runner,
        supervisor: Supervisor,
        discover: Callable[[Session], tuple[BotSpec, ...]],
        clock: Clock,
        age_s: float,
    ) -> None:
        self._claim = claim
        self._broker = broker
        self._ledger = ledger
        self._runner = runner
        self._supervisor = supervisor
        self._discover = discover
        self._clock = clock
        self._marks: list[tuple[str, int]] = []
        self._began_ns: Final = time.time_ns() - round(age_s * 1e9)
        self._began: Final = clock.monotonic() - age_s
        self._deadline = self._began + timeout_s
        self._supplied = False
        self._withdrawn = False
        self._nudge = asyncio.Event()
        self._decided = asyncio.Event()
        self._mark("connected")

    async def run(self) -> str:
        """Claim the session and see it through; return how that went, for the log.

        Raises:
            ClaimFailed: it can't be run here, or not in time.
        """
        claim = self._claim
        subject = subjects.SESSION_LIFECYCLE.format(tenant=claim.tenant, session_id=claim.session_id)
        listening = await self._broker.subscribe(subject, self._on_lifecycle)
        try:
            entry = await self._lease()
            if entry is None:
                return "claim_gone"
            if self._withdrawn:
                await self._give_back(entry, Reason.RUNNER_DRAINING, "stopped before the claim")
                return "claim_withdrawn"
            claimed = await self._start(entry)
        finally:
            self._decided.set()
            await listening.unsubscribe()
        if claimed:
            await self._runner.until_empty()
        return "claim_served" if claimed else "claim_gone"

    async def withdraw(self) -> None:
        """Claim nothing any more: the lease goes back, unless the session has begun. Returns when that is settled."""
        self._withdrawn = True
        self._nudge.set()
        await self._decided.wait()

    # ------------------------------------------------------------------------ the lease

    async def _lease(self) -> Entry | None:
        """Return the lease, as it is when the runner could begin; None if there is none any more.

        Raises:
            ClaimFailed: it took too long.
        """
        while True:
            self._nudge.clear()
            could_begin = self._supervisor.available
            entry = await self._read()
            match judge(self._claim, entry.session if entry else None):
                case Finding.HELD if entry is not None:
                    self._seen(entry)
                    if could_begin or self._withdrawn:
                        return entry
                case Finding.STOPPED if entry is not None:
                    await self._write(entry, _end_of(entry.session))
                    return self._gone(entry)
                case Finding.UNSEEN if not self._withdrawn and self._left(self._began + _APPEARS_S) > 0:
                    pass
                case _:
                    return self._gone(entry)
            await self._wait(could_begin=could_begin)

    async def _read(self) -> Entry | None:
        while True:
            try:
                return await self._ledger.last(self._claim.tenant, self._claim.session_id)
            except LedgerCorrupt as error:
                raise ClaimFailed(f"the lease can't be read: {error.code}") from error
            except (BrokerUnavailable, TopologyMissing) as error:
                if self._withdrawn or self._left(self._deadline) <= _RETRY_S:
                    raise ClaimFailed(f"the lease couldn't be read: {error.code}") from error
            await self._clock.sleep(_RETRY_S)

    def _seen(self, entry: Entry) -> None:
        """Take from the first sight of the lease how long it holds, and which bot is needed.

        The lease is reckoned from the start of this process, which was later: so no two hosts' clocks are compared.
        """
        if self._supplied:
            return
        self._supplied = True
        self._mark("lease")
        session = entry.session
        if session.lease_expires_at is not None and session.leased_at is not None:
            self._deadline = self._began + (session.lease_expires_at - session.leased_at).total_seconds()
        self._supervisor.supply(self._discover(session))

    async def _wait(self, *, could_begin: bool) -> None:
        """Wait until the ledger is to be read again.

        Raises:
            ClaimFailed: there is no time left.
        """
        left_s = self._left(self._deadline)
        if left_s <= 0:
            raise ClaimFailed(f"no process could be had in the {self._deadline - self._began:.0f} s of the lease")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(left_s, _LOOK_S)):
                if could_begin:
                    await self._nudge.wait()
                else:
                    await first_of(self._nudge.wait(), self._supervisor.until_available())

    def _left(self, deadline: float) -> float:
        return deadline - self._clock.monotonic()

    def _gone(self, entry: Entry | None) -> None:
        session = entry.session if entry is not None else None
        _log.info(
            "claim_gone",
            claim=self._claim.id,
            state=session.state.value if session else None,
            epoch=session.epoch if session else None,
            runner_id=session.runner_id if session else None,
        )

    async def _on_lifecycle(self, _message: Message) -> None:
        self._nudge.set()

    # ------------------------------------------------------------------------ the claim

    async def _start(self, entry: Entry) -> bool:
        """Start the session; return whether the claim was made.

        Raises:
            ClaimFailed: the runner refused, and has given the lease back.
        """
        session = entry.session
        self._mark("warm")
        with session_span(
            "runner.cold_start",
            session_id=session.id,
            tenant=session.tenant,
            traceparent=session.traceparent,
            attributes={
                "greenroom.runner_id": self._claim.runner_id,
                "greenroom.epoch": session.epoch,
                "greenroom.bot": session.bot,
                **{f"greenroom.zygote.{name}_ms": took_ms for name, took_ms in self._supervisor.stages_ms.items()},
            },
            start_time_ns=self._began_ns,
        ) as span:
            answer = self._runner.start(StartSession(session=session, revision=entry.revision))
            if isinstance(answer, StartRefused):
                mark_failed(span, answer.code)
                await self._refused(entry, answer)
                return False
            claimed = await self._runner.until_claimed((session.id, session.epoch))
            self._report(span, claimed=claimed)
        if not claimed:
            self._gone(entry)
        return claimed

    def _report(self, span: Span, *, claimed: bool) -> None:
        if not claimed:
            mark_failed(span, Reason.FENCED.value)
            return
        self._mark("claimed")
        for name, at_ns in self._marks:
            span.add_event(name, timestamp=at_ns)
        took_ms = {name: round((at_ns - self._began_ns) / 1e6, 1) for name, at_ns in self._marks}
        _log.info("claim_made", claim=self._claim.id, after_ms=took_ms)

    async def _refused(self, entry: Entry, answer: StartRefused) -> None:
        reason = _REASONS.get(answer.code, Reason.RUNNER_REFUSED)
        _log.warning("claim_refused", claim=self._claim.id, code=answer.code, detail=answer.detail)
        await self._give_back(entry, reason, answer.detail)
        if reason is not Reason.RUNNER_DRAINING:
            raise ClaimFailed(f"{answer.code}: {answer.detail}")

    async def _give_back(self, entry: Entry, reason: Reason, detail: str) -> None:
        """Put the session back into the queue at once, rather than have it wait until the lease runs out."""
        _log.info("claim_given_back", claim=self._claim.id, reason=reason.value, detail=detail)
        # The next launch has an id of its own: there is nobody to be passed over.
        await self._write(entry, Requeued(by="runner", epoch=self._claim.epoch, reason=reason, exclude_runner=False))

    async def _write(self, entry: Entry, transition: Transition) -> None:
        try:
            async with asyncio.timeout(_GIVE_BACK_S):
                await self._ledger.advance(entry, transition)
        except (GreenroomError, TimeoutError) as error:
            # Others were first, or the broker is away: the lease runs out by itself.
            code = error.code if isinstance(error, GreenroomError) else "timeout"
            _log.info("claim_write_failed", claim=self._claim.id, code=code)

    def _mark(self, name: str) -> None:
        self._marks.append((name, time.time_ns()))


def process_age_s() -> float:
    """Return for how long this process has been there, to 10 ms, by the kernel's own clock."""
    # The name, in parentheses, may have spaces in it; the start time is the 20th field behind it.
    fields = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return max(time.clock_gettime(time.CLOCK_BOOTTIME) - started_s, 0.0)


def _end_of(session: Session) -> Ended:
    """Return the end of a session that was stopped before anybody ran it: what its stop has said."""
    return Ended(
        by=session.ended_by or "runner",
        epoch=session.epoch,
        outcome=session.outcome or Outcome.CANCELED,
        reason=session.reason or Reason.CLIENT_CANCELED.value,
        detail=session.detail,
    )
