"""Says why a session waits, once for each reason that it waits for."""

from datetime import datetime, timedelta
from typing import Final

from greenroom.common.reasons import Reason
from greenroom.scheduler.decisions import Decisions
from greenroom.scheduler.outlook import Outlook
from greenroom.scheduler.picture import Picture

# Who gets a slot with one of the next plans hasn't waited.
_WAITS: Final = timedelta(seconds=0.2)
# In a flash crowd of ten thousand the queue itself is the answer; each is told of in turn.
_MOST: Final = 200


class WaitingSaid:
    """What was said of those that wait.

    Args:
        picture: what is known.
        decisions: where it is said.
    """

    def __init__(self, picture: Picture, decisions: Decisions) -> None:
        self._picture = picture
        self._decisions = decisions
        self._said: dict[str, Reason] = {}

    def say(self, outlook: Outlook, now: datetime) -> None:
        """Say why sessions wait, of those that wait for something else than when it was said last."""
        waiting = outlook.waiting()
        left = _MOST
        for each in waiting:
            if not left:
                break
            tracked = self._picture.board.sessions.get(each.session_id)
            if tracked is None or self._said.get(each.session_id) is each.reason:
                continue
            if now - tracked.seen_at < _WAITS:
                continue
            left -= 1
            self._said[each.session_id] = each.reason
            self._decisions.on_session(
                tracked.session,
                "wait",
                reason=each.reason,
                text=str(each),
                inputs={"position": each.position, "of": each.of, "expected_s": each.expected_s},
            )
        if len(self._said) > len(waiting):
            still = {each.session_id for each in waiting}
            self._said = {session_id: reason for session_id, reason in self._said.items() if session_id in still}
