"""What a session process costs its host: processor time, and the memory that is its own.

Its resident size counts what it shares with the zygote, which is most of it. Its own share (PSS) is in its memory map,
which takes longer to read, and which a process may keep to itself; where it can't be read, what the resident size has
grown by since the fork stands for it.
"""

import os
from pathlib import Path
from typing import Final

import msgspec

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
# Fields of /proc/PID/stat after the name: time in user and system mode.
_TIMES: Final = slice(11, 13)


class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """What one process has used.

    Attributes:
        own_bytes: memory that is its own.
        cpu_s: processor time since it began.
    """

    own_bytes: int
    cpu_s: float


class Meter:
    """Reads what one process uses.

    Args:
        pid: its process id.
        proc: where procfs is.
    """

    def __init__(self, pid: int, proc: Path = Path("/proc")) -> None:
        self._folder = proc / str(pid)
        self._resident_at_first = self._resident() or 0

    def read(self) -> Footprint | None:
        """Return what it uses now; None if it is gone."""
        resident = self._resident()
        if not resident:
            return None
        own = self._proportional()
        if own is None:
            own = max(resident - self._resident_at_first, 0)
        return Footprint(own_bytes=own, cpu_s=self._cpu_s())

    def _resident(self) -> int | None:
        text = self._text("statm")
        return None if text is None else int(text.split()[1]) * _PAGE

    def _proportional(self) -> int | None:
        text = self._text("smaps_rollup") or ""
        return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), None)

    def _cpu_s(self) -> float:
        fields = (self._text("stat") or "").rpartition(")")[2].split()
        return round(sum(int(field) for field in fields[_TIMES]) * _TICK_S, 2)

    def _text(self, name: str) -> str | None:
        try:
            return (self._folder / name).read_text(encoding="ascii")
        except OSError:
            return None
