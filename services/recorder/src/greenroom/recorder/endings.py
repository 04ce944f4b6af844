"""Tells the recorder that seals of ends that another recorder has stored.

All recorders store transitions, one of them seals; an end that it has stored itself it knows at once. (It would find
the others too, but ten seconds later.)
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import structlog

from greenroom.common.errors import DatabaseUnavailable
from greenroom.common.lifecycle import Session
from greenroom.recorder.store import Store

_log = structlog.get_logger()

# One look is a scan of a small index; so much later does an end come to be sealed.
LOOK_S: Final = 1.0
LOOK_LIMIT: Final = 1000
# Whoever was told isn't told again: one that can't be sealed now is tried again by the sealer, not by us.
MAX_REMEMBERED: Final = 2000


class Endings:
    """Looks for sessions that have ended and aren't sealed.

    Args:
        store: knows them.
        on_ended: called with each of them once.
    """

    def __init__(self, store: Store, on_ended: Callable[[Session], None]) -> None:
        self._store = store
        self._on_ended = on_ended
        self._told: OrderedDict[str, None] = OrderedDict()

    async def run(self) -> None:
        """Look until canceled."""
        while True:
            try:
                await self.look()
            except DatabaseUnavailable as error:
                _log.debug("endings_unknown", code=error.code)
            await asyncio.sleep(LOOK_S)

    async def look(self) -> int:
        """Tell of what is new, and return how many sessions that are.

        Raises:
            DatabaseUnavailable: the next look finds it.
        """
        found = await self._store.unsealed(besides=self._told, limit=LOOK_LIMIT)
        for session in found:
            self._told[session.id] = None
            self._on_ended(session)
        while len(self._told) > MAX_REMEMBERED:
            self._told.popitem(last=False)
        return len(found)
