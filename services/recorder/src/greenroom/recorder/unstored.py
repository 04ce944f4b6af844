"""Counts the audio of sessions that isn't stored yet: that of many sessions by one answer of the broker."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from greenroom.common import subjects
from greenroom.common.broker import Broker
from greenroom.common.lifecycle import Session
from greenroom.recorder.audio import STREAM
from greenroom.recorder.together import Together

# The answer for all names each subject that has audio waiting, which takes 1 µs; one for a session alone takes 100.
# So it is asked for where so many sessions want to know, and where no more subjects are waiting for each of them.
_WORTH: Final = 3
_SUBJECTS_EACH: Final = 50
_MOST: Final = 1000


class Unstored:
    """See the module.

    Args:
        broker: holds what isn't stored.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._shared = Together(self._count, most=_MOST)

    async def count(self, session: Session) -> int:
        """Return how many chunks of a session aren't stored, at a moment behind the call of this.

        Raises:
            BrokerUnavailable: it can't be asked now.
        """
        left = await self._shared.ask((session.tenant, session.id))
        if left is None:
            subject = subjects.SESSION_AUDIO.wildcard(tenant=session.tenant, session_id=session.id)
            left = await self._broker.count(STREAM, subject)
        return left

    async def _count(self, sessions: Sequence[tuple[str, str]]) -> list[int | None]:
        """Return the counts for all, or None for each: it is better asked by itself."""
        found = None
        if len(sessions) >= _WORTH:
            most = len(sessions) * _SUBJECTS_EACH
            found = await self._broker.count_by_subject(STREAM, subjects.SESSION_AUDIO.wildcard(), most=most)
        if found is None:
            return [None] * len(sessions)
        left = Counter[tuple[str, str]]()
        for subject, count in found.items():
            if tokens := subjects.SESSION_AUDIO.parse(subject):
                left[tokens["tenant"], tokens["session_id"]] += count
        return [left[session] for session in sessions]
