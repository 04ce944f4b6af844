"""Writes one session's transitions into the ledger: in order, one at a time, for as long as the broker makes it take.

The session lives on meanwhile. What others write is seen too: that a client wants the session to end, or that it was
given to somebody else, or that another room is kept for it.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec
import structlog
from opentelemetry import context as trace_context

from greenroom.common import subjects, telemetry
from greenroom.common.broker import Broker, Message
from greenroom.common.clock import Clock
from greenroom.common.errors import (
    BrokerUnavailable,
    IllegalTransition,
    LedgerConflict,
    LedgerCorrupt,
    StaleEpoch,
    TopologyMissing,
)
from greenroom.common.ids import uuid7
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import (
    TABLE,
    Connected,
    Ended,
    Ending,
    Move,
    Moved,
    Session,
    Started,
    State,
    Stayed,
    Transition,
)
from greenroom.common.messages import LedgerEntry, decode

_log = structlog.get_logger()

# In whose name a runner writes.
_OURS: Final = frozenset({"runner", "session"})
_RETRY_S: Final = 0.5
# Between two looks at an entry that can't be read, in case that somebody writes one which can.
_CORRUPT_LOOK_S: Final = 5.0
# A read may be answered by a replica that is some milliseconds behind.
_LAG_S: Final = 0.02
# NATS hands a ledger message to listeners as it comes, whether or not it will be stored: what counts is read, now and,
# in case that was too early, a little later.
_LOOK_AFTER_S: Final = (0.0, 0.1, 1.0)


class LedgerWriter:
    """See the module. The callbacks are called on the event loop.

    Args:
        broker: what others write comes from it.
        ledger: where to.
        leased: the entry with the lease under which the session runs here.
        clock: time.
        on_stored: a transition of ours is in the ledger.
        on_stop: somebody else has decided that the session ends; whatever is still to come must come to its end.
        on_move: the session is to go to another room; told once of each.
        on_fenced: the session is no longer this runner's: nothing more is written. The reason is for the log.

    Attributes:
        claim: what `Started` has to say, so that this process knows its claim from one that another process made.
    """

    def __init__(
        self,
        broker: Broker,
        ledger: Ledger,
        leased: Entry,
        *,
        clock: Clock,
        on_stored: Callable[[Transition], None],
        on_stop: Callable[[Ending], None],
        on_move: Callable[[Move], None] = lambda _: None,
        on_fenced: Callable[[str], None],
    ) -> None:
        self._broker = broker
        self._ledger = ledger
        self._entry = leased
        self.claim: Final = uuid7()
        self._runner_id: Final = leased.session.runner_id
        self._epoch: Final = leased.session.epoch
        self._clock = clock
        self._on_stored = on_stored
        self._on_stop = on_stop
        self._on_move = on_move
        self._moving: str | None = None
        self._on_fenced = on_fenced
        # At most one of each kind: a session begins, becomes ready, is joined and ends once, and moves once at a time.
        self._queue: deque[Transition] = deque()
        self._wake = asyncio.Event()
        self._look = False
        self._finished = False
        self._fenced = False

    @property
    def session(self) -> Session:
        """The session as the ledger last had it."""
        return self._entry.session

    def put(self, transition: Transition) -> None:
        """Write a transition after those that wait already."""
        if not self._fenced:
            self._queue.append(transition)
            self._wake.set()

    def look(self) -> None:
        """Read what others may have written."""
        self._look = True
        self._wake.set()

    def finish(self) -> None:
        """Let `run` return once everything is written."""
        self._finished = True
        self._wake.set()

    def stop(self) -> None:
        """Write nothing more, not even what waits."""
        self._fenced = True
        self._queue.clear()
        self._wake.set()

    async def run(self) -> None:
        """Write until finished or fenced."""
        # The ledger keeps the trace of each writer; ours is that of whoever asked for the session.
        trace_context.attach(telemetry.context_from_traceparent(self.session.traceparent))
        subject = subjects.SESSION_LIFECYCLE.format(tenant=self.session.tenant, session_id=self.session.id)
        subscription = await self._broker.subscribe(subject, self._on_message)
        try:
            await self._write_all()
        finally:
            await subscription.unsubscribe()

    async def _write_all(self) -> None:
        while not self._fenced:
            try:
                if self._look:
                    await self._read()
                elif self._queue:
                    await self._write(self._queue[0])
                elif self._finished:
                    return
                else:
                    await self._wake.wait()
                    self._wake.clear()
            except (BrokerUnavailable, TopologyMissing) as error:
                # What was tried may have been stored all the same: it is looked for before it is tried again.
                self._look = True
                _log.warning("ledger_write_waits", code=error.code, waiting=len(self._queue))
                await self._clock.sleep(_RETRY_S)
            except LedgerCorrupt as error:
                await self._bear(error)

    async def _bear(self, error: LedgerCorrupt) -> None:
        """Let the call go on though its ledger can't be read; once it is over, nobody else can write that either."""
        if any(isinstance(waiting, Ended) for waiting in self._queue):
            self._fence(error.detail)
            return
        self._look = True
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CORRUPT_LOOK_S):
                await self._wake.wait()

    async def _on_message(self, message: Message) -> None:
        try:
            entry = decode(message.data, LedgerEntry)
        except msgspec.MsgspecError:
            return
        if self._elsewhere(entry.session) or entry.transition.by not in _OURS:
            for delay_s in _LOOK_AFTER_S:
                asyncio.get_running_loop().call_later(delay_s, self.look)

    async def _write(self, transition: Transition) -> None:
        try:
            self._entry = await self._ledger.advance(self._entry, transition)
        except (LedgerConflict, StaleEpoch, IllegalTransition):
            self._look = True
            return
        self._queue.popleft()
        self._on_stored(transition)

    async def _read(self) -> None:
        entry = await self._ledger.last(self.session.tenant, self.session.id)
        self._look = False
        if entry is None:
            self._fence("the ledger doesn't hold it any more")
            return
        if entry.revision <= self._entry.revision:
            self._settle(self.session)
            if self._queue:
                await self._clock.sleep(_LAG_S)
            return
        if (reason := self._not_ours(entry.session)) is not None:
            self._fence(reason)
            return
        self._entry = entry
        self._settle(entry.session)
        move = entry.session.moving
        if move is not None and move.id != self._moving:
            self._moving = move.id
            self._on_move(move)
        if isinstance(entry.transition, Ending) and entry.transition.by not in _OURS:
            self._on_stop(entry.transition)

    def _elsewhere(self, session: Session) -> str:
        """Return who has the session instead of us; empty: nobody."""
        if session.epoch != self._epoch or session.runner_id != self._runner_id:
            return f"state {session.state.value}, epoch {session.epoch}, runner {session.runner_id or 'none'}"
        return "" if session.claim in {None, self.claim} else "another process of this runner's id has claimed it"

    def _not_ours(self, session: Session) -> str | None:
        if elsewhere := self._elsewhere(session):
            return elsewhere
        if session.state is State.ENDED and not any(isinstance(waiting, Ended) for waiting in self._queue):
            return f"ended by the {session.ended_by} as {session.outcome} ({session.reason})"
        return None

    def _settle(self, session: Session) -> None:
        """Drop what is in the ledger already, by a write whose answer was lost, or is overtaken by what is there."""
        kept: deque[Transition] = deque()
        for transition in self._queue:
            possible = type(transition) in TABLE[session.state]
            done = (isinstance(transition, Connected) and session.media_connected) or _arrived(transition, session)
            if possible and not done:
                kept.append(transition)
            elif isinstance(transition, Started) or done or session.state is State.ENDED:
                # Beyond `leased` with our epoch: the claim holds, whoever has moved the session on since.
                self._on_stored(transition)
            else:
                _log.info(
                    "ledger_write_overtaken", transition=type(transition).__name__.lower(), state=session.state.value
                )
        self._queue = kept

    def _fence(self, reason: str) -> None:
        self.stop()
        self._on_fenced(reason)


def _arrived(transition: Transition, session: Session) -> bool:
    """Tell whether the end of a move is in the ledger already: nobody but its runner writes it."""
    if not isinstance(transition, Moved | Stayed):
        return False
    return session.moving is None or session.moving.id != transition.id
