"""Ends of sessions that nobody else would end: tried again while the broker is away, long after nobody waits for it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from greenroom.common.clock import Clock, SystemClock
from greenroom.common.errors import GreenroomError, LedgerCorrupt, SessionNotFound

_log = structlog.get_logger()

# Each write tries for 15 s by itself. A session that can't be ended now expires in the queue, or ends since nobody
# joins it.
_TRIES: Final = 30
_PAUSE_S: Final = 1.0
# An end is two messages to the broker and back, some milliseconds.
_USUALLY_S: Final = 1.0


async def insist(end: Callable[[], Awaitable[object]], session_id: str, clock: Clock) -> None:
    """End a session, again and again for a while.

    Args:
        end: does it, as often as it is called; raises what `Ledger.move` does.
        session_id: which, for the log.
        clock: pauses.
    """
    for _ in range(_TRIES):
        try:
            await end()
        except (SessionNotFound, LedgerCorrupt):
            # There is none, or nobody can end it but its runner.
            return
        except GreenroomError as error:
            _log.warning("session_not_ended", session_id=session_id, code=error.code)
            await clock.sleep(_PAUSE_S)
        else:
            return


class Insisting:
    """Ends sessions whose callers are told something else.

    Args:
        clock: pauses.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def end(self, end: Callable[[], Awaitable[object]], session_id: str) -> None:
        """End a session as `insist` does; return once it has ended, or if that takes longer than it should."""
        task = asyncio.create_task(insist(end, session_id, self._clock), name="session end")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.wait({task}, timeout=_USUALLY_S)

    async def close(self) -> None:
        """Leave what isn't ended yet to its time limits."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
