"""Control groups of sessions, on a tree that behaves as the kernel's documentation says."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.common.lifecycle import Outcome
from greenroom.runner.isolation.groups import CONTROLLERS, Allowance, GroupEnd, SessionGroups
from greenroom.runner.isolation.grouptree import LEAF, NotDelegated, find_own
from greenroom.runner.slots import Step
from greenroom.runner.verdicts import Exit, judge
from tests.support.pretend_groups import PretendTree

OWN = Path("/sys/fs/cgroup/own")
ALLOWANCE = Allowance(memory_mb=256, cpu_weight=50, processes=64)


def divided(tree: PretendTree, **more: bool) -> SessionGroups:
    """Take over the delegated group of a tree."""
    return SessionGroups.delegated(ALLOWANCE, folder=OWN, tree=tree, **more)


@given(controllers=st.sets(st.sampled_from((*CONTROLLERS, "io", "cpuset"))))
def test_what_is_delegated_is_in_force(controllers: set[str]) -> None:
    """With any set of controllers a session has a group, and the limits of those controllers and no others."""
    tree = PretendTree(OWN, controllers, {os.getpid()})
    groups = divided(tree)
    assert groups.controllers == controllers & set(CONTROLLERS)
    assert tree.procs[OWN / LEAF] == {os.getpid()}
    group = groups.adopt(4711)
    assert tree.procs[group.folder] == {4711}
    files = tree.files[group.folder]
    assert files.get("memory.max") == (str(256 * 1024 * 1024) if "memory" in controllers else None)
    assert files.get("memory.oom.group") == ("1" if "memory" in controllers else None)
    assert files.get("cpu.weight") == ("50" if "cpu" in controllers else None)
    assert files.get("pids.max") == ("64" if "pids" in controllers else None)
    force = groups.force()
    assert bool(force["memory_mb"]) == ("memory" in controllers)
    assert set(str(force["missing"]).split(",")) - {""} == set(CONTROLLERS) - controllers
    assert group.remove()
    assert tree.killed[-1] == {4711}
    assert set(tree.groups(OWN)) == {LEAF}


def test_what_a_session_used_is_read_back() -> None:
    """Memory, its peak, processor time, throttling, kills for want of memory and refused forks come from the group."""
    tree = PretendTree(OWN, CONTROLLERS, {os.getpid()})
    group = divided(tree).adopt(4711)
    tree.files[group.folder] |= {
        "memory.current": "1000\n",
        "memory.peak": "5000\n",
        "memory.events": "low 0\nmax 7\noom 1\noom_kill 1\n",
        "cpu.stat": "usage_usec 2500000\nthrottled_usec 750000\n",
        "pids.current": "3\n",
        "pids.events": "max 12\n",
    }
    usage = group.usage()
    assert usage is not None
    assert (usage.memory_bytes, usage.source, usage.peak_bytes, usage.processes) == (1000, "cgroup", 5000, 3)
    assert (usage.cpu_s, usage.throttled_s) == (2.5, 0.75)
    assert group.end() == GroupEnd(peak_bytes=5000, cpu_s=2.5, throttled_s=0.75, oom_kills=1, forks_refused=12)
    group.remove()
    assert group.usage() is None
    assert group.end() == GroupEnd()


def test_strangers_aren_t_moved() -> None:
    """A group that has processes of others in it isn't divided, unless it was named."""
    tree = PretendTree(OWN, CONTROLLERS, {os.getpid(), os.getppid(), 999_999_999})
    with pytest.raises(NotDelegated, match="1 other processes"):
        divided(tree)
    assert tree.procs[OWN] == {os.getpid(), os.getppid(), 999_999_999}
    divided(tree, shared=True)
    assert tree.procs[OWN / LEAF] == {os.getpid(), os.getppid(), 999_999_999}


def test_groups_of_runners_that_are_no_more_are_removed() -> None:
    """What a runner that was killed has left is removed with all in it; groups of one that lives stay."""
    tree = PretendTree(OWN, CONTROLLERS, ())
    # In a container the runner has the same number each time.
    dead, own, living = (OWN / f"greenroom-{pid}-1" for pid in (999_999_999, os.getpid(), os.getppid()))
    for folder in (dead, own, living):
        tree.make(folder)
        tree.procs[folder] = {4712}
    groups = divided(tree)
    assert set(tree.groups(OWN)) == {LEAF, living.name}
    assert groups.adopt(4711).folder.parent == OWN


def test_a_group_that_isn_t_writable_isn_t_ours() -> None:
    """Where the kernel refuses to divide a group, there are none, and the text says why."""
    with pytest.raises(NotDelegated, match=r"can't be divided: No such file"):
        SessionGroups.delegated(ALLOWANCE, folder=OWN / "elsewhere", tree=PretendTree(OWN, (), ()))


@pytest.mark.parametrize(
    ("cgroup", "mountinfo", "found"),
    [
        ("0::/job\n", "30 24 0:26 / {root} rw - cgroup2 cgroup rw\n", "job"),
        ("12:pids:/x\n0::/job\n", "30 24 0:26 /job {root} rw shared:4 - cgroup2 none rw\n", ""),
        (f"0::/job/{LEAF}\n", "30 24 0:26 / {root} rw - cgroup2 cgroup rw\n", "job"),
        ("0::/\n", "30 24 0:26 / {root} rw - cgroup2 cgroup rw\n", None),
        ("4:memory:/job\n", "30 24 0:26 / {root} rw - cgroup cgroup rw,memory\n", None),
        ("0::/../other\n", "30 24 0:26 / {root} rw - cgroup2 cgroup rw\n", None),
    ],
)
def test_the_own_group_is_found(tmp_path: Path, cgroup: str, mountinfo: str, found: str | None) -> None:
    """By the mount, also where only a part of the hierarchy is mounted; the root of the host's is nobody's own."""
    root = tmp_path / "mounted groups"
    proc = tmp_path / "proc" / "self"
    proc.mkdir(parents=True)
    (root / "job").mkdir(parents=True)
    (root / "job" / "cgroup.type").touch()
    if "/job /" in mountinfo.format(root="/"):
        (root / "cgroup.type").touch()
    (proc / "cgroup").write_text(cgroup)
    (proc / "mountinfo").write_text(mountinfo.format(root=str(root).replace(" ", "\\040")))
    if found is None:
        with pytest.raises(NotDelegated):
            find_own(proc.parent)
    else:
        assert find_own(proc.parent) == root / found


def test_running_out_of_memory_is_told_from_other_kills() -> None:
    """SIGKILL with a kill for want of memory in the group is `out-of-memory`; without one, or sent by us, it isn't."""
    oom = GroupEnd(oom_kills=1, peak_bytes=300 * 1024 * 1024)

    def reason(code: int, group: GroupEnd, last_step: Step | None = None) -> str:
        verdict = judge(announced=None, finished=None, exited=Exit(code=code, group=group), last_step=last_step)
        assert verdict.outcome is Outcome.FAILED
        return verdict.reason

    assert reason(-signal.SIGKILL, oom) == "out-of-memory"
    assert reason(-signal.SIGKILL, GroupEnd()) == "process-killed"
    assert reason(-signal.SIGSEGV, oom) == "process-killed"
    assert reason(-signal.SIGKILL, oom, Step.KILL) == "end-timeout"
