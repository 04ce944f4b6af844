"""What sessions have used so far that go on, or aren't counted yet: an estimate, so that budgets hold meanwhile.

Each look reads what was stored since the last one and adds it to what is known here; time is counted up to now. It is
what `usage_of` would say if the session ended at this moment. Nothing of it is kept: whoever leads next reads all of
the live sessions' events once. Once a session is counted, its lines take the place of its estimate.

Several recorders store, so an event may come behind later ones: what was stored up to one look before is asked for
again, and known by its place in the stream. One that comes still later is missed until its session is counted.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal

import msgspec

from greenroom.common.messages import EventType
from greenroom.recorder.usage.lines import Happened, Line, Usage, measured, usage_of


class Whose(msgspec.Struct, frozen=True, kw_only=True):
    """A session that is to be estimated."""

    id: str
    tenant: str
    agent: str
    pool: str
    carrier: str | None
    requested_at: datetime
    ended_at: datetime | None


class Running:
    """What one session has used so far."""

    __slots__ = ("_kept", "_lines", "_newest", "_recent", "after", "whose")

    def __init__(self, whose: Whose) -> None:
        self.whose = whose
        # What is behind this place in the stream is asked for at the next look.
        self.after = 0
        self._newest = 0
        # Places behind `after` that were added already.
        self._recent: set[int] = set()
        self._lines: dict[Line, Decimal] = {}
        self._kept: list[Happened] = []

    def add(self, found: Iterable[tuple[int, Happened]]) -> None:
        """Add what a look has found behind `after`, each with its place in the stream."""
        newest = self._newest
        for place, event in found:
            if place <= self.after or place in self._recent:
                continue
            self._recent.add(place)
            newest = max(newest, place)
            if event.type != EventType.METRICS:
                self._kept.append(event)
                continue
            for line, quantity in measured(event.data):
                self._lines[line] = self._lines.get(line, Decimal(0)) + quantity
        self.after, self._newest = self._newest, newest
        self._recent = {place for place in self._recent if place > self.after}

    def usage(self, now: datetime) -> Usage:
        """Return what it would have used if it ended now, unless it has ended."""
        whose = msgspec.structs.replace(self.whose, ended_at=self.whose.ended_at or now)
        found = usage_of(whose, self._kept)
        lines = dict(found.lines)
        for line, quantity in self._lines.items():
            if quantity:
                lines[line] = lines.get(line, Decimal(0)) + quantity
        return Usage(at=found.at, lines=lines)


class Live:
    """All sessions that aren't counted yet."""

    def __init__(self) -> None:
        self._running: dict[str, Running] = {}

    def after(self) -> dict[str, int]:
        """Return from which place in the stream on events are asked for, of the sessions that are known."""
        return {session_id: running.after for session_id, running in self._running.items()}

    def look(self, found: Mapping[str, tuple[Whose, list[tuple[int, Happened]]]]) -> None:
        """Take in what a look has found: all sessions that there are, each with what came behind its `after`."""
        before, self._running = self._running, {}
        for session_id, (whose, events) in found.items():
            running = self._running[session_id] = before.get(session_id) or Running(whose)
            running.whose = whose
            running.add(events)

    def lines(self, now: datetime) -> list[tuple[Whose, datetime, Line, Decimal]]:
        """Return what was used so far: whose, when its session began, what, and how much."""
        usages = ((running.whose, running.usage(now)) for running in self._running.values())
        return [(whose, used.at, line, quantity) for whose, used in usages for line, quantity in used.lines.items()]
