"""Control groups (version 2) without a kernel: a tree that behaves as the kernel's documentation says.

Each group shows the files of the controllers that the group above has enabled for it. Controllers can't be enabled
where processes are, and processes can't be put where controllers are enabled (the root aside). A group with processes
or groups in it can't be removed.
"""

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_ALWAYS: Final = {"cgroup.procs": "", "cgroup.controllers": "", "cgroup.subtree_control": "", "cgroup.kill": ""}
_OF: Final = {
    "memory": {
        "memory.max": "max",
        "memory.swap.max": "max",
        "memory.oom.group": "0",
        "memory.current": "0",
        "memory.peak": "0",
        "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n",
    },
    "cpu": {"cpu.weight": "100", "cpu.max": "max 100000"},
    "pids": {"pids.max": "max", "pids.current": "0", "pids.peak": "0", "pids.events": "max 0\n"},
}
_CPU_STAT: Final = "usage_usec 0\nuser_usec 0\nsystem_usec 0\n"
_THROTTLING: Final = "nr_periods 0\nnr_throttled 0\nthrottled_usec 0\n"


class PretendTree:
    """See the module.

    Args:
        root: folder of the group that is delegated.
        controllers: those that it was given.
        members: processes in it.
    """

    def __init__(self, root: Path, controllers: Iterable[str], members: Iterable[int]) -> None:
        self.files: dict[Path, dict[str, str]] = {}
        self.procs: dict[Path, set[int]] = {}
        self.killed: list[frozenset[int]] = []
        self._show(root, frozenset(controllers))
        self.procs[root] = set(members)

    def read(self, file: Path) -> str:
        """See `Tree.read`."""
        if file.name == "cgroup.procs" and file.parent in self.procs:
            return "".join(f"{pid}\n" for pid in sorted(self.procs[file.parent]))
        return self._file(file)

    def write(self, file: Path, text: str) -> None:
        """See `Tree.write`."""
        self._file(file)
        match file.name:
            case "cgroup.procs":
                self._move(file.parent, int(text))
            case "cgroup.subtree_control":
                self._enable(file.parent, text)
            case "cgroup.kill":
                self.killed.append(frozenset(self.procs[file.parent]))
                self.procs[file.parent].clear()
            case _:
                self.files[file.parent][file.name] = text

    def make(self, folder: Path) -> None:
        """See `Tree.make`."""
        if folder in self.files:
            raise _error(errno.EEXIST)
        self._show(folder, frozenset(self._file(folder.parent / "cgroup.subtree_control").split()))
        self.procs[folder] = set()

    def remove(self, folder: Path) -> None:
        """See `Tree.remove`."""
        if folder not in self.files:
            raise _error(errno.ENOENT)
        if self.procs[folder] or any(each.parent == folder for each in self.files):
            raise _error(errno.EBUSY)
        del self.files[folder], self.procs[folder]

    def groups(self, folder: Path) -> Iterable[str]:
        """See `Tree.groups`."""
        return [each.name for each in self.files if each.parent == folder]

    def _show(self, folder: Path, controllers: frozenset[str]) -> None:
        shown = dict(_ALWAYS, **{"cgroup.controllers": " ".join(sorted(controllers))})
        for name in controllers:
            shown |= _OF.get(name, {})
        shown["cpu.stat"] = _CPU_STAT + (_THROTTLING if "cpu" in controllers else "")
        self.files[folder] = shown

    def _file(self, file: Path) -> str:
        try:
            return self.files[file.parent][file.name]
        except KeyError:
            raise _error(errno.ENOENT) from None

    def _move(self, folder: Path, pid: int) -> None:
        if self.files[folder]["cgroup.subtree_control"]:
            raise _error(errno.EBUSY)
        for members in self.procs.values():
            members.discard(pid)
        self.procs[folder].add(pid)

    def _enable(self, folder: Path, text: str) -> None:
        name = text.removeprefix("+")
        if name not in self.files[folder]["cgroup.controllers"].split():
            raise _error(errno.ENOENT)
        if self.procs[folder]:
            raise _error(errno.EBUSY)
        enabled = set(self.files[folder]["cgroup.subtree_control"].split()) | {name}
        self.files[folder]["cgroup.subtree_control"] = " ".join(sorted(enabled))


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))
