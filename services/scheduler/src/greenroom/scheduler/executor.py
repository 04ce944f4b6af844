"""Carries out what a plan says: each action is one compare-and-set on the ledger, and for a lease the start request.

A cold lease asks the launcher instead, which starts a runner that claims the session by itself.
"""

import asyncio
from datetime import datetime
from typing import Final

import msgspec
import structlog

from greenroom.common import lifecycle, messages, subjects, telemetry
from greenroom.common.broker import Broker, NoResponder, RequestTimeout
from greenroom.common.clock import Clock
from greenroom.common.errors import BrokerUnavailable, GreenroomError, LedgerConflict, LedgerCorrupt
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import Ended, Moving, Priority, Requeued, Session, State, Transition
from greenroom.common.messages import StartAccepted, StartAnswer, StartRefused, StartSession
from greenroom.common.reasons import Reason
from greenroom.scheduler.actions import Ask, AskLauncher, ColdLease, Lease, SessionAction
from greenroom.scheduler.counters import Counters
from greenroom.scheduler.decisions import Decisions
from greenroom.scheduler.fleet import RunnerKey, holder
from greenroom.scheduler.keeper import Keeper
from greenroom.scheduler.launchers.base import ColdStart, Launcher, LauncherUnavailable, LaunchRefused
from greenroom.scheduler.picture import Picture
from greenroom.scheduler.pool_view import launch_id

_log = structlog.get_logger()

_ANSWER: Final[msgspec.json.Decoder[StartAnswer]] = msgspec.json.Decoder(StartAccepted | StartRefused)
# What a refusal means to the queue. Another code (`bot-unknown`) is the runner's own business.
_REASONS: Final = {
    "no-slot": Reason.NO_FREE_SLOT,
    "draining": Reason.RUNNER_DRAINING,
    "overloaded": Reason.RUNNER_OVERLOADED,
    "bot-import-failed": Reason.BOT_IMPORT_FAILED,
    "secret-missing": Reason.RUNNER_LACKS_SECRET,
}
# Refusals that say nothing of what the runner will answer next time.
_PASSING: Final = frozenset({"no-slot", "overloaded", "stale-epoch"})
# A runner that isn't there or has no room hasn't tried: after the loss of half a fleet a session may meet ten of them.
UNTRIED: Final = frozenset({"no-slot", "draining", "overloaded", NoResponder.code})
# A launcher that takes longer to say yes or no isn't of any use at the moment.
_LAUNCH_TIMEOUT_S: Final = 10.0
# Between two looks at the ledger while the broker is away.
_LOOK_S: Final = 0.5
# Where launches compete for room, Nomad takes 1 to 100, and gives services 50.
_LAUNCH_PRIORITY: Final = {Priority.HIGH: 80, Priority.NORMAL: 60, Priority.LOW: 40}


