"""When a runner that ends at once is started again: later each time. Pure, and from the records alone.

Being read from the records, the wait outlives the scheduler that began it.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Final

import msgspec

from greenroom.scheduler.launchers.process_state import Record

# A runner imports Pipecat for 3 s before it is ready: one that has ended by then hasn't done anything.
AT_ONCE: Final = timedelta(seconds=10)
_FIRST_WAIT_S: Final = 1.0
_LONGEST_WAIT_S: Final = 60.0


class CrashLoop(msgspec.Struct, frozen=True, kw_only=True):
    """The last runners of a group, all of which ended at once."""

    count: int
    last: Record
    next_try_at: datetime

    def text(self, now: datetime) -> str:
        """Return it for people."""
        code = "unknown" if self.last.exit_code is None else self.last.exit_code
        wait_s = max((self.next_try_at - now).total_seconds(), 0)
        return (
            f"the last {self.count} runners ended at once (exit code {code}, log {self.last.id}.log);"
            f" next try in {wait_s:.0f} s"
        )


def crash_loop(ended: Iterable[Record], pool: str) -> CrashLoop | None:
    """Return the crash loop that the baseline group of a pool is in, or None.

    Args:
        ended: what has ended, in any order.
        pool: which.
    """
    group = [each for each in ended if each.pool == pool and each.launch_id is None and each.ended_at is not None]
    return _loop(list(takewhile(_crashed, sorted(group, key=_ended_at, reverse=True))))


def _loop(crashes: Sequence[Record]) -> CrashLoop | None:
    if not crashes:
        return None
    wait_s = min(_FIRST_WAIT_S * 2 ** min(len(crashes) - 1, 10), _LONGEST_WAIT_S)
    return CrashLoop(count=len(crashes), last=crashes[0], next_try_at=_ended_at(crashes[0]) + timedelta(seconds=wait_s))


def _crashed(record: Record) -> bool:
    return record.stopping_at is None and _ended_at(record) - record.since < AT_ONCE


def _ended_at(record: Record) -> datetime:
    return record.ended_at or record.since
