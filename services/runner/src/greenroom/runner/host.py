"""What the kernel says of this host, and of the control group that the runner and its sessions share."""

import os
from pathlib import Path
from typing import Final

# Fields of /proc/stat that are idle time: idle and iowait.
_IDLE: Final = (3, 4)


class Host:
    """Reads the files of the kernel; what isn't there (no control group, no PSI) is None.

    Args:
        proc: where procfs is.
        cgroups: where the control groups (version 2) are.
    """

    def __init__(self, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> None:
        self._proc = proc
        self._groups = _own_groups(proc, cgroups)

    def processor_ticks(self) -> tuple[int, int]:
        """Return the ticks (10 ms each) that all processors were busy, and those there were, since the boot."""
        return _ticks((self._proc / "stat").read_text(encoding="ascii").partition("\n")[0])

    def memory_available(self) -> int:
        """Return the bytes of memory that the host still has."""
        return self._memory().get("MemAvailable", 0) * 1024

    def memory_room(self) -> tuple[int, int]:
        """Return the bytes that are available, and those there are: the host's, or a group's limit if less is left."""
        memory = self._memory()
        whole = memory.get("MemAvailable", 0) * 1024, memory.get("MemTotal", 0) * 1024
        return min([whole, *(room for group in self._groups if (room := _group_room(group)) is not None)])

    def processors(self) -> float:
        """Return the processors that this process may use."""
        return self.processor_use()[0]

    def processor_use(self) -> tuple[float, float]:
        """Return the processors that this process may use, and the seconds that they were busy so far.

        Those it may run on, whoever keeps them busy; or the quota of a control group (`cpu.max`, which is how
        containers are limited) if that is less, with what the group has used.
        """
        mine = os.sched_getaffinity(0)
        names = {f"cpu{number}" for number in mine}
        lines = (self._proc / "stat").read_text(encoding="ascii").splitlines()
        busy = sum(_ticks(line)[0] for line in lines if line.partition(" ")[0] in names)
        groups = [use for group in self._groups if (use := _group_use(group)) is not None]
        return min([(float(len(mine)), busy / 100), *groups])

    def throttling(self) -> tuple[int, int] | None:
        """Return in how many of the scheduler's periods this process's groups were kept waiting, and of how many.

        Of the own group and those above it the one counts that was kept waiting most; None: none has a quota.
        """
        counts = [count for group in self._groups if (count := _group_throttling(group)) is not None]
        return max(counts, default=None)

    def memory_available_percent(self) -> float | None:
        """Return what is available of the host's memory, or of a control group's limit, whichever is less."""
        memory = self._memory()
        rooms = [room for group in self._groups if (room := _group_room(group)) is not None]
        shares = [free / most for free, most in rooms]
        if total := memory.get("MemTotal", 0):
            shares.append(memory.get("MemAvailable", 0) / total)
        return round(100 * min(shares), 1) if shares else None

    def cpu_pressure_percent(self) -> float | None:
        """Return the share of the last 10 s in which work waited for a processor; throttling counts."""
        for path in (*(group / "cpu.pressure" for group in self._groups[:1]), self._proc / "pressure" / "cpu"):
            text = _read(path)
            if text is not None and text.startswith("some avg10="):
                return float(text.split()[1].partition("=")[2])
        return None

    def _memory(self) -> dict[str, int]:
        """Return /proc/meminfo, in KiB."""
        lines = (self._proc / "meminfo").read_text(encoding="ascii").splitlines()
        return {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}


def _own_groups(proc: Path, cgroups: Path) -> tuple[Path, ...]:
    """Return the control group of this process and those above it: each may have a limit."""
    text = _read(proc / "self" / "cgroup") or ""
    own = next((line.removeprefix("0::/") for line in text.splitlines() if line.startswith("0::/")), None)
    if own is None:
        return ()
    folder = cgroups / own
    return tuple(each for each in (folder, *folder.parents) if each.is_relative_to(cgroups))


def _ticks(line: str) -> tuple[int, int]:
    """Return the busy ticks and all ticks of a line of /proc/stat."""
    fields = [int(word) for word in line.split()[1:9]]
    return sum(fields) - sum(fields[index] for index in _IDLE), sum(fields)


def _group_room(group: Path) -> tuple[int, int] | None:
    """Return the bytes that are left of a group's limit, and the limit."""
    limit, used = _read(group / "memory.max"), _read(group / "memory.current")
    if limit is None or used is None or not limit.strip().isdigit() or not int(limit):
        return None
    stat = _read(group / "memory.stat") or ""
    # The page cache that nobody has used lately counts as used, but goes as soon as it is needed.
    cache = next((int(line.split()[1]) for line in stat.splitlines() if line.startswith("inactive_file ")), 0)
    most = int(limit)
    return max(most - max(int(used) - cache, 0), 0), most


def _group_use(group: Path) -> tuple[float, float] | None:
    """Return a group's quota of processors, and the seconds of them that it has used."""
    words = (_read(group / "cpu.max") or "").split()
    if len(words) != len(("quota", "period")) or not words[0].isdigit():
        return None
    stat = (_read(group / "cpu.stat") or "").splitlines()
    used = next((int(line.split()[1]) for line in stat if line.startswith("usage_usec ")), 0)
    return int(words[0]) / int(words[1]), used / 1e6


def _group_throttling(group: Path) -> tuple[int, int] | None:
    words = [line.split() for line in (_read(group / "cpu.stat") or "").splitlines()]
    stat = {name: int(count) for name, count in words}
    # A group without a quota has no periods.
    return (stat["nr_throttled"], stat["nr_periods"]) if stat.get("nr_periods") and "nr_throttled" in stat else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return None
