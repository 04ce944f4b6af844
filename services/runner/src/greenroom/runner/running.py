"""One session on this runner, from the accepted start to the last entry in the ledger.

It connects three things that know nothing of each other: the process (what it says, and its exit), the slots (what that
means, and what is due when) and the ledger (what everybody has to know).
"""

import asyncio
import contextlib
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
from opentelemetry.trace import SpanContext

from greenroom.common.broker import Broker
from greenroom.common.clock import Clock
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import (
    Connected,
    Ended,
    Ending,
    Leased,
    Move,
    Moved,
    Ready,
    Session,
    Started,
    Stayed,
    Transition,
)
from greenroom.common.log import bind_session
from greenroom.common.messages import StartSession
from greenroom.common.reasons import Reason
from greenroom.runner.control import (
    Announced,
    Answered,
    Assign,
    Cancel,
    ChangeRoom,
    EndingNotice,
    Finished,
    FromSession,
    Left,
    MediaConnected,
    PipelineReady,
    Pong,
    RoomChanged,
    Stop,
)
from greenroom.runner.handover import Fork, first_of, hand_over
from greenroom.runner.instruments import Instruments
from greenroom.runner.last_word import write_last_word
from greenroom.runner.ledger_writer import LedgerWriter
from greenroom.runner.processes import SessionProcess
from greenroom.runner.slots import Due, Held, Slots, Step, Verdict
from greenroom.runner.standby import StandbyPool
from greenroom.runner.supervisor import NoProcess
from greenroom.runner.timeline import Timeline
from greenroom.runner.verdicts import Exit, judge

_log = structlog.get_logger()

