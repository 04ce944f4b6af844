"""What a runner tells of its host, and how many sessions it takes by that."""

import pytest

from greenroom.common.messages import StartRefused
from greenroom.runner import density, guard, sizing
from greenroom.runner.discovery import BotSpec
from greenroom.runner.host import Host
from greenroom.runner.settings import default_slots
from greenroom.runner.sizing import MOST_SLOTS
from tests.support.runner_rig import running_runner, until


async def test_heartbeats_tell_what_the_launcher_and_the_scheduler_need(nats_url: str) -> None:
    """Labels, the launcher's name for the runner, its number in the group, and the version of each bot are told."""
    labels, version = ("gpu=l4", "region=eu"), ("3", "missing=4")
    async with running_runner(
        nats_url, standby=0, labels=labels, instance="alloc-17", ordinal=2, bot_version=version
    ) as rig:
        assert (rig.now.labels, rig.now.instance, rig.now.ordinal) == ({"gpu": "l4", "region": "eu"}, "alloc-17", 2)
        assert {offer.name: offer.version for offer in rig.now.bots} == {"plain": 3, "missing": 4}
        assert (rig.now.claim, rig.now.brake) == (None, None)


async def test_a_braking_runner_says_so_and_takes_what_is_placed_all_the_same(nats_url: str) -> None:
    """The brake is for the scheduler; a start that is under way is taken unless memory is all but gone."""
    async with running_runner(nats_url, standby=0, brake_memory_percent=100, refuse_memory_percent=0) as rig:
        await until(lambda: rig.now.brake is not None)
        assert str(rig.now.brake).endswith("% memory available")
        await rig.ended(await rig.start(finish_after_s=0))
    async with running_runner(nats_url, standby=0, refuse_memory_percent=100) as rig:
        refused = await rig.send_start(await rig.lease())
        assert isinstance(refused, StartRefused)
        assert refused.code == "overloaded"
        assert refused.detail.endswith("% memory available")


async def test_slots_follow_what_sessions_cost(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner that wasn't told a number offers its default until its calls were measured, then what fits beside."""
    monkeypatch.setattr(guard, "LOOK_S", 0.02)
    monkeypatch.setattr(sizing, "_YOUNG_S", 0.2)
    monkeypatch.setattr(sizing, "_LEAST_S", 0.1)
    monkeypatch.setattr(density, "ENOUGH", 3)
    async with running_runner(nats_url, slots="auto", standby=1) as rig:
        assert (rig.now.slots, rig.now.density) == (default_slots(), ())
        session_id = await rig.start(connect=True)
        await until(lambda: rig.now.density)
        told = rig.now
        [cost] = told.density
        assert (cost.bot, cost.seen >= 3, cost.memory > 2**20) == ("plain", True, True)
        assert [held.session_id for held in told.sessions] == [session_id]
        assert told.slots == min(1 + cost.more, MOST_SLOTS)


CLASSED = (
    BotSpec(name="seer", target="tests.support.heavy_bots:seer"),
    BotSpec(name="talker", target="tests.support.light_bots:talker"),
)


@pytest.fixture
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host of two idle processors, of which 1.5 are for sessions, that doesn't show what its sessions take."""
    monkeypatch.setattr(Host, "processor_use", lambda _: (2.0, 0.0))
    monkeypatch.setattr(Host, "memory_room", lambda _: (6 * 2**30, 8 * 2**30))
    monkeypatch.setattr(sizing, "_BUSY_OVER_S", 3600.0)


@pytest.mark.usefixtures("two_processors")
async def test_of_a_heavy_bot_as_many_are_taken_as_its_class_fits(nats_url: str) -> None:
    """Seven of a fifth of a processor leave room for a light one and for none of theirs, nor of a bot nobody knows."""
    async with running_runner(nats_url, slots="auto", standby=1, more_bots=CLASSED) as rig:
        assert {offer.name: offer.resources for offer in rig.now.bots} == {
            "missing": "",
            "plain": "",
            "seer": "multimodal",
            "talker": "voice",
        }
        seer, talker = rig.now.density
        assert (seer.bot, seer.cores, seer.memory, seer.seen, seer.more) == ("seer", 0.2, 200_000_000, 0, 7)
        assert (talker.bot, talker.seen, talker.more) == ("talker", 0, 24)
        assert (rig.now.by_cost, rig.now.slots) == (True, 24)
        for _ in range(7):
            await rig.start(bot="seer")
        await until(lambda: len(rig.now.sessions) == 7)
        assert [each.more for each in rig.now.density] == [0, 1]
        for bot in ("seer", "plain"):
            refused = await rig.send_start(await rig.lease(bot=bot))
            assert isinstance(refused, StartRefused)
            assert (refused.code, refused.detail) == ("no-slot", "7 of 7 are taken")
        await rig.start(bot="talker")


@pytest.mark.usefixtures("two_processors")
async def test_a_number_of_slots_is_kept_to_whatever_sessions_cost(nats_url: str) -> None:
    """Of a bot of which three would fit five are taken, and no heartbeat asks the scheduler to stop before."""
    async with running_runner(nats_url, slots=5, standby=1, more_bots=CLASSED) as rig:
        for _ in range(5):
            await rig.start(bot="seer")
        await until(lambda: len(rig.now.sessions) == 5)
        assert rig.now.slots == 5
        assert not any(each.by_cost for each in rig.heartbeats)
