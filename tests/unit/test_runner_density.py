"""How many sessions a host takes, from what they cost."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.runner import density
from greenroom.runner.density import ENOUGH, MOST_BUSY, Cost, Room
from greenroom.runner.host import Host
from greenroom.runner.isolation.usage import Usage
from greenroom.runner.sizing import Sizing
from tests.support.session_rig import new_session

GB = 2**30
MB = 2**20
ROOM = Room(processors=2, busy_cores=0.5, memory_total=8 * GB, memory_available=6 * GB)
LIGHT = Cost(cores=0.01, memory=10 * MB, seen=ENOUGH)
HEAVY = Cost(cores=0.1, memory=40 * MB, seen=ENOUGH)

COSTS = st.builds(
    Cost,
    cores=st.floats(0, 2),
    cores_spread=st.floats(0, 1),
    memory=st.floats(0, 4 * GB),
    memory_spread=st.floats(0, GB),
    seen=st.integers(0, 1000),
)
ROOMS = st.builds(
    Room,
    processors=st.floats(0.1, 128),
    busy_cores=st.floats(0, 128),
    memory_total=st.integers(GB, 512 * GB),
    memory_available=st.integers(0, 512 * GB),
)


def test_what_is_scarcer_decides() -> None:
    """A host has room for as many as its processors and its memory both have."""
    assert density.more(HEAVY, ROOM) == 10  # (2 × 0.75 - 0.5) / 0.1
    cramped = Room(processors=64, busy_cores=0, memory_total=GB, memory_available=GB // 2)
    assert density.more(HEAVY, cramped) == 10  # (512 - 102.4) / 40


def test_the_dearest_bot_that_may_come_decides() -> None:
    """A slot has to be large enough for any of the bots that are offered; others don't matter."""
    costs = {"echo": LIGHT, "frontdesk": HEAVY}
    both = density.slots(costs, ROOM, held=3, offered=["echo", "frontdesk"], default=24, most=512)
    alone = density.slots(costs, ROOM, held=3, offered=["echo"], default=24, most=512)
    assert (both, alone) == (13, 103)


def test_until_something_is_known_the_default_holds() -> None:
    """One measurement is none."""
    young = Cost(cores=0.5, memory=MB, seen=ENOUGH - 1)
    assert density.slots({"echo": young}, ROOM, held=0, offered=["echo"], default=24, most=512) == 24


def test_a_host_that_others_keep_busy_takes_one() -> None:
    """A bot can be tried out there; who has a session already takes no second."""
    busy = Room(processors=2, busy_cores=2, memory_total=8 * GB, memory_available=6 * GB)
    found = [density.slots({"a": HEAVY}, busy, held=held, offered=["a"], default=24, most=512) for held in (0, 1, 2)]
    assert found == [1, 1, 2]


def test_a_mean_is_learned() -> None:
    """What is measured again and again is what is known, with how far it varies, and a change is followed."""
    cost = Cost()
    for turn in range(400):
        cost = density.learn(cost, cores=0.02 if turn % 2 else 0.04, memory=10 * MB)
    assert cost.cores == pytest.approx(0.03, abs=0.002)
    assert cost.cores_spread == pytest.approx(0.01, abs=0.002)
    assert cost.memory == pytest.approx(10 * MB)
    for _ in range(400):
        cost = density.learn(cost, cores=0.2, memory=20 * MB)
    assert cost.cores == pytest.approx(0.2, abs=0.01)


@given(st.dictionaries(st.sampled_from("abcd"), COSTS), ROOMS, st.integers(0, 600), st.integers(1, 64))
def test_no_session_that_is_held_loses_its_slot(costs: dict[str, Cost], room: Room, held: int, default: int) -> None:
    """Whatever is measured: at least what is held, and more than that only up to the most."""
    slots = density.slots(costs, room, held=held, offered=list("abc"), default=default, most=100)
    assert held <= slots <= max(held, 100)


@given(COSTS, ROOMS)
def test_what_is_taken_fits(cost: Cost, room: Room) -> None:
    """As many more as are said keep the processors and the memory within their bounds, and one more wouldn't."""
    more = density.more(cost, room)
    cores = max(cost.cores + cost.cores_spread, 0.002)
    memory = max(cost.memory + cost.memory_spread, 2 * MB)
    free_cores = room.processors * MOST_BUSY - room.busy_cores
    free_memory = room.memory_available - 0.1 * room.memory_total
    assert more == 0 or (more * cores <= free_cores + 1e-6 and more * memory <= free_memory + 1)
    assert (more + 1) * cores > free_cores - 1e-6 or (more + 1) * memory > free_memory - 1


@given(COSTS, ROOMS, st.floats(1, 4))
def test_what_costs_more_fits_less(cost: Cost, room: Room, factor: float) -> None:
    """A dearer bot never gets more slots."""
    dearer = Cost(
        cores=cost.cores * factor,
        cores_spread=cost.cores_spread,
        memory=cost.memory * factor,
        memory_spread=cost.memory_spread,
        seen=cost.seen,
    )
    assert density.more(dearer, room) <= density.more(cost, room)


def used(memory: int, cpu_s: float) -> Usage:
    """Return what a session uses."""
    return Usage(memory_bytes=memory, source="pss", cpu_s=cpu_s, processes=1)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host with 8 GB of memory, 6 of them available, whose processors are idle."""
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / "meminfo").write_text(f"MemTotal: {8 * GB // 1024} kB\nMemAvailable: {6 * GB // 1024} kB\n")
    (proc / "stat").write_text("cpu  100 0 50 800 50 0 0 0 0 0\n")
    return Host(proc, tmp_path / "cgroup")


def test_slots_follow_what_sessions_were_measured_to_cost(host: Host) -> None:
    """A call's first seconds don't count; after enough of the others the slots are those that fit, and it is told."""
    sizing = Sizing(None, default=24, host=host)
    session = new_session("frontdesk")
    for second in range(10):
        sizing.note(session, used(900 * MB, second * 0.9), float(second))
    assert sizing.slots(held=1, offered=("frontdesk",)) == 24
    assert sizing.densities() == ()
    for second in range(10, 60):
        sizing.note(session, used(100 * MB, 9 + second * 0.001), float(second))
    sizing.look(60.0)
    [told] = sizing.densities()
    assert told.bot == "frontdesk"
    assert told.memory == pytest.approx(100 * MB, rel=0.01)
    assert told.more == sizing.slots(held=1, offered=("frontdesk",)) - 1
    assert 10 < told.more < 60


def test_a_number_that_was_told_is_kept_to(host: Host) -> None:
    """Without `auto` nothing that is measured changes the slots."""
    sizing = Sizing(7, default=24, host=host)
    session = new_session("echo")
    for second in range(60):
        sizing.note(session, used(GB, float(second)), float(second))
    assert sizing.slots(held=0, offered=("echo",)) == 7
