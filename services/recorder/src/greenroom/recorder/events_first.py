"""What can wait does so while events wait to be stored: after an outage they come first, and fill both processors.

Transcripts and usage are made of what is stored, at any time. They wait for half a minute at most, then do one round.
"""

import asyncio
from collections.abc import Callable
from typing import Final

LONGEST_S: Final = 30.0
_LOOK_S: Final = 0.25


class EventsFirst:
    """See the module.

    Args:
        behind: whether more events are waiting than are stored together.
    """

    def __init__(self, behind: Callable[[], bool]) -> None:
        self._behind = behind

    async def wait(self) -> None:
        """Return once nothing waits to be stored, or after `LONGEST_S`."""
        clock = asyncio.get_running_loop().time
        until = clock() + LONGEST_S
        # Nobody says when it is over: that nothing came for a while is what there is to see.
        while self._behind() and clock() < until:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)
