"""The contract of a launcher: on processes of this host, on a Nomad stub, and on a real Nomad where NOMAD_ADDR is set.

What is built on one launcher is thereby known to work on the others.
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from greenroom.scheduler.launchers.base import Instance, LaunchRefused
from tests.support.launcher_worlds import (
    NomadWorld,
    ProcessWorld,
    World,
    a_start,
    until_gone,
    until_running,
)
from tests.support.nomad_stub import NomadStub
from tests.support.nomad_stub_http import nomad_server

_WORLDS = ["process", "nomad-stub", *(["nomad"] if os.environ.get("NOMAD_ADDR") else [])]


@pytest.fixture(params=_WORLDS)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[World]:
    """Yield each place in turn."""
    if request.param == "process":
        world = ProcessWorld(tmp_path / "runners")
        yield world
        await world.clean()
    elif request.param == "nomad-stub":
        async with nomad_server(NomadStub()) as server:
            world = NomadWorld(server.url)
            await world.make()
            yield world
    else:
        world = NomadWorld(os.environ["NOMAD_ADDR"], os.environ.get("NOMAD_TOKEN", ""))
        await world.make()
        yield world
        await world.clean()


# ---------------------------------------------------------------------------- cold starts


async def test_a_cold_start_brings_one_instance_that_bears_its_launch_id(world: World) -> None:
    """It is in its pool, of no group, and no other pool knows it."""
    start = a_start(world.pool)
    async with world.scheduler() as launcher:
        await launcher.cold_start(start)
        (instance,) = await until_running(launcher, world.pool, 1)
        assert (instance.pool, instance.launch_id, instance.ordinal) == (world.pool, start.launch_id, None)
        assert await launcher.instances(world.other) == []
        assert launcher.held_back(world.pool) is None


async def test_it_is_there_as_soon_as_it_is_asked_for(world: World) -> None:
    """Whoever counts right after asking doesn't ask for another."""
    async with world.scheduler() as launcher:
        await launcher.cold_start(a_start(world.pool))
        assert len(await launcher.instances(world.pool)) == 1


async def test_a_cold_start_that_is_asked_for_twice_happens_once(world: World) -> None:
    """By one scheduler, and by two at the same time."""
    start = a_start(world.pool)
    async with world.scheduler() as first, world.scheduler() as second:
        await asyncio.gather(first.cold_start(start), second.cold_start(start))
        await first.cold_start(start)
        await until_running(second, world.pool, 1)
        await until_running(first, world.pool, 1)


async def test_the_next_epoch_of_a_session_is_another_launch(world: World) -> None:
    """Its runner is another one, and the first is left alone."""
    start = a_start(world.pool)
    async with world.scheduler() as launcher:
        await launcher.cold_start(start)
        await launcher.cold_start(again := a_start(world.pool, session_id=start.session_id, epoch=2))
        instances = await until_running(launcher, world.pool, 2)
        assert {instance.launch_id for instance in instances} == {start.launch_id, again.launch_id}


async def test_a_lost_answer_makes_no_second_instance(world: World) -> None:
    """The same scheduler or the next one asks again, and finds what the first question started."""
    start = a_start(world.pool)
    await world.interrupted_cold_start(start)
    async with world.scheduler() as launcher:
        await launcher.cold_start(start)
        await launcher.cold_start(start)
        (instance,) = await until_running(launcher, world.pool, 1)
        assert instance.launch_id == start.launch_id


async def test_a_leader_lost_in_the_middle_of_a_launch_leaves_no_orphan(world: World) -> None:
    """The next leader may take the launch back without ever having asked for it, whether or not it was carried out."""
    start = a_start(world.pool)
    await world.interrupted_cold_start(start)
    async with world.scheduler() as launcher:
        await launcher.cancel(start.launch_id)
        await until_running(launcher, world.pool, 0)
        await asyncio.sleep(0.1)
        assert await launcher.instances(world.pool) == []


async def test_a_cancelled_launch_is_ended_and_stays_so(world: World) -> None:
    """Others go on; and a late repetition of the question starts nothing."""
    start, other = a_start(world.pool), a_start(world.pool)
    async with world.scheduler() as launcher:
        await launcher.cold_start(start)
        await launcher.cold_start(other)
        await until_running(launcher, world.pool, 2)
        await launcher.cancel(start.launch_id)
        (left,) = await until_running(launcher, world.pool, 1)
        assert left.launch_id == other.launch_id
        await launcher.cancel(start.launch_id)
        await launcher.cold_start(start)
        assert [each.id for each in await launcher.instances(world.pool)] == [left.id]


async def test_cancelling_what_isnt_there_does_nothing(world: World) -> None:
    """It is best effort: the lease is gone anyway."""
    async with world.scheduler() as launcher:
        await launcher.cancel("0190c0de-1")
        assert await launcher.instances(world.pool) == []


# ---------------------------------------------------------------------------- the baseline group


