"""What the runner reads of its host, and what it makes of it."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from greenroom.common.clock import SystemClock
from greenroom.runner.brake import Thresholds
from greenroom.runner.host import Host
from greenroom.runner.load import HostLoad

MEMINFO = (
    "MemTotal:       1000000 kB\nMemFree:          10000 kB\nMemAvailable:    400000 kB\nHugePages_Total:       0\n"
)
STAT = "cpu  100 0 50 800 50 0 0 0 0 0\n"
PRESSURE = "some avg10={} avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A kernel's files: 40 % of the memory available, no control group, no pressure."""
    write(tmp_path / "proc" / "meminfo", MEMINFO)
    write(tmp_path / "proc" / "stat", STAT)
    return tmp_path


def write(path: Path, text: str) -> None:
    """Write a file and the folders to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def host(root: Path) -> Host:
    """A host of these files."""
    return Host(root / "proc", root / "cgroup")


def group(root: Path, name: str, *, limit: str, used: int, cache: int = 0) -> None:
    """Make a control group and be in it."""
    write(root / "proc" / "self" / "cgroup", f"4:memory:/elsewhere\n0::/{name}\n")
    write(root / "cgroup" / name / "memory.max", f"{limit}\n")
    write(root / "cgroup" / name / "memory.current", f"{used}\n")
    write(root / "cgroup" / name / "memory.stat", f"anon 1\ninactive_file {cache}\n")


def test_a_host_without_control_groups(root: Path) -> None:
    """Memory is the host's, and what the kernel doesn't tell is None."""
    it = host(root)
    assert it.memory_available() == 400_000 * 1024
    assert it.memory_available_percent() == 40.0
    assert it.cpu_pressure_percent() is None
    assert it.processor_ticks() == (150, 1000)


def test_the_limit_of_a_control_group_counts(root: Path) -> None:
    """What is left of the own group's limit counts if it is less; cache that can go is left."""
    group(root, "nomad/task", limit="1000", used=950, cache=50)
    assert host(root).memory_available_percent() == 10.0


def test_a_group_above_may_have_the_limit(root: Path) -> None:
    """Without a limit of its own a group is bound by those above it."""
    group(root, "slice", limit="1000", used=980)
    group(root, "slice/task", limit="max", used=10)
    assert host(root).memory_available_percent() == 2.0


def test_the_pressure_is_that_of_the_own_group(root: Path) -> None:
    """A throttled group waits though the host is idle; without one, the host's pressure is told."""
    write(root / "proc" / "pressure" / "cpu", PRESSURE.format("12.50"))
    assert host(root).cpu_pressure_percent() == 12.5
    group(root, "task", limit="max", used=1)
    write(root / "cgroup" / "task" / "cpu.pressure", PRESSURE.format("98.00"))
    assert host(root).cpu_pressure_percent() == 98.0


def test_a_quota_is_what_there_is_of_processors(root: Path) -> None:
    """Without one there are those it may run on, whoever uses them; with one, that share, and what the group uses."""
    group(root, "task", limit="max", used=1)
    mine = os.sched_getaffinity(0)
    others = f"cpu{max(mine) + 1} 900 0 0 0 0 0 0 0 0 0\n"
    write(root / "proc" / "stat", STAT + "".join(f"cpu{each} 100 0 50 800 50 0 0 0 0 0\n" for each in mine) + others)
    write(root / "cgroup" / "task" / "cpu.max", "max 100000\n")
    assert host(root).processor_use() == (len(mine), 1.5 * len(mine))
    write(root / "cgroup" / "task" / "cpu.max", "50000 100000\n")
    write(root / "cgroup" / "task" / "cpu.stat", "usage_usec 250000\nuser_usec 1\n")
    assert host(root).processor_use() == (0.5, 0.25)


def test_room_is_what_is_left_of_the_tightest_limit(root: Path) -> None:
    """A container with a limit has no more room than that, whatever the host has."""
    assert host(root).memory_room() == (400_000 * 1024, 1_000_000 * 1024)
    group(root, "task", limit="1000", used=950, cache=50)
    assert host(root).memory_room() == (100, 1000)


