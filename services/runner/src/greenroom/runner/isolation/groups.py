"""A control group (version 2) for each session, below the one that is delegated to the runner.

    <delegated>/                     its limits are the launcher's (Nomad, systemd, a container engine)
        greenroom-runner/            the runner and its zygote: processes may only be in leaves
        greenroom-PID-1/             one session process and all it starts; PID is the runner's
        greenroom-PID-2/ …

A process is moved while it stands by: the kernel takes its time over that. One that is forked for a session that waits
is moved while it begins. What it had touched before stays charged to the runner's group, which is what is shared.

Which controllers there are is what was delegated; `force` says so. Without `memory` there is no limit of memory and no
telling who ran out of it, without `pids` none of processes, without `cpu` no weight; a whole session is killed at once,
and its processor time read, in any case. A runner that is killed leaves its groups; the next one removes them.
"""

import contextlib
import itertools
import os
import time
from pathlib import Path
from typing import Final

import msgspec
import structlog

from greenroom.common.errors import SettingsInvalid
from greenroom.runner.isolation.grouptree import (
    LEAF,
    KernelTree,
    NotDelegated,
    Tree,
    ancestors,
    find_own,
    members,
    table,
)
from greenroom.runner.isolation.usage import Meter, Usage

_log = structlog.get_logger()

CONTROLLERS: Final = ("cpu", "memory", "pids")
# The runner answers heartbeats and ends sessions whatever those do.
_RUNNER_WEIGHT: Final = 1000
_PREFIX: Final = "greenroom-"
_MB: Final = 1024 * 1024
# Processes that are forked meanwhile are found the next time.
_MOVES: Final = 20
# How long the dead may take to leave a group.
_EMPTY_S: Final = 2.0
_LOOK_S: Final = 0.01


class Allowance(msgspec.Struct, frozen=True, kw_only=True):
    """What each session may use; 0: no limit."""

    memory_mb: int = 1024
    cpu_weight: int = 100
    processes: int = 512


class GroupEnd(msgspec.Struct, frozen=True, kw_only=True):
    """What a control group has counted in its life; None: it doesn't count that."""

    peak_bytes: int | None = None
    cpu_s: float | None = None
    throttled_s: float | None = None
    oom_kills: int = 0
    # Processes that were refused.
    forks_refused: int = 0


class SessionGroup:
    """The control group of one session process. Calls don't raise: a group that is gone counts nothing."""

    def __init__(self, tree: Tree, folder: Path) -> None:
        self.folder: Final = folder
        self._tree = tree

    def usage(self) -> Usage | None:
        """See `usage.Group`."""
        memory = self._number("memory.current")
        if memory is None:
            return None
        cpu = self._table("cpu.stat")
        return Usage(
            memory_bytes=memory,
            source="cgroup",
            cpu_s=round(cpu.get("usage_usec", 0) / 1e6, 3),
            processes=self._number("pids.current") or len(self._members()),
            peak_bytes=self._number("memory.peak"),
            throttled_s=_seconds(cpu.get("throttled_usec")),
        )

    def end(self) -> GroupEnd:
        """Return what it has counted."""
        cpu = self._table("cpu.stat")
        return GroupEnd(
            peak_bytes=self._number("memory.peak"),
            cpu_s=_seconds(cpu.get("usage_usec")),
            throttled_s=_seconds(cpu.get("throttled_usec")),
            oom_kills=self._table("memory.events").get("oom_kill", 0),
            forks_refused=self._table("pids.events").get("max", 0),
        )

    def kill(self) -> None:
        """Kill all that is in it, at once: nothing can fork its way out."""
        with contextlib.suppress(OSError):
            self._tree.write(self.folder / "cgroup.kill", "1")

    def remove(self) -> bool:
        """Kill what is left in it and remove it; return whether it is gone. Waits for the dead, 2 s at most."""
        self.kill()
        give_up_at = time.monotonic() + _EMPTY_S
        while True:
            try:
                self._tree.remove(self.folder)
            except FileNotFoundError:
                return True
            except OSError:
                if time.monotonic() > give_up_at:
                    _log.warning("control_group_left", folder=str(self.folder))
                    return False
                time.sleep(_LOOK_S)
            else:
                return True

    def _number(self, name: str) -> int | None:
        try:
            return int(self._tree.read(self.folder / name))
        except (OSError, ValueError):
            return None

    def _table(self, name: str) -> dict[str, int]:
        try:
            return table(self._tree.read(self.folder / name))
        except OSError:
            return {}

    def _members(self) -> frozenset[int]:
        try:
            return members(self._tree, self.folder)
        except OSError:
            return frozenset()


