"""What a session uses: its process and all that it has started.

Where the session has a control group, the kernel has the sum. Elsewhere it is added up from procfs: memory as the
proportional set size (what is shared with the zygote is divided among all who share it), for the resident size counts
the shared pages for each session anew and the address space says nothing at all.

A process that isn't dumpable shows its memory map to nobody else, so a session process opens its own `smaps_rollup`
when it begins and hands that file to the runner (`hand_over`, `Meter.take`), who needs no privileges to read it.
"""

import contextlib
import os
import socket
from pathlib import Path
from typing import Final, Literal, Protocol

import msgspec

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
# What is looked at of one session that may have any number; a fork bomb makes more, and is past measuring.
_MAX_PROCESSES: Final = 512
_ROLLUP_BYTES: Final = 4096
# Fields of /proc/PID/stat after the name: time in user and system mode, own and of children that were waited for.
_TIMES: Final = slice(11, 15)

type Source = Literal["cgroup", "pss", "rss"]


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a session uses now.

    Attributes:
        memory_bytes: as `source` counts it. With `rss` it is more than the session costs, by what it shares.
        source: `cgroup` (its own pages, the kernel's for it included), `pss`, or `rss`.
        cpu_s: processor time since it began.
        processes: processes and threads, those included that have ended and weren't waited for.
        peak_bytes: the most memory its control group had.
        throttled_s: how long it was kept from the processor by a limit of its control group.
    """

    memory_bytes: int
    source: Source
    cpu_s: float
    processes: int
    peak_bytes: int | None = None
    throttled_s: float | None = None


class Group(Protocol):
    """A control group that can be read; see `groups`."""

    def usage(self) -> Usage | None:
        """Return what is used in it; None if it doesn't count memory, or is gone."""
        ...


class Meter:
    """Reads what one session uses.

    Args:
        pid: of its process.
        proc: where procfs is.

    Attributes:
        group: its control group, once it has one.
    """

    def __init__(self, pid: int, proc: Path = Path("/proc")) -> None:
        self.group: Group | None = None
        self._pid = pid
        self._proc = proc
        self._rollup: int | None = None

    def take(self, fd: int) -> None:
        """Take the file that `hand_over` has sent; the first one counts."""
        if self._rollup is None:
            self._rollup = fd
        else:
            os.close(fd)

    def close(self) -> None:
        """Close the file."""
        if self._rollup is not None:
            os.close(self._rollup)
            self._rollup = None

    def read(self, exact_from: int = 0, *, most: int = 0) -> Usage | None:
        """Return what the session uses now; None if its process is gone.

        Args:
            exact_from: bytes below which the resident size is good enough: it is never less than the proportional
                one, and is read in microseconds where the other takes a millisecond or two.
            most: processes and threads from which on it is past measuring: it is counted no further, and the resident
                size has to do; 0: any number is measured, some hundred processes of it.
        """
        if self.group is not None and (usage := self.group.usage()) is not None:
            return usage
        pids, tasks = self._family(most)
        resident = [(pid, size) for pid in pids if (size := self._resident(pid)) is not None]
        if not resident:
            return None
        total, source = sum(size for _, size in resident), "rss"
        if total >= exact_from and not 0 < most <= tasks:
            sizes = [self._proportional(pid) for pid, _ in resident]
            if all(size is not None for size in sizes):
                total, source = sum(size or 0 for size in sizes), "pss"
        return Usage(
            memory_bytes=total,
            source="pss" if source == "pss" else "rss",
            cpu_s=round(sum(self._cpu_s(pid) for pid, _ in resident), 3),
            processes=tasks,
        )

    def _family(self, most: int) -> tuple[list[int], int]:
        """Return the process and all that come of it, as long as it adopts orphans among them; and their threads."""
        waiting, pids, tasks = [self._pid], list[int](), 0
        while waiting and (tasks < most if most else len(pids) < _MAX_PROCESSES):
            pid = waiting.pop()
            pids.append(pid)
            with contextlib.suppress(OSError):
                for task in (self._proc / str(pid) / "task").iterdir():
                    tasks += 1
                    waiting += [int(word) for word in (task / "children").read_text(encoding="ascii").split()]
        return pids, tasks

    def _resident(self, pid: int) -> int | None:
        try:
            words = (self._proc / str(pid) / "statm").read_text(encoding="ascii").split()
        except OSError:
            return None
        # A zombie has no memory left.
        return int(words[1]) * _PAGE or None

    def _proportional(self, pid: int) -> int | None:
        try:
            if pid == self._pid and self._rollup is not None:
                text = os.pread(self._rollup, _ROLLUP_BYTES, 0).decode("ascii")
            else:
                text = (self._proc / str(pid) / "smaps_rollup").read_text(encoding="ascii")
        except OSError:
            return None
        return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), None)

    def _cpu_s(self, pid: int) -> float:
        try:
            fields = (self._proc / str(pid) / "stat").read_text(encoding="ascii").rpartition(")")[2].split()
        except OSError:
            return 0.0
        return sum(int(field) for field in fields[_TIMES]) * _TICK_S


def hand_over(control_fd: int, packet: bytes) -> None:
    """Send the file of this process's memory map over its control socket, beside `packet`."""
    with contextlib.suppress(OSError):  # no such file: the runner counts by resident size
        rollup = os.open("/proc/self/smaps_rollup", os.O_RDONLY | os.O_CLOEXEC)
        try:
            control = socket.socket(fileno=control_fd)
            try:
                socket.send_fds(control, [packet], [rollup])
            finally:
                control.detach()
        finally:
            os.close(rollup)
