"""Looks after the processes of all sessions, each second, and does what follows.

| finding | what follows |
|---|---|
| silent for some seconds | logged and counted |
| silent for `GREENROOM_UNRESPONSIVE_S` | its stacks are kept (`stack_dump`), and it is killed: `unresponsive` |
| memory over the warning | `memory_high` |
| memory over the limit | its stacks are kept, and it has two seconds to end in order: `out-of-memory` |
| memory far over the limit | killed at once: `out-of-memory` |
| as many processes and threads as it may have | killed at once: `too-many-processes` |
| told to end, and still there when it gets SIGTERM | its stacks are kept, if it writes any |
"""

import asyncio
import sys
from collections.abc import Callable, Iterable
from typing import Final, Protocol

import structlog

from greenroom.common.clock import Clock
from greenroom.common.lifecycle import Session
from greenroom.common.messages import EventType
from greenroom.common.reasons import Reason
from greenroom.runner.isolation.usage import Usage
from greenroom.runner.processes import SessionProcess
from greenroom.runner.reports import Reports
from greenroom.runner.slots import Key, Slots, Verdict
from greenroom.runner.watchdog import (
    Bounds,
    Finding,
    MemoryHigh,
    MemoryOver,
    ProcessesOver,
    Unresponsive,
    Watchdog,
)

_log = structlog.get_logger()

LOOK_S: Final = 1.0
# Time to leave for a process whose memory has run out, and to publish what was recorded.
_GOODBYE_S: Final = 2.0
_MB: Final = 1024 * 1024
_EXACT_EVERY: Final = 10


class Guarded(Protocol):
    """A session, as far as it is looked after."""

    @property
    def key(self) -> Key:
        """What it is held under."""
        ...

    @property
    def session(self) -> Session:
        """Its document, as leased."""
        ...

    @property
    def process(self) -> SessionProcess | None:
        """Its process, once it has one."""
        ...

    @property
    def runs(self) -> bool:
        """Whether its pipeline runs, or did."""
        ...

    @property
    def heard(self) -> int:
        """How many messages have come from its process."""
        ...


class _Ward:
    """What is known of one session's process."""

    def __init__(self, process: SessionProcess, bounds: Bounds) -> None:
        self.process = process
        self.looks = 0
        self.shared = 0
        self.dog = Watchdog(bounds)
        self.heard = 0
        self.sentenced = False