async def test_a_group_has_as_many_instances_as_it_was_told(world: World) -> None:
    """Numbered from 0; to say it again changes nothing, and other pools are left alone."""
    async with world.scheduler() as launcher:
        await launcher.set_count(world.pool, 2)
        before = await until_running(launcher, world.pool, 2)
        assert sorted(instance.ordinal or 0 for instance in before) == [0, 1]
        assert {instance.launch_id for instance in before} == {None}
        await launcher.set_count(world.pool, 2)
        assert _ids(await until_running(launcher, world.pool, 2)) == _ids(before)
        assert await launcher.instances(world.other) == []


async def test_two_schedulers_that_size_a_group_at_once_make_it_no_larger(world: World) -> None:
    """For a moment two may believe that they lead."""
    async with world.scheduler() as first, world.scheduler() as second:
        await asyncio.gather(first.set_count(world.pool, 2), second.set_count(world.pool, 2))
        await until_running(first, world.pool, 2)
        await asyncio.sleep(0.7)
        assert len(await second.instances(world.pool)) == 2


async def test_a_group_grows_and_shrinks_by_what_differs(world: World) -> None:
    """It shrinks from the highest number; cold starts aren't of it and aren't touched."""
    start = a_start(world.pool)
    async with world.scheduler() as launcher:
        await launcher.set_count(world.pool, 1)
        (first,) = await until_running(launcher, world.pool, 1)
        await launcher.cold_start(start)
        await asyncio.sleep(0.02)
        await launcher.set_count(world.pool, 3)
        await until_running(launcher, world.pool, 4)
        await asyncio.sleep(0.02)
        await launcher.set_count(world.pool, 1)
        left = await until_running(launcher, world.pool, 2)
        assert {(each.id, each.launch_id) for each in left if each.ordinal == 0} == {(first.id, None)}
        assert {each.launch_id for each in left} == {None, start.launch_id}


async def test_a_retired_instance_goes_and_isnt_replaced(world: World) -> None:
    """The group is smaller by that one; to retire it again, after a lost answer, takes no other."""
    async with world.scheduler() as launcher:
        await launcher.set_count(world.pool, 3)
        instances = sorted(await until_running(launcher, world.pool, 3), key=lambda each: each.ordinal or 0)
        going = instances[-1] if launcher.retires == "last" else instances[0]
        await asyncio.sleep(0.02)
        await launcher.retire(going)
        await launcher.retire(going)
        left = await until_gone(launcher, world.pool, going.id)
        assert _ids(left) == _ids(instances) - {going.id}
        await asyncio.sleep(0.7)
        assert _ids(await launcher.instances(world.pool)) == _ids(left)


async def test_a_cold_start_isnt_retired(world: World) -> None:
    """It is of no group that could become smaller by it."""
    async with world.scheduler() as launcher:
        await launcher.cold_start(a_start(world.pool))
        (instance,) = await until_running(launcher, world.pool, 1)
        with pytest.raises(LaunchRefused, match="of no group"):
            await launcher.retire(instance)


# ---------------------------------------------------------------------------- schedulers come and go


async def test_the_next_scheduler_finds_everything_again(world: World) -> None:
    """Nothing ends with the scheduler that started it, and nothing is kept in its memory only."""
    async with world.scheduler() as launcher:
        await launcher.set_count(world.pool, 2)
        await launcher.cold_start(a_start(world.pool))
        before = await until_running(launcher, world.pool, 3)
    async with world.scheduler() as launcher:
        after = await until_running(launcher, world.pool, 3)
        assert {(i.id, i.launch_id, i.ordinal) for i in after} == {(i.id, i.launch_id, i.ordinal) for i in before}
        await asyncio.sleep(0.7)
        assert _ids(await launcher.instances(world.pool)) == _ids(before)


async def test_what_one_scheduler_started_another_ends(world: World) -> None:
    """Cold starts and instances of the group alike."""
    start = a_start(world.pool)
    async with world.scheduler() as launcher:
        await launcher.set_count(world.pool, 1)
        await launcher.cold_start(start)
        await until_running(launcher, world.pool, 2)
    async with world.scheduler() as launcher:
        await launcher.cancel(start.launch_id)
        (instance,) = await until_running(launcher, world.pool, 1)
        await launcher.retire(instance)
        assert await until_gone(launcher, world.pool, instance.id) == []


async def test_a_scheduler_that_doesnt_follow_sees_the_same(world: World) -> None:
    """Also before its launcher runs, and while it can't follow, the answers are those of the moment."""
    async with world.scheduler() as following:
        await following.set_count(world.pool, 1)
        await until_running(following, world.pool, 1)
        await following.cold_start(a_start(world.pool))
        seen = await until_running(following, world.pool, 2)
        async with world.bystander() as launcher:
            assert _ids(await launcher.instances(world.pool)) == _ids(seen)
            await launcher.cold_start(a_start(world.pool))
            assert len(await launcher.instances(world.pool)) == 3
            await until_running(following, world.pool, 3)


def _ids(instances: object) -> set[str]:
    assert isinstance(instances, list)
    return {instance.id for instance in instances if isinstance(instance, Instance)}
