"""Carriers are answered while they still wait: what takes longer goes on without them, and what it made is given up.

A carrier that gets no answer in time lets the call go, or takes its fallback; an answer that comes after that is for
nobody. So the answer is awaited only until then, and what is under way isn't canceled: whether a write that is canceled
was done, nobody knows. Once it is through, its session is ended, and the call is left to whoever has it by then.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

import structlog

from greenroom.api.carriers.callbook import CallBook
from greenroom.api.insisting import insist
from greenroom.api.patience import give_up
from greenroom.common.call_messages import CallRecord
from greenroom.common.clock import Clock, SystemClock
from greenroom.common.errors import GreenroomError
from greenroom.common.ledger import Ledger
from greenroom.common.lifecycle import Session, Transition

_log = structlog.get_logger()

# What an answer may take beyond the carrier's `answer_within_s`, for the write after a wait that lasted until then.
# Vobiz, which waits for the shortest time, hangs up half a second later.
LAST_S: Final = 0.5


class AnswerTimedOut(GreenroomError):
    """A call wasn't answered while its carrier waits, as the broker or PostgreSQL took too long.

    The carrier takes the fallback that it was given for the number; the call's session, if there is one by then, is
    given up. Look at the load of NATS and PostgreSQL, and at the network between them and the api.
    """

    code = "answer-timed-out"
    status = 503
    title = "The call couldn't be answered in time"
    retryable = True


class Asking:
    """What a carrier asks, from the moment it does.

    Args:
        within_s: how long it may be kept waiting.

    Attributes:
        record: of the call, once that has a session.
        over: whether the carrier waits no longer.
    """

    def __init__(self, within_s: float) -> None:
        self.within_s = within_s
        self.record: CallRecord | None = None
        self.over = False
        self._began = asyncio.get_running_loop().time()

    def left_s(self, wanted_s: float) -> float:
        """Return what is left of `wanted_s`, or of what the carrier waits if that is shorter; negative: nothing."""
        return self._began + min(wanted_s, self.within_s) - asyncio.get_running_loop().time()


class InTime:
    """Awaits answers for as long as carriers do.

    Args:
        book: notes that a call isn't ours any more.
        ledger: ends sessions.
        clock: pauses.
    """

    def __init__(self, book: CallBook, ledger: Ledger, *, clock: Clock | None = None) -> None:
        self._book = book
        self._ledger = ledger
        self._clock = clock or SystemClock()
        self._late: set[asyncio.Task[None]] = set()

    async def answer[T](self, asking: Asking, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns.

        Raises:
            AnswerTimedOut: the carrier waits no longer.
        """
        working = asyncio.create_task(work, name="carrier answer")
        try:
            await asyncio.wait({working}, timeout=asking.left_s(asking.within_s) + LAST_S)
        except asyncio.CancelledError:
            working.cancel()
            raise
        if working.done():
            return working.result()
        asking.over = True
        leaving = asyncio.create_task(self._leave(asking, working), name="carrier answer that came too late")
        self._late.add(leaving)
        leaving.add_done_callback(self._late.discard)
        raise AnswerTimedOut

    async def close(self) -> None:
        """Leave what isn't given up yet to its time limits."""
        for leaving in self._late:
            leaving.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)

    async def _leave(self, asking: Asking, working: asyncio.Task[Any]) -> None:
        try:
            await asyncio.wait({working})
        finally:
            working.cancel()
        record, error = asking.record, working.exception()
        _log.warning("call_answered_too_late", error=type(error).__name__ if error is not None else None)
        if record is not None:
            await insist(lambda: self._give_up(record), record.session_id, self._clock)

    async def _give_up(self, record: CallRecord) -> None:
        entry = await self._ledger.last(record.tenant, record.session_id)
        if entry is not None and entry.session.media_connected:
            # The carrier had asked twice, and was answered once.
            return
        # First of all: who is over the session's end hangs up a call that isn't over, whoever the fallback has put on.
        await self._book.learn(record.session_id, over=True)
        await self._ledger.move(record.tenant, record.session_id, _unless_connected)


def _unless_connected(session: Session) -> Transition | None:
    return None if session.media_connected else give_up(session)