class SessionGroups:
    """Makes them. Use `delegated`.

    Attributes:
        controllers: those that are in force.
    """

    def __init__(self, tree: Tree, folder: Path, controllers: frozenset[str], allowance: Allowance) -> None:
        self.controllers: Final = controllers
        self._tree = tree
        self._folder = folder
        self._allowance = allowance
        self._numbers = itertools.count(1)

    @classmethod
    def delegated(
        cls, allowance: Allowance, *, folder: Path | None = None, tree: Tree | None = None, shared: bool = False
    ) -> "SessionGroups":
        """Take over the control group that is this runner's own.

        Args:
            allowance: of each session.
            folder: the group; None: the one this process is in.
            tree: where groups are.
            shared: whether processes that have nothing to do with this one may be moved into the leaf too.

        Raises:
            NotDelegated: there is none, or it can't be divided.
        """
        tree = tree or KernelTree()
        folder = folder or find_own()
        try:
            if not shared and (strangers := members(tree, folder) - ancestors(os.getpid())):
                raise NotDelegated(f"{len(strangers)} other processes are in {folder}")
            _move_to_leaf(tree, folder)
            controllers = _enable(tree, folder)
            groups = cls(tree, folder, controllers, allowance)
            groups._sweep()
            groups._probe()
        except OSError as error:
            raise NotDelegated(f"{folder} can't be divided: {error.strerror}") from error
        with contextlib.suppress(OSError):
            tree.write(folder / LEAF / "cpu.weight", str(_RUNNER_WEIGHT))
        return groups

    def adopt(self, pid: int) -> SessionGroup:
        """Make a group and move a process into it.

        Raises:
            OSError: the kernel refused, or the process is gone; no group is left then.
        """
        group = self._make()
        try:
            self._tree.write(group.folder / "cgroup.procs", str(pid))
        except OSError:
            group.remove()
            raise
        return group

    def force(self) -> dict[str, str | int | bool]:
        """Return what is in force, for the log."""
        allowance, controllers = self._allowance, self.controllers
        return {
            "control_groups": str(self._folder),
            "memory_mb": allowance.memory_mb if "memory" in controllers else 0,
            "processes": allowance.processes if "pids" in controllers else 0,
            "cpu_weight": allowance.cpu_weight if "cpu" in controllers else 0,
            "missing": ",".join(sorted(set(CONTROLLERS) - controllers)),
        }

    def _make(self) -> SessionGroup:
        folder = self._folder / f"{_PREFIX}{os.getpid()}-{next(self._numbers)}"
        self._tree.make(folder)
        for name, value in self._limits():
            try:
                self._tree.write(folder / name, value)
            except FileNotFoundError:  # older kernels haven't got all of them, and hosts without swap not that one
                _log.debug("control_group_file_missing", file=name)
        return SessionGroup(self._tree, folder)

    def _limits(self) -> list[tuple[str, str]]:
        allowance, limits = self._allowance, list[tuple[str, str]]()
        if "memory" in self.controllers:
            # A session that runs out of memory ends as a whole; half of one is no use to its caller.
            limits.append(("memory.oom.group", "1"))
            if allowance.memory_mb:
                limits += [("memory.max", str(allowance.memory_mb * _MB)), ("memory.swap.max", "0")]
        if "cpu" in self.controllers and allowance.cpu_weight:
            limits.append(("cpu.weight", str(allowance.cpu_weight)))
        if "pids" in self.controllers and allowance.processes:
            limits.append(("pids.max", str(allowance.processes)))
        return limits

    def _sweep(self) -> None:
        """Remove what runners that are no more have left."""
        for name in self._tree.groups(self._folder):
            owner = name.removeprefix(_PREFIX).partition("-")[0]
            # We have made none yet: in a container each runner has the number of the one before.
            if name.startswith(_PREFIX) and owner.isdigit() and (int(owner) == os.getpid() or not _alive(int(owner))):
                _log.info("control_group_swept", folder=name)
                SessionGroup(self._tree, self._folder / name).remove()

    def _probe(self) -> None:
        """Make one and remove it: what doesn't work is known now.

        Raises:
            OSError: it doesn't.
        """
        self._make().remove()


def open_groups(where: str, allowance: Allowance) -> SessionGroups | None:
    """Return what makes the control groups, as the setting has it; log what is in force, or why nothing is.

    Args:
        where: `auto`, `off`, or the path of a control group.
        allowance: of each session.

    Raises:
        SettingsInvalid: the path isn't that of a control group that can be divided.
    """
    if where == "off":
        _log.info("session_groups", control_groups="off")
        return None
    try:
        folder = None if where == "auto" else Path(where)
        groups = SessionGroups.delegated(allowance, folder=folder, shared=folder is not None)
    except NotDelegated as error:
        if where != "auto":
            raise SettingsInvalid(f"GREENROOM_CONTROL_GROUPS is {where!r}: {error}") from error
        _log.warning("session_groups", control_groups="none", detail=str(error), instead="rlimits and measured memory")
        return None
    _log.info("session_groups", **groups.force())
    return groups


def own_usage(proc: Path = Path("/proc")) -> Usage | None:
    """Return what the calling session process has used: of its control group, or else of its family of processes."""
    meter = Meter(os.getpid(), proc)
    with contextlib.suppress(NotDelegated, OSError):
        folder = find_own(proc)
        if folder.name.startswith(_PREFIX):
            meter.group = SessionGroup(KernelTree(), folder)
    return meter.read()


def _move_to_leaf(tree: Tree, folder: Path) -> None:
    leaf = folder / LEAF
    with contextlib.suppress(FileExistsError):
        tree.make(leaf)
    # One that is named by its folder needn't be the one this process is in.
    tree.write(leaf / "cgroup.procs", str(os.getpid()))
    for _ in range(_MOVES):
        found = members(tree, folder)
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                tree.write(leaf / "cgroup.procs", str(pid))


def _enable(tree: Tree, folder: Path) -> frozenset[str]:
    """Have the controllers there are apply to the groups below; return them."""
    offered = frozenset(tree.read(folder / "cgroup.controllers").split())
    for name in CONTROLLERS:
        if name in offered:
            try:
                tree.write(folder / "cgroup.subtree_control", f"+{name}")
            except OSError as error:
                _log.warning("controller_refused", controller=name, error=error.strerror)
    return frozenset(tree.read(folder / "cgroup.subtree_control").split()) & frozenset(CONTROLLERS)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _seconds(microseconds: int | None) -> float | None:
    return None if microseconds is None else round(microseconds / 1e6, 3)
