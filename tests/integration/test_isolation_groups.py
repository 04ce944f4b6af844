"""Control groups of sessions, on the kernel of this machine, as far as it has them."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from greenroom.common.lifecycle import State
from greenroom.runner.isolation.groups import CONTROLLERS, Allowance, SessionGroups
from greenroom.runner.isolation.grouptree import LEAF, NotDelegated
from tests.support.kernel_groups import delegated_group, parent_of_groups
from tests.support.runner_process import PATIENCE_S, request, runner_process
from tests.support.runner_rig import gone, until

# Run in a process of its own, since it is moved.
_DIVIDE = """
import subprocess, sys
from pathlib import Path
from greenroom.runner.isolation.groups import Allowance, SessionGroups
groups = SessionGroups.delegated(
    Allowance(memory_mb=64, processes=16), folder=Path(sys.argv[1]), shared=True)
child = subprocess.Popen([sys.executable, "-c", sys.argv[2]], stdin=subprocess.PIPE, start_new_session=True)
group = groups.adopt(child.pid)
child.stdin.close()
print(group.folder, child.pid, ",".join(sorted(groups.controllers)), flush=True)
sys.stdin.read()
print(child.wait(), group.usage(), group.end(), group.remove(), sep="|", flush=True)
"""
# Burns some processor time, then starts a process that leaves its session, and waits.
_ESCAPE = """
import subprocess, sys, time
sys.stdin.read()
until = time.process_time() + 0.2
while time.process_time() < until: pass
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
time.sleep(60)
"""
# Takes twice the memory that it may, and uses it.
_ALLOCATE = """
import sys
sys.stdin.read()
held = bytearray(b"x") * (128 * 1024 * 1024)
"""
# Starts more processes than it may, as far as it gets; says how far that was.
_FORK = """
import subprocess, sys
sys.stdin.read()
started = []
try:
    while len(started) < 40: started.append(subprocess.Popen(["sleep", "60"]))
except BlockingIOError:
    pass
sys.exit(len(started))
"""


def test_a_whole_session_is_killed_and_measured_by_its_group() -> None:
    """Whoever escaped from a session's process group dies with its control group, which had counted its time."""
    parent = parent_of_groups()
    if parent is None:
        _assert_refused()
        return
    with delegated_group(parent) as folder:
        offered = set((folder / "cgroup.controllers").read_text().split()) & set(CONTROLLERS)
        with subprocess.Popen(
            [sys.executable, "-c", _DIVIDE, str(folder), _ESCAPE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as runner:
            assert runner.stdin is not None
            assert runner.stdout is not None
            place, pid, *controllers = runner.stdout.readline().split()
            assert set("".join(controllers).split(",")) - {""} == offered
            assert str(runner.pid) in (folder / LEAF / "cgroup.procs").read_text().split()
            child = psutil.Process(int(pid))
            deadline = time.monotonic() + 20
            while not child.children() and time.monotonic() < deadline:
                time.sleep(0.01)
            [escaped] = child.children()
            members = {int(word) for word in (Path(place) / "cgroup.procs").read_text().split()}
            assert members == {child.pid, escaped.pid}
            (Path(place) / "cgroup.kill").write_text("1")
            runner.stdin.close()
            code, usage, end, removed = runner.stdout.read().strip().split("|")
            assert int(code) == -signal.SIGKILL
            assert float(end.partition("cpu_s=")[2].partition(",")[0]) >= 0.2
            assert ("None" not in usage) == ("memory" in offered)
            assert removed == "True"
        assert gone(escaped)
        assert not Path(place).exists()


@pytest.mark.parametrize(
    ("controller", "script", "held", "free"),
    [
        # All of it is killed, for want of memory.
        ("memory", _ALLOCATE, (-signal.SIGKILL, "oom_kills"), 0),
        # Itself, and fifteen others.
        ("pids", _FORK, (15, "forks_refused"), 40),
    ],
    ids=["memory", "pids"],
)
def test_the_kernel_holds_a_session_to_its_limits(
    controller: str, script: str, held: tuple[int, str], free: int
) -> None:
    """Whoever goes over is stopped, and the group knows; where the controller isn't offered nobody is, as is said."""
    parent = parent_of_groups()
    if parent is None:
        _assert_refused()
        return
    with delegated_group(parent) as folder:
        offered = controller in (folder / "cgroup.controllers").read_text().split()
        run = subprocess.run(
            [sys.executable, "-c", _DIVIDE, str(folder), script], input="", capture_output=True, text=True, check=True
        )
    first, last = run.stdout.strip().splitlines()
    assert (controller in first.split()[-1].split(",")) == offered
    code, _, end, removed = last.split("|")
    counted = {name: int(number) for name, number in re.findall(r"(oom_kills|forks_refused)=(\d+)", end)}
    assert int(code) == (held[0] if offered else free)
    assert (counted[held[1]] > 0) == offered
    assert removed == "True"


async def test_a_runner_divides_its_group(nats_url: str) -> None:
    """Every session of a runner has a group, which is killed with the session and gone after it."""
    parent = parent_of_groups()
    if parent is None:
        _assert_refused()
        return
    with delegated_group(parent) as folder:
        bots = "spawner=tests.support.standin_bots:spawner"
        async with runner_process(nats_url, GREENROOM_BOTS=bots, GREENROOM_CONTROL_GROUPS=str(folder)) as it:
            session_id = await it.begin(await request(it.ledger, "spawner"))
            [escaped] = [each for each in it.family() if "time.sleep(300)" in " ".join(each.cmdline())]
            groups = {each.name: _members(each) for each in folder.iterdir() if each.is_dir()}
            [(name, members)] = [each for each in groups.items() if escaped.pid in each[1]]
            assert len(members) == 2
            assert it.process.pid in groups[LEAF]
            await it.stop(session_id)
            await it.reaches(session_id, State.ENDED)
            await until(lambda: gone(escaped) and not (folder / name).exists(), PATIENCE_S)
            it.process.terminate()
            assert await it.exit_code() == 0


async def test_a_group_that_can_t_be_divided_is_refused_when_it_was_named(tmp_path: Path) -> None:
    """A runner that is told to divide what isn't a control group says so, and doesn't start without."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import sys; from greenroom.runner.isolation.groups import Allowance, open_groups;"
        "open_groups(sys.argv[1], Allowance())",
        str(tmp_path),
        stderr=asyncio.subprocess.PIPE,
    )
    _, complaint = await process.communicate()
    assert b"SettingsInvalid" in complaint
    assert b"can't be divided" in complaint


def _members(group: Path) -> set[int]:
    return {int(word) for word in (group / "cgroup.procs").read_text().split()}


def _assert_refused() -> None:
    """A machine without groups to divide refuses, and says why."""
    assert os.environ.get("GREENROOM_TEST_CONTROL_GROUP") is None
    with pytest.raises(NotDelegated):
        SessionGroups.delegated(Allowance())
