"""How full the network is: what is read of the interfaces, and what the brake makes of it."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.common.clock import SystemClock
from greenroom.runner.brake import Brake, Reading, Thresholds, follow
from greenroom.runner.links import BYTES_PER_MBIT, Counted, Interfaces, LinkMeter, fullest
from greenroom.runner.load import HostLoad

HEAD = "Inter-|   Receive  |  Transmit\n face |bytes    packets errs\n"
THRESHOLDS = Thresholds(network_percent=90)


def dev(root: Path, **counts: tuple[int, int]) -> None:
    """Write /proc/net/dev with the bytes that each interface has received and sent."""
    path = root / "proc" / "net" / "dev"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{name:>6}: {got} 9 0 0 0 0 0 0 {sent} 9 0 0 0 0 0 0" for name, (got, sent) in counts.items()]
    path.write_text(HEAD + "\n".join(lines) + "\n")


def speed(root: Path, name: str, text: str) -> None:
    """Write what an interface says of its link."""
    (root / "net" / name).mkdir(parents=True)
    (root / "net" / name / "speed").write_text(text)


def interfaces(root: Path, mbit: int = 0) -> Interfaces:
    """Return the interfaces of these files."""
    return Interfaces(mbit, proc=root / "proc", net=root / "net")


def test_only_links_whose_speed_is_known_are_looked_at(tmp_path: Path) -> None:
    """Not the loopback; nor what says -1, or nothing, as virtual interfaces do; unless the operator says a speed."""
    dev(tmp_path, lo=(9, 9), eth0=(1000, 2000), veth1=(5, 6), dummy0=(7, 8))
    speed(tmp_path, "lo", "1000\n")
    speed(tmp_path, "eth0", "1000\n")
    speed(tmp_path, "veth1", "-1\n")
    assert interfaces(tmp_path).read() == {"eth0": Counted(received=1000, sent=2000, mbit=1000)}
    assert {name: it.mbit for name, it in interfaces(tmp_path, 50).read().items()} == {
        "eth0": 50,
        "veth1": 50,
        "dummy0": 50,
    }
    assert interfaces(tmp_path / "nowhere").read() == {}


def test_the_fullest_link_counts_in_its_busier_direction() -> None:
    """A tenth of a slow one is more than a hundredth of a fast one; what is new was not measured."""
    before = {"fast": Counted(received=0, sent=0, mbit=1000), "slow": Counted(received=0, sent=0, mbit=10)}
    after = {
        "fast": Counted(received=1_250_000, sent=0, mbit=1000),
        "slow": Counted(received=10_000, sent=125_000, mbit=10),
        "new": Counted(received=10**9, sent=0, mbit=10),
    }
    use = fullest(before, after, 1.0)
    assert use is not None
    assert (use.mbit, use.bytes_per_s, use.percent) == (10, 125_000, 10.0)
    assert fullest({}, after, 1.0) is None


def test_a_measurement_stands_until_the_next_is_complete(tmp_path: Path) -> None:
    """Drivers count in lumps: over less than two seconds it isn't measured."""
    meter = LinkMeter(interfaces(tmp_path, 8), over_s=2.0)
    percents: list[float | None] = []
    for second, sent in enumerate([0, 500_000, 1_000_000, 1_000_000, 3_000_000]):
        dev(tmp_path, eth0=(0, sent))
        use = meter.look(float(second))
        percents.append(None if use is None else use.percent)
    assert percents == [None, None, 50.0, 50.0, 100.0]


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(1, 10**5), st.floats(0.1, 60))
def test_counters_that_began_anew_are_no_traffic(was: int, now: int, mbit: int, seconds: float) -> None:
    """Whatever the two readings are, a link is never busy by less than nothing."""
    pair = [{"e": Counted(received=count, sent=0, mbit=mbit)} for count in (was, now)]
    use = fullest(pair[0], pair[1], seconds)
    assert use is not None
    assert use.bytes_per_s == pytest.approx(max(now - was, 0) / seconds)
    assert use.percent * mbit * BYTES_PER_MBIT == pytest.approx(use.bytes_per_s * 100)


def play(*readings: tuple[float, Reading], thresholds: Thresholds = THRESHOLDS) -> Brake:
    """Follow readings at their times."""
    brake = Brake()
    for now, reading in readings:
        brake = follow(brake, reading, now, thresholds)
    return brake


def test_a_full_network_brakes_after_some_seconds_and_lets_go_when_it_is_well_below() -> None:
    """With the share and the speed in the reason; a network that isn't known, or a threshold of 0, is left out."""
    full, less, calm = (Reading(network_percent=percent, network_mbit=1000) for percent in (92, 70, 60))
    assert play((0.0, full), (2.9, full)).reason is None
    engaged = ((0.0, full), (3.0, full))
    assert play(*engaged).reason == "network 92 % of 1000 Mbit/s for 3 s"
    assert play(*engaged, (4.0, less), (60.0, less)).reason is not None
    assert play(*engaged, (4.0, calm), (8.9, calm)).reason is not None
    assert play(*engaged, (4.0, calm), (9.0, calm)) == Brake()
    assert play((0.0, Reading()), (9.0, Reading())).reason is None
    assert play(*engaged, thresholds=Thresholds(loop_lag_ms=50)).reason is None


class HastyClock(SystemClock):
    """Its seconds are over in a tenth."""

    def monotonic(self) -> float:
        """Return the seconds since some moment."""
        return super().monotonic() * 10


async def test_the_runner_brakes_on_what_its_interfaces_count(tmp_path: Path) -> None:
    """From the files of the kernel to the reason in the heartbeat; one whose threshold is 0 doesn't look."""
    links = interfaces(tmp_path, 100)
    sent = 0
    dev(tmp_path, eth0=(0, sent))
    clock = HastyClock()
    load, blind = (
        HostLoad(Thresholds(network_percent=percent), clock=clock, on_change=lambda: None, interfaces=links)
        for percent in (90, 0)
    )
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(each.run()) for each in (load, blind)]
        while load.brake is None:
            await asyncio.sleep(0.01)
            # Far more than 100 Mbit/s, whatever the clock.
            sent += 100_000_000
            dev(tmp_path, eth0=(0, sent))
        assert load.brake.startswith("network ")
        assert " % of 100 Mbit/s for " in load.brake
        assert blind.brake is None
        for each in running:
            each.cancel()


def test_this_host_can_be_read() -> None:
    """The real files are understood: every interface but the loopback, when a speed is said."""
    names = {path.name for path in Path("/sys/class/net").iterdir()} - {"lo"}
    assert Interfaces(1000).read().keys() <= names