class Guard:
    """See the module.

    Args:
        bounds: what each process may do.
        slots: where a session is ended.
        reports: take the events.
        clock: time.
        sessions: those there are now.
        changed: must be called after anything in `slots` has changed.
        on_usage: called now and then with what each session uses, memory of its own included, and the time.
    """

    def __init__(
        self,
        bounds: Bounds,
        *,
        slots: Slots,
        reports: Reports,
        clock: Clock,
        sessions: Callable[[], Iterable[Guarded]],
        changed: Callable[[], None],
        on_usage: Callable[[Session, Usage, float], None],
    ) -> None:
        self._bounds = bounds
        self._slots = slots
        self._reports = reports
        self._clock = clock
        self._sessions = sessions
        self._changed = changed
        self._on_usage = on_usage
        self._wards: dict[Key, _Ward] = {}
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Look until canceled."""
        async with asyncio.TaskGroup() as self._tasks:
            while True:
                await self._clock.sleep(LOOK_S)
                for guarded, finding in self.look():
                    self._tasks.create_task(self._act(guarded, finding))

    def stuck(self, guarded: Guarded) -> None:
        """Keep the stacks of a process that should have ended by now, and is about to be made to."""
        if self._tasks is not None and guarded.process is not None:
            guarded.process.ask_for_stacks()
            self._tasks.create_task(self._keep_stacks(guarded, Reason.END_TIMEOUT, even_none=False))

    def look(self) -> list[tuple[Guarded, Finding]]:
        """Look once; return what was found."""
        now = self._clock.monotonic()
        findings: list[tuple[Guarded, Finding]] = []
        wards: dict[Key, _Ward] = {}
        for guarded in self._sessions():
            process = guarded.process
            if process is None or not process.alive:
                continue
            ward = self._wards.get(guarded.key)
            if ward is None or ward.process is not process:
                ward = _Ward(process, self._bounds)
            wards[guarded.key] = ward
            findings += [(guarded, finding) for finding in self._examine(guarded, ward, now)]
        self._wards = wards
        return findings

    def _examine(self, guarded: Guarded, ward: _Ward, now: float) -> list[Finding]:
        # As long as its pipeline is built, its deadline is that of the start.
        if guarded.heard != ward.heard or not guarded.runs:
            ward.heard = guarded.heard
            ward.dog.heard()
        used, processes = self._read(guarded, ward, now)
        found = ward.dog.look(now, used=used, processes=processes)
        if ward.sentenced:
            # It is being ended; only what has to go at once is of interest still.
            return [finding for finding in found if _at_once(finding)]
        ward.sentenced |= any(not isinstance(finding, MemoryHigh) for finding in found)
        return found

    def _read(self, guarded: Guarded, ward: _Ward, now: float) -> tuple[int | None, int]:
        """Return a session's own memory, or something that is more and yet not enough to be told of, and processes."""
        # What is exact takes a millisecond or two; what isn't is never less.
        exact = ward.looks % _EXACT_EVERY == 0
        ward.looks += 1
        bounds = [bound for bound in (self._bounds.memory_warn, self._bounds.memory_kill) if bound]
        exact_from = 0 if exact else min(bounds, default=sys.maxsize)
        usage = ward.process.meter.read(exact_from, most=self._bounds.processes)
        if usage is None:
            return None, 0
        if usage.source != "rss":
            if exact:
                self._on_usage(guarded.session, usage, now)
            return usage.memory_bytes, usage.processes
        if exact:
            # Its memory map can't be read: what it has grown by since the first look stands for its own.
            ward.shared = ward.shared or usage.memory_bytes
        return max(usage.memory_bytes - ward.shared, 0), usage.processes

    async def _act(self, guarded: Guarded, finding: Finding) -> None:
        session = guarded.session
        match finding:
            case MemoryHigh():
                _log.warning("session_memory_high", session_id=session.id, mb=finding.used // _MB)
                data = {"bytes": finding.used, "warn_bytes": self._bounds.memory_warn}
                self._reports.tell(session, EventType.MEMORY_HIGH, data)
            case MemoryOver():
                detail = f"{finding.used // _MB} MB of its own, {self._bounds.memory_kill // _MB} are allowed"
                verdict = Verdict.of(Reason.OUT_OF_MEMORY, detail=detail)
                if not finding.at_once:
                    await self._keep_stacks(guarded, Reason.OUT_OF_MEMORY)
                self._end(guarded, verdict, at_once=finding.at_once)
            case ProcessesOver():
                detail = f"{finding.count} processes and threads, fewer than {self._bounds.processes} are allowed"
                self._end(guarded, Verdict.of(Reason.TOO_MANY_PROCESSES, detail=detail), at_once=True)
            case Unresponsive():
                verdict = Verdict.of(Reason.UNRESPONSIVE, detail=f"no answer for {finding.for_s:g} s")
                await self._keep_stacks(guarded, Reason.UNRESPONSIVE)
                self._end(guarded, verdict, at_once=True)

    async def _keep_stacks(self, guarded: Guarded, cause: Reason, *, even_none: bool = True) -> None:
        """Have the process write its stacks, and keep them with the session."""
        process = guarded.process
        if process is None:
            return
        if even_none:
            process.ask_for_stacks()
        text = await process.stacks()
        _log.warning("session_stacks", session_id=guarded.session.id, cause=cause.value, length=len(text))
        if text or even_none:
            self._reports.tell(guarded.session, EventType.STACK_DUMP, {"cause": cause.value, "text": text})

    def _end(self, guarded: Guarded, verdict: Verdict, *, at_once: bool) -> None:
        _log.error("session_condemned", session_id=guarded.session.id, reason=verdict.reason, detail=verdict.detail)
        now, at = self._clock.monotonic(), self._clock.now()
        if at_once or not self._slots.end(guarded.key, verdict, now=now, at=at, within_s=_GOODBYE_S):
            self._slots.kill(guarded.key, verdict, now=now)
        self._changed()


def _at_once(finding: Finding) -> bool:
    return isinstance(finding, ProcessesOver) or (isinstance(finding, MemoryOver) and finding.at_once)
