"""How many sessions a host takes, from what they cost."""

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.common.messages import BotOffer
from greenroom.runner import density
from greenroom.runner.density import ENOUGH, MOST_BUSY, Cost, Room
from greenroom.runner.host import Host
from greenroom.runner.isolation.usage import Usage
from greenroom.runner.links import Interfaces
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
    network=st.sampled_from([0.0, 100.0, 12_500.0, 1e6]),
)
ROOMS = st.builds(
    Room,
    processors=st.floats(0.1, 128),
    busy_cores=st.floats(0, 128),
    memory_total=st.integers(GB, 512 * GB),
    memory_available=st.integers(0, 512 * GB),
    network=st.sampled_from([0.0, 1e6, 1e8]),
    busy_network=st.floats(0, 1e8),
)


def test_what_is_scarcer_decides() -> None:
    """A host has room for as many as its processors and its memory both have."""
    assert density.more(HEAVY, ROOM) == 10  # (2 × 0.75 - 0.5) / 0.1
    cramped = Room(processors=64, busy_cores=0, memory_total=GB, memory_available=GB // 2)
    assert density.more(HEAVY, cramped) == 10  # (512 - 102.4) / 40


def test_the_network_decides_where_it_is_scarcest() -> None:
    """Three quarters of the link, less what goes over it; one whose speed isn't known is no bound."""
    talker = Cost(cores=0.01, memory=MB, seen=ENOUGH, network=25_000)
    thin = Room(processors=64, busy_cores=0, memory_total=64 * GB, memory_available=60 * GB, network=1_250_000)
    assert density.more(talker, thin) == 37  # 1,250,000 × 0.75 / 25,000
    half = density.without(thin, [talker] * 20)
    assert density.more(talker, half) == 17
    unknown = Room(processors=64, busy_cores=0, memory_total=64 * GB, memory_available=60 * GB)
    assert density.more(talker, unknown) == 4800


def test_slots_are_for_the_lightest_bot_that_may_come() -> None:
    """Whether one fits that is dearer is another question."""
    both = density.slots([LIGHT, HEAVY], ROOM, held=3, default=24, most=512)
    alone = density.slots([HEAVY], ROOM, held=3, default=24, most=512)
    assert (both, alone) == (103, 13)


def test_until_something_is_known_the_default_holds() -> None:
    """One measurement is none."""
    young = Cost(cores=0.5, memory=MB, seen=ENOUGH - 1)
    assert density.known({"echo": young}) == {}
    assert density.slots([], ROOM, held=0, default=24, most=512) == 24


def test_a_host_that_others_keep_busy_takes_one() -> None:
    """A bot can be tried out there; who has a session already takes no second."""
    busy = Room(processors=2, busy_cores=2, memory_total=8 * GB, memory_available=6 * GB)
    found = [density.slots([HEAVY], busy, held=held, default=24, most=512) for held in (0, 1, 2)]
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


@given(st.lists(COSTS, max_size=4), ROOMS, st.integers(0, 600), st.integers(1, 64))
def test_no_session_that_is_held_loses_its_slot(costs: list[Cost], room: Room, held: int, default: int) -> None:
    """Whatever is measured: at least what is held, and more than that only up to the most."""
    slots = density.slots(costs, room, held=held, default=default, most=100)
    assert held <= slots <= max(held, 100)


@given(st.lists(COSTS, min_size=1, max_size=4), ROOMS, st.lists(st.integers(0, 3), max_size=6))
def test_a_mix_that_is_counted_by_parts_fits(costs: list[Cost], room: Room, mix: list[int]) -> None:
    """Of a bot of which n more are taken each session takes an n-th: where that is no more than 1, all fit."""
    bots = [costs[number % len(costs)] for number in mix]
    counts = [density.more(cost, room) for cost in bots]
    if bots and all(counts) and sum(Fraction(1, count) for count in counts) <= 1:
        left = density.without(room, bots)
        assert left.busy_cores <= left.processors * MOST_BUSY + 1e-6
        assert left.memory_available >= left.memory_total * 0.1 - len(bots) - 1
        assert (
            not room.network
            or left.busy_network <= left.network * MOST_BUSY + 1e-3
            or not any(cost.network for cost in bots)
        )


@given(st.lists(COSTS, min_size=1), ROOMS)
def test_what_is_not_known_costs_as_much_as_the_dearest(costs: list[Cost], room: Room) -> None:
    """Of no bot that is known fewer are taken than of one that isn't."""
    assert density.more(density.dearest(costs), room) <= min(density.more(cost, room) for cost in costs)


@given(COSTS, ROOMS)
def test_what_is_taken_fits(cost: Cost, room: Room) -> None:
    """As many more as are said keep the processors and the memory within their bounds, and one more wouldn't."""
    more = density.more(cost, room)
    cores = max(cost.cores + cost.cores_spread, 0.002)
    memory = max(cost.memory + cost.memory_spread, 2 * MB)
    takes = [(cores, room.processors * MOST_BUSY - room.busy_cores, 1e-6)]
    takes.append((memory, room.memory_available - 0.1 * room.memory_total, 1.0))
    if room.network and cost.network:
        takes.append((cost.network, room.network * MOST_BUSY - room.busy_network, 1e-3))
    assert more == 0 or all(more * each <= free + slack for each, free, slack in takes)
    assert any((more + 1) * each > free - slack for each, free, slack in takes)


@given(COSTS, ROOMS, st.floats(1, 4))
def test_what_costs_more_fits_less(cost: Cost, room: Room, factor: float) -> None:
    """A dearer bot never gets more slots."""
    dearer = Cost(
        cores=cost.cores * factor,
        cores_spread=cost.cores_spread,
        memory=cost.memory * factor,
        memory_spread=cost.memory_spread,
        seen=cost.seen,
        network=cost.network * factor,
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


FRONTDESK = (BotOffer(name="frontdesk"),)


def calls(sizing: Sizing, bot: str, *, cores: float, mb: int, seconds: int = 60) -> None:
    """Have a call of a bot be looked at each second."""
    session = new_session(bot)
    for second in range(seconds):
        sizing.note(session, used(mb * MB, second * cores), float(second))


def test_slots_follow_what_sessions_were_measured_to_cost(host: Host) -> None:
    """A call's first seconds don't count; after enough of the others the slots are those that fit, and it is told."""
    sizing = Sizing(None, default=24, host=host)
    session = new_session("frontdesk")
    for second in range(10):
        sizing.note(session, used(900 * MB, second * 0.9), float(second))
    assert sizing.slots(held=1, offers=FRONTDESK) == 24
    assert sizing.densities(held=1, offers=FRONTDESK) == ()
    for second in range(10, 60):
        sizing.note(session, used(100 * MB, 9 + second * 0.001), float(second))
    sizing.look(60.0)
    [told] = sizing.densities(held=1, offers=FRONTDESK)
    assert told.bot == "frontdesk"
    assert told.memory == pytest.approx(100 * MB, rel=0.01)
    assert told.more == sizing.slots(held=1, offers=FRONTDESK) - 1
    assert 10 < told.more < 60


def test_a_number_that_was_told_is_kept_to(host: Host) -> None:
    """Without `auto` nothing that is measured changes the slots, of whichever bot, and the heartbeat says so."""
    sizing = Sizing(7, default=24, host=host)
    calls(sizing, "echo", cores=1.0, mb=1024)
    offers = (BotOffer(name="echo"), BotOffer(name="seer", resources="multimodal"))
    assert sizing.slots(held=0, offers=offers) == 7
    assert [sizing.slots_for((bot, 1), held=5, offers=offers) for bot in ("echo", "seer", "other")] == [7, 7, 7]
    assert (sizing.by_cost, Sizing(None, default=24, host=host).by_cost) == (False, True)


def fits(sizing: Sizing, offers: tuple[BotOffer, ...], held: int = 0) -> dict[str, tuple[int, int]]:
    """Return of each bot how many more are taken, and how often it was measured."""
    return {each.bot: (each.more, each.seen) for each in sizing.densities(held=held, offers=offers)}


OFFERS = (
    BotOffer(name="plain", resources="voice"),
    BotOffer(name="seer", resources="multimodal"),
    BotOffer(name="silent"),
    BotOffer(name="broken", resources="voice", error="ImportError: no"),
)


def test_a_class_counts_until_the_bot_is_measured(two_processors: Host) -> None:
    """1.5 cores are 24 of a voice bot, as of any by default, or 7 that see; then what was measured is what counts."""
    sizing = Sizing(None, default=24, host=two_processors)
    assert fits(sizing, OFFERS) == {"plain": (24, 0), "seer": (7, 0)}
    assert sizing.slots(held=0, offers=OFFERS) == 24
    bots = ("plain", "seer", "silent")
    assert [sizing.slots_for((bot, 1), held=0, offers=OFFERS) for bot in bots] == [24, 7, 7]
    calls(sizing, "seer", cores=0.05, mb=20)
    more, seen = fits(sizing, OFFERS)["seer"]
    assert (28 <= more <= 30, seen >= ENOUGH) == (True, True)
    assert [sizing.slots_for((bot, 1), held=0, offers=OFFERS) for bot in bots] == [24, more, 24]


def test_versions_of_a_bot_are_measured_apart(two_processors: Host) -> None:
    """The next version may cost what it likes: it says so of itself, until that is measured too."""
    sizing = Sizing(None, default=24, host=two_processors)
    calls(sizing, "seer", cores=0.05, mb=20)
    offers = tuple(BotOffer(name="seer", version=version, resources="multimodal") for version in (1, 2))
    first, second = sizing.densities(held=0, offers=offers)
    assert (first.version, first.seen >= ENOUGH, first.more >= 28) == (1, True, True)
    assert (second.version, second.seen, second.more) == (2, 0, 7)
    assert sizing.slots_for(("seer", 2), held=0, offers=offers) == 7


def test_a_session_counts_by_its_class_from_its_first_second(two_processors: Host) -> None:
    """Until the host shows what it takes; so a burst finds no more room than there is."""
    sizing = Sizing(None, default=24, host=two_processors)
    sizing.look(0.0)
    seer, plain = new_session("seer"), new_session("plain")
    sizing.begun(seer, 1.0)
    sizing.begun(plain, 1.0)
    assert fits(sizing, OFFERS, held=2) == {"plain": (19, 0), "seer": (6, 0)}
    sizing.look(5.0)
    assert fits(sizing, OFFERS, held=2) == {"plain": (19, 0), "seer": (6, 0)}
    sizing.forget(frozenset({(seer.id, seer.epoch)}))
    assert fits(sizing, OFFERS, held=1) == {"plain": (20, 0), "seer": (6, 0)}
    sizing.look(10.0)
    assert fits(sizing, OFFERS, held=1) == {"plain": (24, 0), "seer": (7, 0)}


def test_a_host_without_sessions_takes_one_of_any_bot(two_processors: Host, tmp_path: Path) -> None:
    """However busy others keep it; and none of a bot for which there is no room once it has one."""
    sizing = Sizing(None, default=24, host=two_processors)
    sizing.look(0.0)
    (tmp_path / "proc" / "stat").write_text("".join(f"cpu{each}  1000 0 50 800 50 0 0 0 0 0\n" for each in (0, 1)))
    sizing.look(5.0)
    assert fits(sizing, OFFERS) == {"plain": (1, 0), "seer": (1, 0)}
    assert fits(sizing, OFFERS, held=1) == {"plain": (0, 0), "seer": (0, 0)}
    assert sizing.slots_for(("seer", 1), held=0, offers=OFFERS) == 1
    assert sizing.slots_for(("seer", 1), held=1, offers=OFFERS) == 1


def test_a_thin_link_bounds_the_slots(two_processors: Host, tmp_path: Path) -> None:
    """By the kbit/s of the class: of 2 Mbit/s three quarters, less what goes over it."""
    interfaces = Interfaces(2, proc=tmp_path / "proc", net=tmp_path / "net")
    (tmp_path / "proc" / "net").mkdir()
    dev = tmp_path / "proc" / "net" / "dev"
    dev.write_text("head\n  eth0: 1000 1 0 0 0 0 0 0 1000 1 0 0 0 0 0 0\n")
    sizing = Sizing(None, default=24, host=two_processors, interfaces=interfaces)
    sizing.look(0.0)
    assert fits(sizing, OFFERS) == {"plain": (24, 0), "seer": (7, 0)}
    # 0.5 Mbit/s for 5 s.
    dev.write_text("head\n  eth0: 313500 1 0 0 0 0 0 0 1000 1 0 0 0 0 0 0\n")
    sizing.look(5.0)
    assert fits(sizing, OFFERS) == {"plain": (10, 0), "seer": (2, 0)}
    # 1 Mbit/s.
    dev.write_text("head\n  eth0: 938500 1 0 0 0 0 0 0 1000 1 0 0 0 0 0 0\n")
    sizing.look(10.0)
    assert fits(sizing, OFFERS, held=1) == {"plain": (5, 0), "seer": (1, 0)}


@pytest.fixture
def two_processors(host: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    """The same host, with two processors."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    return host
