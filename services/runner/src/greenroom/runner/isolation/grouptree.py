"""The files of control groups, version 2, as far as they are touched here; and which of them are ours."""

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Protocol

# The group that the runner and its zygote move into: processes may only be in leaves.
LEAF: Final = "greenroom-runner"
# Lines of mountinfo: `… root mountpoint options - type source …`, with octal escapes.
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


class NotDelegated(Exception):
    """No control group is this runner's own; the text says why."""


class Tree(Protocol):
    """A hierarchy of control groups. Every call may raise `OSError`, as the kernel does."""

    def read(self, file: Path) -> str:
        """Return what is in a file."""
        ...

    def write(self, file: Path, text: str) -> None:
        """Write to a file that is there."""
        ...

    def make(self, folder: Path) -> None:
        """Make a group."""
        ...

    def remove(self, folder: Path) -> None:
        """Remove a group that is empty."""
        ...

    def groups(self, folder: Path) -> Iterable[str]:
        """Return the names of the groups in a group."""
        ...


class KernelTree:
    """The kernel's own."""

    def read(self, file: Path) -> str:
        """See `Tree.read`."""
        return file.read_text(encoding="ascii")

    def write(self, file: Path, text: str) -> None:
        """See `Tree.write`."""
        # No file is made, whatever the path is.
        fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode("ascii"))
        finally:
            os.close(fd)

    def make(self, folder: Path) -> None:
        """See `Tree.make`."""
        folder.mkdir()

    def remove(self, folder: Path) -> None:
        """See `Tree.remove`."""
        folder.rmdir()

    def groups(self, folder: Path) -> Iterable[str]:
        """See `Tree.groups`."""
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


def find_own(proc: Path = Path("/proc")) -> Path:
    """Return the folder of the control group that this process may divide.

    That is its own, or the one above it if it has been moved into the leaf there (by an earlier run, or by whoever
    delegates).

    Raises:
        NotDelegated: there is no version 2 here, or the process is in the root of the hierarchy.
    """
    text = (proc / "self" / "cgroup").read_text(encoding="ascii")
    own = next((line.removeprefix("0::") for line in text.splitlines() if line.startswith("0::")), None)
    mount = _mount((proc / "self" / "mountinfo").read_text(encoding="ascii"))
    if own is None or mount is None:
        raise NotDelegated("no control groups of version 2 are mounted here")
    root, point = mount
    if own.startswith("/.."):
        raise NotDelegated(f"the control group of this process ({own}) is outside of what is mounted here")
    below = own if root == "/" else own.removeprefix(root)
    folder = point / below.strip("/")
    if folder.name == LEAF:
        folder = folder.parent
    # Every group but the root of the host has a type.
    if not (folder / "cgroup.type").exists():
        raise NotDelegated("this process is in the root of all control groups, which isn't its own to divide")
    return folder


def _mount(mountinfo: str) -> tuple[str, Path] | None:
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        if after.split(" ", 1)[0] == "cgroup2":
            root, point = (_ESCAPED.sub(lambda found: chr(int(found[1], 8)), part) for part in before.split()[3:5])
            return root, Path(point)
    return None


def members(tree: Tree, folder: Path) -> frozenset[int]:
    """Return the processes in a group itself. Those that can't be seen from here (0) are left out."""
    return frozenset(int(word) for word in tree.read(folder / "cgroup.procs").split()) - {0}


def table(text: str) -> dict[str, int]:
    """Return the numbers of a flat keyed file (`memory.events`, `cpu.stat`) by name."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            name, number = line.split()
            found[name] = int(number)
    return found


def ancestors(pid: int, proc: Path = Path("/proc")) -> frozenset[int]:
    """Return a process and those it comes from."""
    found: set[int] = set()
    while pid > 0 and pid not in found:
        found.add(pid)
        try:
            pid = int((proc / str(pid) / "stat").read_text(encoding="ascii").rpartition(")")[2].split()[1])
        except OSError:
            break
    return frozenset(found)