class Executor:
    """Carries actions out.

    Args:
        broker: to ask runners.
        ledger: where sessions are moved on.
        picture: kept current with every write.
        keeper: is told what becomes of launches.
        launcher: starts runners for cold leases.
        decisions: where it is said what was decided.
        counters: what is counted.
        clock: time.
        start_timeout_s: how long a runner may take to answer a start.
    """

    def __init__(
        self,
        broker: Broker,
        ledger: Ledger,
        picture: Picture,
        *,
        keeper: Keeper,
        launcher: Launcher,
        decisions: Decisions,
        counters: Counters,
        clock: Clock,
        start_timeout_s: float,
    ) -> None:
        self._broker = broker
        self._ledger = ledger
        self._picture = picture
        self._keeper = keeper
        self._launcher = launcher
        self._decisions = decisions
        self._counters = counters
        self._clock = clock
        self._start_timeout_s = start_timeout_s

    def begin(self, action: SessionAction) -> Entry | None:
        """Note in the picture that an action is under way, and return the entry it is to be carried out on."""
        entry = self._picture.entry(action.session_id)
        if entry is None:
            return None
        expected = None
        if isinstance(action, Lease | ColdLease):
            expected = lifecycle.apply(entry.session, action.transition, self._clock.now())
        if isinstance(action, ColdLease):
            self._keeper.granted(entry.session)
        return self._picture.begin(action.session_id, expected)

    async def carry_out(self, action: SessionAction, entry: Entry) -> bool:
        """Carry an action out, and return whether the session has moved on by it.

        That others were first, or that the broker is away, is in the nature of things: the next plan sees to it.
        """
        try:
            match action:
                case Lease() | Ask():
                    await self._place(action, entry)
                case ColdLease():
                    leased = await self._move(entry, action.transition)
                    self._say(entry.session, action)
                    await self._launch(leased)
                case AskLauncher():
                    self._say(entry.session, action)
                    await self._launch(entry)
                case _:
                    await self._move(entry, action.transition)
                    self._say(entry.session, action)
        except GreenroomError as error:
            self._counters.failed.inc(code=error.code)
            _log.info("action_failed", session_id=action.session_id, action=type(action).__name__, code=error.code)
            return False
        finally:
            self._picture.finish(action.session_id)
        return True

    async def take_back(self, session_id: str, transition: Requeued) -> None:
        """Put a session back into the queue because ledger and launcher disagree, if no runner has claimed it since."""
        entry = self._picture.entry(session_id)
        if entry is None or (entry.session.state, entry.session.epoch) != (State.LEASED, transition.epoch):
            return
        try:
            await self._move(entry, transition)
        except GreenroomError as error:
            _log.info("action_failed", session_id=session_id, action="take_back", code=error.code)

    async def keep_room(self, entry: Entry, moving: Moving) -> None:
        """Write that a room is kept for a session, as nobody else has or wants it.

        From here on the picture has it so, until it is known that it was not written.

        Raises:
            LedgerConflict: somebody else was first; the picture now shows what they did.
            BrokerUnavailable: the broker was away; the picture shows what has come of it.
        """
        session = entry.session
        self._picture.begin(session.id, lifecycle.apply(session, moving, self._clock.now()))
        try:
            await self._move(entry, moving)
        except BrokerUnavailable:
            # It may be stored all the same: until that is known nobody else gets the room.
            while not await self._looked(session):
                await self._clock.sleep(_LOOK_S)
            raise
        finally:
            self._picture.finish(session.id)

    async def _looked(self, session: Session) -> bool:
        try:
            await self._refresh(session)
        except BrokerUnavailable:
            return False
        return True

    async def _place(self, action: Lease | Ask, entry: Entry) -> None:
        session = entry.session
        with telemetry.session_span(
            "session.lease",
            session_id=session.id,
            tenant=session.tenant,
            traceparent=session.traceparent,
            # The request, or whatever put the session back into the queue.
            links=[telemetry.span_context_of({telemetry.TRACEPARENT: entry.traceparent or ""})],
            attributes={"greenroom.pool": session.pool, "greenroom.attempt": session.attempt},
        ) as span:
            if isinstance(action, Lease):
                entry = await self._move(entry, action.transition)
                self._say(session, action)
                self._counters.waited.observe(_seconds(session.requested_at, entry.at), pool=session.pool)
            else:
                self._say(session, action)
            key = holder(entry.session)
            if key is not None:
                span.set_attribute("greenroom.runner_id", key[1])
                span.set_attribute("greenroom.epoch", entry.session.epoch)
                await self._ask(key, entry)

    async def _ask(self, key: RunnerKey, entry: Entry) -> None:
        """Ask a runner to start the session that is leased to it."""
        session = entry.session
        subject = subjects.RUNNER_CMD.format(pool=key[0], runner_id=key[1], name="start")
        request = messages.encode(StartSession(session=session, revision=entry.revision))
        self._picture.asked(session)
        try:
            reply = await self._broker.request(
                subject, request, timeout_s=self._start_timeout_s, headers=telemetry.inject()
            )
            answer = _ANSWER.decode(reply.data)
        except NoResponder as error:
            # Until it is heard again it is given nothing; if it is back under its id, it is as good as any.
            await self._refused(key, entry, error.code, exclude_runner=False)
        except (RequestTimeout, BrokerUnavailable, msgspec.MsgspecError) as error:
            # It may have been heard and be under way: the lease decides, by the runner's claim or by running out.
            self._picture.closed(key)
            code = error.code if isinstance(error, GreenroomError) else "malformed-answer"
            self._counters.refused.inc(code=code)
            _log.warning("start_unanswered", session_id=session.id, runner_id=key[1], epoch=session.epoch, code=code)
        else:
            if isinstance(answer, StartRefused):
                await self._refused(
                    key, entry, answer.code, exclude_runner=answer.code not in _PASSING, detail=answer.detail
                )
            else:
                self._counters.placed.inc(pool=session.pool)
                _log.info("session_placed", session_id=session.id, runner_id=key[1], epoch=session.epoch)

    async def _launch(self, entry: Entry) -> None:
        """Ask the launcher for the runner of a cold lease; put the session back if none will come."""
        session = entry.session
        self._picture.asked(session)
        start = ColdStart(
            launch_id=launch_id(session),
            runner_id=session.runner_id or "",
            pool=session.pool,
            tenant=session.tenant,
            session_id=session.id,
            epoch=session.epoch,
            deadline_at=session.lease_expires_at or entry.at,
            priority=_LAUNCH_PRIORITY[session.priority],
            traceparent=session.traceparent,
        )
        with telemetry.session_span(
            "session.launch",
            session_id=session.id,
            tenant=session.tenant,
            traceparent=session.traceparent,
            attributes={"greenroom.pool": session.pool, "greenroom.launcher": self._launcher.name},
        ):
            try:
                async with asyncio.timeout(_LAUNCH_TIMEOUT_S):
                    await self._launcher.cold_start(start)
            except LaunchRefused as error:
                self._keeper.launch_refused(session, error)
                await self._not_launched(entry, error.code, str(error))
            except (TimeoutError, GreenroomError) as error:
                # It may have been heard. Its runner then finds an epoch that is over, and ends by itself.
                self._keeper.launch_unknown(session)
                unknown = error if isinstance(error, GreenroomError) else LauncherUnavailable()
                await self._not_launched(entry, unknown.code, str(unknown))
            else:
                self._keeper.launch_taken(session.pool)
                _log.info("runner_launched", session_id=session.id, pool=session.pool, launch_id=start.launch_id)

    async def _not_launched(self, entry: Entry, code: str, detail: str) -> None:
        self._counters.refused.inc(code=code)
        session = entry.session
        _log.warning("launch_failed", session_id=session.id, pool=session.pool, code=code, detail=detail)
        requeued = Requeued(epoch=session.epoch, reason=Reason.LAUNCH_FAILED, exclude_runner=False, tried=False)
        await self._move(entry, requeued)
        self._decisions.on_session(session, "requeue", reason=Reason.LAUNCH_FAILED, text=detail, inputs={"code": code})

    async def _refused(
        self, key: RunnerKey, entry: Entry, code: str, *, exclude_runner: bool, detail: str = ""
    ) -> None:
        self._counters.refused.inc(code=code)
        if code in {"no-slot", NoResponder.code}:
            self._picture.closed(key)
        reason = code if code == NoResponder.code else _REASONS.get(code, Reason.RUNNER_REFUSED)
        _log.info("start_refused", session_id=entry.session.id, runner_id=key[1], epoch=entry.session.epoch, code=code)
        tried = code not in UNTRIED
        requeued = Requeued(epoch=entry.session.epoch, reason=reason, exclude_runner=exclude_runner, tried=tried)
        await self._move(entry, requeued)
        text = f"runner {key[1]} refused: {detail or code}"
        self._decisions.on_session(entry.session, "requeue", reason=reason, text=text, inputs={"runner_id": key[1]})

    async def _move(self, entry: Entry, transition: Transition) -> Entry:
        """Write a transition and take it into the picture.

        Raises:
            LedgerConflict: somebody else was first; the picture now shows what they did.
            BrokerUnavailable: it isn't known to be stored.
        """
        try:
            stored = await self._ledger.advance(entry, transition)
        except LedgerConflict:
            await self._refresh(entry.session)
            raise
        self._picture.fold(stored, self._clock.now())
        self._keeper.wrote(stored)
        self._report(stored)
        return stored

    async def _refresh(self, session: Session) -> None:
        try:
            entry = await self._ledger.last(session.tenant, session.id)
        except LedgerCorrupt:
            # Nobody can move it on any more, and it mustn't take the scheduling of all others down with it.
            entry = None
        if entry is None:
            self._picture.forget(session.id)
        else:
            self._picture.fold(entry, self._clock.now())

    def _say(self, session: Session, action: SessionAction) -> None:
        """Say what was decided: as soon as it holds, since what comes of it is said too."""
        why = action.why
        self._decisions.on_session(session, action.decision, reason=why.reason, text=why.text, inputs=why.inputs)

    def _report(self, stored: Entry) -> None:
        session, transition = stored.session, stored.transition
        if isinstance(transition, Requeued):
            self._counters.requeued.inc(reason=transition.reason)
            _log.info(
                "session_requeued",
                session_id=session.id,
                reason=transition.reason,
                attempt=session.attempt,
                refused_by=session.refused_by,
            )
        elif isinstance(transition, Ended):
            outcome, reason = transition.outcome, transition.reason
            self._counters.ended.inc(outcome=outcome, reason=reason)
            _log.info("session_ended", session_id=session.id, outcome=outcome, reason=reason, detail=transition.detail)


def _seconds(since: datetime, until: datetime) -> float:
    return max((until - since).total_seconds(), 0.0)
