"""Which reached limits somebody is to be told of: each once, however many sessions it holds back. Pure.

    quiet ──somebody is held back: said──▶ reached ──not reached for QUIET──▶ quiet

A limit goes on being reached while it holds somebody back, and while it is used up. So one that calls come and go
under, or that refuses a thousand of them, is said once; one that was left for a while is said anew.
"""

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Final

from greenroom.common.ids import derived_id
from greenroom.common.notices import LIMIT_REACHED, LimitNotice
from greenroom.scheduler.held import Held, Place

# As long as a limit has to be left before it is news that it is reached.
QUIET: Final = timedelta(minutes=5)
# Numbers and accounts come by the thousand; what is beyond in one look is said with the next ones.
MOST_AT_ONCE: Final = 100


class LimitAlarms:
    """See the module.

    Args:
        quiet: for how long a limit isn't reached before it is said again.
    """

    def __init__(self, quiet: timedelta = QUIET) -> None:
        self._quiet = quiet
        # When each was reached last, by who was told of it.
        self._reached: dict[tuple[Place, str], datetime] = {}

    def look(self, now: datetime, held: Iterable[Held], used_up: Collection[Place]) -> list[LimitNotice]:
        """Return what is to be said now.

        Args:
            now: not before the last look.
            held: what holds somebody back, or has since the last look; each any number of times.
            used_up: limits that nobody may begin under at this moment.
        """
        found = {(each.place, each.tenant): each for each in held}
        self._reached = {
            key: now if key in found or key[0] in used_up else at
            for key, at in self._reached.items()
            if now - at < self._quiet
        }
        news = [key for key in sorted(found) if key not in self._reached][:MOST_AT_ONCE]
        self._reached.update(dict.fromkeys(news, now))
        return [self._notice(now, found[key]) for key in news]

    def _notice(self, now: datetime, held: Held) -> LimitNotice:
        # Who leads next may say the same again: within the same minutes it is the same notice.
        when = str(now.timestamp() // self._quiet.total_seconds())
        return LimitNotice(
            id=derived_id(LIMIT_REACHED, *held.place, held.tenant, when),
            kind=LIMIT_REACHED,
            at=now,
            tenant=held.tenant,
            limit=held.limit.id,
            scope=held.limit.scope,
            key=held.key,
            at_limit=held.limit.at_limit,
            reason=held.reason,
            active=held.active,
            max_sessions=held.limit.max_sessions,
            max_starts_per_s=held.limit.max_starts_per_s,
        )