def test_throttling_is_told_where_there_is_a_quota(root: Path) -> None:
    """The group, own or above, that was kept waiting most counts; one without a quota has no periods."""
    assert host(root).throttling() is None
    group(root, "slice", limit="max", used=1)
    write(root / "cgroup" / "slice" / "cpu.stat", "usage_usec 5\nnr_periods 200\nnr_throttled 30\n")
    group(root, "slice/task", limit="max", used=1)
    write(root / "cgroup" / "slice" / "task" / "cpu.stat", "usage_usec 5\nnr_periods 0\nnr_throttled 0\n")
    assert host(root).throttling() == (30, 200)


async def test_a_throttled_host_brakes(root: Path) -> None:
    """The load sees in how many of the periods since its last look the group was kept waiting."""
    group(root, "task", limit="max", used=1)
    stat = root / "cgroup" / "task" / "cpu.stat"
    write(stat, "nr_periods 1000\nnr_throttled 900\n")
    load = HostLoad(Thresholds(throttled_percent=10), clock=SystemClock(), on_change=lambda: None, host=host(root))
    assert load._throttled_percent() == 0.0
    write(stat, "nr_periods 1010\nnr_throttled 905\n")
    assert load._throttled_percent() == 50.0
    assert load._throttled_percent() == 0.0


def test_this_host_can_be_read() -> None:
    """The real files are understood."""
    it = Host()
    assert it.memory_available() > 0
    share = it.memory_available_percent()
    assert share is not None
    assert 0 < share <= 100


class HastyClock(SystemClock):
    """Its seconds are over in a tenth."""

    def monotonic(self) -> float:
        """Return the seconds since some moment."""
        return super().monotonic() * 10


async def test_a_blocked_loop_brakes(root: Path) -> None:
    """A loop that turns late, again and again, is what the brake is for; it is told in the next sample too."""
    load = HostLoad(Thresholds(loop_lag_ms=100), clock=HastyClock(), on_change=lambda: None, host=host(root))
    running = asyncio.create_task(load.run())
    try:
        for _ in range(5):
            await asyncio.sleep(0)
            time.sleep(0.3)
            await asyncio.sleep(0.06)
        assert str(load.brake).startswith("loop lag ")
        assert load.sample().loop_lag_ms > 100
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_pressure_brakes(root: Path) -> None:
    """As the kernel tells it, where there is a threshold."""
    write(root / "proc" / "pressure" / "cpu", PRESSURE.format("99.10"))
    load, calm = (
        HostLoad(Thresholds(cpu_pressure_percent=percent), clock=HastyClock(), on_change=lambda: None, host=host(root))
        for percent in (98, 0)
    )
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(each.run()) for each in (load, calm)]
        while load.brake is None:
            await asyncio.sleep(0.05)
        assert load.brake.startswith("CPU pressure 99 % for ")
        assert calm.brake is None
        for each in running:
            each.cancel()


async def test_a_change_of_the_brake_is_told(root: Path) -> None:
    """The load brakes on what it reads, tells so once, and refuses below the floor."""
    told: list[str | None] = []
    thresholds = Thresholds(memory_percent=30, refuse_memory_percent=10)
    load = HostLoad(thresholds, clock=SystemClock(), on_change=lambda: told.append(load.brake), host=host(root))
    running = asyncio.create_task(load.run())
    try:
        assert load.brake is None
        write(root / "proc" / "meminfo", MEMINFO.replace("400000", "90000"))
        async with asyncio.timeout(5):
            while not told:
                await asyncio.sleep(0.05)
        assert told == ["9 % memory available"]
        assert load.overload == "9 % memory available"
        assert load.sample().memory_available == 90_000 * 1024
        await asyncio.sleep(0.6)
        assert len(told) == 1
    finally:
        running.cancel()
        await asyncio.wait({running})
