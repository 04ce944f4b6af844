"""Says that limits are reached, to the stream of notices; which and when is decided by `limit_alarms`."""

from datetime import datetime

import structlog

from greenroom.common import messages, subjects
from greenroom.common.spool import Spool
from greenroom.scheduler.actions import Action, Refuse
from greenroom.scheduler.held import Held, Place
from greenroom.scheduler.limit_alarms import LimitAlarms
from greenroom.scheduler.outlook import Outlook
from greenroom.scheduler.picture import Picture

_log = structlog.get_logger()


class LimitsSaid:
    """What was said of limits.

    Args:
        picture: what is known.
        spool: what notices go out by.
    """

    def __init__(self, picture: Picture, spool: Spool) -> None:
        self._picture = picture
        self._spool = spool
        self._alarms = LimitAlarms()
        # Those that have refused somebody since it was last looked: a refused session waits for nothing any more.
        self._refused: dict[tuple[Place, str], Held] = {}

    def decided(self, action: Action) -> None:
        """Take in what was decided."""
        if isinstance(action, Refuse) and action.held is not None:
            self._refused[action.held.place, action.held.tenant] = action.held

    def say(self, outlook: Outlook, now: datetime) -> None:
        """Say which limits are reached, of those that weren't when it was said last."""
        held = [*self._refused.values(), *outlook.held()]
        self._refused.clear()
        for notice in self._alarms.look(now, held, self._picture.board.used_up(now)):
            _log.warning("limit_reached", tenant=notice.tenant, limit=notice.limit, key=notice.key)
            subject = subjects.NOTICE.format(tenant=notice.tenant, kind=notice.kind)
            self._spool.put(subject, messages.encode(notice), msg_id=notice.id)
