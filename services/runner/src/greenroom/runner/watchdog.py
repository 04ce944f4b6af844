"""Whether a session's process is well: does it answer, and what does it use. Pure: no clock, no I/O.

The session process watches over the call (`session.vigil`); what that can't see is its own event loop being blocked,
and what it mustn't be asked for while its memory or its children run away. So the runner looks, each second.
"""

from typing import Final

import msgspec

# Time between two looks counts for so much at most: a runner that was stopped itself has no silence to blame.
_MOST_BETWEEN_S: Final = 2.0
# From so much more than the limit on there is no time for a goodbye.
AT_ONCE: Final = 1.25
# Memory must fall so far below the warning before it is warned of again.
_AGAIN_BELOW: Final = 0.9


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What a session's process may do; 0: there is no such bound.

    Attributes:
        unresponsive_s: how long it may say nothing while its pipeline runs.
        memory_warn: bytes of its own from which on it is told of.
        memory_kill: bytes of its own from which on it is ended.
        processes: processes and threads, of all it has started too, from which on it is killed.
    """

    unresponsive_s: float = 0.0
    memory_warn: int = 0
    memory_kill: int = 0
    processes: int = 0


class Unresponsive(msgspec.Struct, frozen=True, kw_only=True):
    """It has said nothing for too long."""

    for_s: float


class MemoryHigh(msgspec.Struct, frozen=True, kw_only=True):
    """It uses much memory; said again when it has been well below meanwhile."""

    used: int


class MemoryOver(msgspec.Struct, frozen=True, kw_only=True):
    """It uses too much memory; `at_once`: so much that it has to go now."""

    used: int
    at_once: bool


class ProcessesOver(msgspec.Struct, frozen=True, kw_only=True):
    """It has too many processes and threads, and has to go now: each of them may make more."""

    count: int


type Finding = Unresponsive | MemoryHigh | MemoryOver | ProcessesOver


class Watchdog:
    """Over one process.

    Args:
        bounds: what it may do.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._silent_s = 0.0
        self._looked_at: float | None = None
        self._warned = False

    @property
    def silent_s(self) -> float:
        """How long it has said nothing."""
        return self._silent_s

    def heard(self) -> None:
        """It has said something; its silence is counted from the next look on."""
        self._silent_s, self._looked_at = 0.0, None

    def look(self, now: float, *, used: int | None, processes: int = 0) -> list[Finding]:
        """Return what is wrong with it.

        Args:
            now: monotonic time.
            used: bytes of memory of its own; None: that can't be told now.
            processes: processes and threads it has.
        """
        if self._looked_at is not None:
            self._silent_s += min(max(now - self._looked_at, 0.0), _MOST_BETWEEN_S)
        self._looked_at = now
        if 0 < self._bounds.processes <= processes:
            return [ProcessesOver(count=processes)]
        findings: list[Finding] = []
        if 0 < self._bounds.unresponsive_s <= self._silent_s:
            findings.append(Unresponsive(for_s=round(self._silent_s, 1)))
        if used is not None:
            self._check_memory(used, findings)
        return findings

    def _check_memory(self, used: int, findings: list[Finding]) -> None:
        warn, kill = self._bounds.memory_warn, self._bounds.memory_kill
        if 0 < kill <= used:
            findings.append(MemoryOver(used=used, at_once=used >= kill * AT_ONCE))
        elif 0 < warn <= used and not self._warned:
            self._warned = True
            findings.append(MemoryHigh(used=used))
        elif used < warn * _AGAIN_BELOW:
            self._warned = False