# A process that is alive but doesn't take its session is passed over this often.
_TRIES: Final = 5
# One that waited for a session reads that it has one within a millisecond, and begins nothing before. On a host so full
# that this takes a second, the last of the tries waits for as long as the start may take.
_READ_S: Final = 1.0
# The span of a start, and the calm it asks for, don't wait longer than this for the ledger.
_READY_WRITE_S: Final = 5.0
# A session process reports each second; its loop hangs when it hasn't for this long.
SILENCE_S: Final = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What all sessions of a runner share.

    Attributes:
        fork: makes a process that finds a message when it begins; raises `NoProcess`.
        assign: makes the message with which a process is given a session.
        inherit: publishes what a process couldn't before it ended.
        changed: must be called after anything in `slots` has changed.
    """

    broker: Broker
    ledger: Ledger
    slots: Slots
    pool: StandbyPool
    fork: Fork
    clock: Clock
    instruments: Instruments
    changed: Callable[[], None]
    assign: Callable[[Session], Assign] = lambda session: Assign(session=session)
    inherit: Callable[[Left], None] = lambda _: None


class RunningSession:
    """See the module.

    Args:
        start: the command.
        held: the slot it was given.
        parts: of the runner.
        predecessor: set when the process of an earlier lease of the same session is gone; None: there is none.
        cause: the span that sent the command.

    Attributes:
        claimed: set when the claim is in the ledger.
        gone: set when its process is gone, and its slot free.
        session: its document, as leased.
        key: what it is held under.
        heard: how many messages its process has sent.
    """

    def __init__(
        self,
        start: StartSession,
        held: Held,
        parts: Parts,
        *,
        predecessor: asyncio.Event | None = None,
        cause: SpanContext | None = None,
    ) -> None:
        self.claimed = asyncio.Event()
        self.gone = asyncio.Event()
        self.session: Final = start.session
        self.key: Final = held.key
        self.heard = 0
        self._parts = parts
        self._predecessor = predecessor
        self._timeline = Timeline(start.session, cause, clock=parts.clock, instruments=parts.instruments)
        self._process: SessionProcess | None = None
        self._finished: Finished | None = None
        self._last_step: Step | None = None
        self._fenced = False
        # That it ends came from the ledger, or is there by now.
        self._announced = False
        # It ends, for whatever reason.
        self._ends = asyncio.Event()
        # Nothing more is to be waited for as far as the start goes: it is ready, or it ends.
        self._begun = asyncio.Event()
        self._heard_at = parts.clock.monotonic()
        self._silent = False
        # Whether somebody was on the line.
        self._joined = False
        self._writer = LedgerWriter(
            parts.broker,
            parts.ledger,
            _lease(start, parts.clock),
            clock=parts.clock,
            on_stored=self._on_stored,
            on_stop=self._on_stop,
            on_move=self._on_move,
            on_fenced=self._on_fenced,
        )

    @property
    def process(self) -> SessionProcess | None:
        """Its process, once it has one."""
        return self._process

    @property
    def runs(self) -> bool:
        """Whether the start is over, in one way or the other."""
        return self._begun.is_set()

    # ------------------------------------------------------------------------ its course

    async def run(self) -> None:
        """See the session through; return when its end is in the ledger, or it is somebody else's."""
        with bind_session(self.session.id, self.session.tenant):
            try:
                async with asyncio.TaskGroup() as tasks:
                    # The claim is written while the process gets the session: readiness waits for both.
                    session, claim = self.session, self._writer.claim
                    self._writer.put(Started(runner_id=session.runner_id or "", epoch=session.epoch, claim=claim))
                    tasks.create_task(self._writer.run(), name="ledger-writer")
                    process = await self._start()
                    self._conclude(None if process is None else await process.wait())
                    self._writer.finish()
            except Exception as error:  # noqa: BLE001 a fault of ours in one session mustn't take the others with it
                _log.exception("session_supervision_failed")
                await self._abandon(error)
            finally:
                if self._process is not None:
                    self._process.hang_up()

    async def _start(self) -> SessionProcess | None:
        """Return the process that has got the session, once it is ready or ends; None if it ends without one."""
        with self._parts.pool.starting(), self._timeline.starting():
            if self._predecessor is not None:
                await first_of(self._predecessor.wait(), self._ends.wait())
            assign = self._parts.assign(self.session)
            try:
                for left in reversed(range(_TRIES)):
                    process = await hand_over(assign, self._parts.pool, self._parts.fork, self._ends)
                    if process is None or await self._begins(process, hasty=left > 0):
                        return process
                    _log.warning("session_not_taken", pid=process.pid)
                raise NoProcess(f"{_TRIES} processes didn't take the session")
            except NoProcess as error:
                _log.warning("session_without_process", detail=str(error))
                self._end(Verdict.of(Reason.START_TIMEOUT, detail=str(error)))
                return None

    async def _begins(self, process: SessionProcess, *, hasty: bool) -> bool:
        """Wait until the session is ready or ends; return False if the process died before it knew of the session.

        Args:
            process: that has been given the session.
            hasty: whether it is killed if it waited for a session and now doesn't even read that it has one.
        """
        self._process = process
        # One that was forked for the session, or taken before it was warm, has other things to do first.
        waited = process.standby.is_set()
        process.listen(self._hear)
        self._timeline.assigned(process.pid)
        process.on_exit(lambda _: self._begun.set())
        if hasty and waited and not await self._comes_to_begin(_READ_S) and process.unread:
            _log.warning("standby_hangs", pid=process.pid, for_s=_READ_S)
            process.kill()
        await self._comes_to_begin(self.session.limits.start_timeout_s + _READY_WRITE_S)
        if process.alive or self._ends.is_set():
            return True
        if process.never_read:
            self._begun.clear()
            return False
        self._timeline.failed(Reason.PROCESS_KILLED.value)
        return True

    async def _comes_to_begin(self, within_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._begun.wait()
        return self._begun.is_set()

    def _conclude(self, exited: Exit | None) -> None:
        held = self._parts.slots.exited(self.key)
        announced = held.verdict if held is not None else None
        if exited is not None:
            verdict = judge(announced=announced, finished=self._finished, exited=exited, last_step=self._last_step)
        else:
            verdict = announced or Verdict.of(Reason.START_TIMEOUT)
        self.gone.set()
        self._parts.changed()
        self._timeline.ended(verdict, exited)
        if not self._fenced:
            self._writer.put(
                Ended(
                    by=verdict.by,
                    epoch=self.session.epoch,
                    outcome=verdict.outcome,
                    reason=verdict.reason,
                    detail=verdict.detail,
                )
            )

    async def _abandon(self, error: Exception) -> None:
        """See to the end what `run` hasn't: the process goes, the slot is free, and the ledger has a last word."""
        try:
            if self._process is not None:
                self._process.kill()
                await self._process.wait()
            self._parts.slots.exited(self.key)
            self.gone.set()
            self._parts.changed()
        finally:
            await write_last_word(self._parts.ledger, self._parts.clock, self.session, error)

    # ------------------------------------------------------------------------ what its process says

    def _hear(self, message: FromSession) -> None:
        slots, clock = self._parts.slots, self._parts.clock
        self._heard_at, self._silent = clock.monotonic(), False
        self.heard += 1
        match message:
            case PipelineReady():
                if slots.ready(self.key, now=clock.monotonic(), at=clock.now()):
                    self._writer.put(Ready(epoch=self.session.epoch))
                    self._timeline.pipeline_ready(message.stages_ms)
            case MediaConnected():
                self._on_connected(message)
            case RoomChanged():
                self._on_room_changed(message)
            case EndingNotice():
                self._on_ends_itself(message)
            case Finished():
                self._finished = message
                self._on_ends_itself(message)
            case Left():
                self._parts.inherit(message)
                return
            case Answered():
                instruments = self._parts.instruments
                spoke = instruments.first_speech if message.greeting else instruments.answer
                spoke.observe(message.took_ms / 1000)
                return
            case Pong():
                self._parts.instruments.loop_lag.observe(message.loop_lag_ms / 1000)
                return
            case _:
                return
        self._parts.changed()

    def _on_connected(self, message: MediaConnected) -> None:
        self._parts.slots.connected(self.key)
        if not self._joined:
            self._joined = True
            self._writer.put(Connected(epoch=self.session.epoch, call=message.call))

    def _on_ends_itself(self, message: EndingNotice | Finished) -> None:
        verdict = Verdict(by="session", outcome=message.outcome, reason=message.reason, detail=message.detail)
        clock = self._parts.clock
        if self._parts.slots.ends_itself(self.key, verdict, now=clock.monotonic(), at=clock.now()):
            self._announce(verdict)

    def _on_room_changed(self, message: RoomChanged) -> None:
        epoch, failed = self.session.epoch, message.failed
        self._parts.slots.moved(self.key, connected=message.connected, now=self._parts.clock.monotonic())
        self._writer.put(
            Moved(epoch=epoch, id=message.id) if failed is None else Stayed(epoch=epoch, id=message.id, detail=failed)
        )

    def check_silence(self, now: float) -> None:
        """Log once when the process has said nothing for some seconds although its pipeline runs."""
        if self._process is None or self._silent or not self._begun.is_set() or now - self._heard_at < SILENCE_S:
            return
        self._silent = True
        self._parts.instruments.silent.inc()
        _log.warning("session_silent", session_id=self.session.id, pid=self._process.pid, for_s=SILENCE_S)

    # ------------------------------------------------------------------------ what is due

    def obey(self, due: Due) -> None:
        """Take a step of the end ladder."""
        self._last_step = due.step
        self._parts.instruments.steps.inc(step=due.step.value)
        verdict, process = due.verdict, self._process
        if verdict.reason == Reason.FENCED.value:
            self._fence()
        elif due.step is Step.STOP:
            self._announce(verdict)
        self._leave(verdict)
        if process is None:
            return
        match due.step:
            case Step.STOP:
                process.send(
                    Stop(
                        outcome=verdict.outcome, reason=verdict.reason, detail=verdict.detail, deadline_s=due.deadline_s
                    )
                )
            case Step.CANCEL:
                process.send(Cancel(reason=verdict.reason))
            case Step.TERMINATE:
                process.kill(signal.SIGTERM)
            case Step.KILL:
                process.kill()

    def _end(self, verdict: Verdict) -> None:
        clock = self._parts.clock
        if self._parts.slots.end(self.key, verdict, now=clock.monotonic(), at=clock.now()):
            self._parts.changed()

    def _announce(self, verdict: Verdict) -> None:
        """Write that it ends, unless that is where it comes from."""
        self._leave(verdict)
        if self._announced:
            return
        self._announced = True
        self._writer.put(
            Ending(
                by=verdict.by,
                epoch=self.session.epoch,
                outcome=verdict.outcome,
                reason=verdict.reason,
                detail=verdict.detail,
            )
        )

    def _leave(self, verdict: Verdict) -> None:
        """Stop waiting for a start that won't be."""
        self._timeline.ending()
        if not self._begun.is_set():
            self._timeline.failed(verdict.reason)
        self._ends.set()
        self._begun.set()

    # ------------------------------------------------------------------------ what the ledger says

    def look(self) -> None:
        """Have the ledger read: what others wrote may have been missed."""
        self._writer.look()

    def _on_stored(self, transition: Transition) -> None:
        match transition:
            case Started():
                self._parts.slots.claimed(self.key, self._parts.clock.now())
                self._timeline.claimed()
                self.claimed.set()
                self._parts.changed()
            case Ready():
                self._timeline.ready()
                self._begun.set()
                if self._process is not None:
                    self._process.send(Announced())
            case _:
                pass

    def _on_stop(self, ending: Ending) -> None:
        self._announced = True
        self._end(Verdict(by=ending.by, outcome=ending.outcome, reason=ending.reason, detail=ending.detail))

    def _on_move(self, move: Move) -> None:
        if self._process is not None and not self._ends.is_set():
            self._process.send(ChangeRoom(id=move.id, transport_info=move.transport_info))

    def _on_fenced(self, reason: str) -> None:
        _log.warning("session_fenced", epoch=self.session.epoch, ledger=reason)
        self._fence()
        self._parts.slots.kill(self.key, Verdict.of(Reason.FENCED, detail=reason), now=self._parts.clock.monotonic())
        self._parts.changed()

    def _fence(self) -> None:
        """Leave the session to whoever has it now: nothing more is written."""
        if not self._fenced:
            self._fenced = True
            self._parts.instruments.fenced.inc()
            self._writer.stop()


def _lease(start: StartSession, clock: Clock) -> Entry:
    """Return the ledger entry that the start command speaks of."""
    session: Session = start.session
    now = clock.now()
    leased = Leased(runner_id=session.runner_id or "", epoch=session.epoch, expires_at=session.lease_expires_at or now)
    return Entry(session=session, transition=leased, at=session.leased_at or now, revision=start.revision)
