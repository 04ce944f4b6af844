"""The launcher for Nomad, on a stub that is as awkward as Nomad can be."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from greenroom.common.clock import SystemClock
from greenroom.common.settings import load
from greenroom.scheduler.launchers.base import LauncherUnavailable, LaunchRefused
from greenroom.scheduler.launchers.nomad import NomadLauncher, NomadTooOld
from greenroom.scheduler.launchers.settings import LauncherSettings, launcher_for, nomad_client
from tests.support.launcher_worlds import (
    NomadWorld,
    a_start,
    cold_job,
    eventually,
    runner_job,
    running,
    until_gone,
    until_running,
)
from tests.support.nomad_stub import NomadStub
from tests.support.nomad_stub_http import NomadServer, nomad_server


@pytest.fixture
async def server() -> AsyncGenerator[NomadServer]:
    """Yield a Nomad."""
    async with nomad_server(NomadStub()) as server:
        yield server


@pytest.fixture
async def world(server: NomadServer) -> NomadWorld:
    """Return it with the jobs of two pools."""
    world = NomadWorld(server.url)
    await world.make()
    return world


@pytest.fixture
async def launcher(world: NomadWorld) -> AsyncGenerator[NomadLauncher]:
    """Yield a launcher that doesn't follow events."""
    async with world.client() as client:
        yield world.launcher(client)


@pytest.fixture
async def following(launcher: NomadLauncher, server: NomadServer) -> AsyncGenerator[NomadLauncher]:
    """Yield a launcher that does."""
    async with running(launcher):
        await _until(lambda: server.streams == 1 and launcher._follower.current)
        yield launcher


# ---------------------------------------------------------------------------- dispatch


async def test_a_dispatch_says_all_that_the_job_needs_to_know(
    launcher: NomadLauncher, world: NomadWorld, server: NomadServer
) -> None:
    """Which session, under which lease, and how urgent; the launch id is the token and part of the child's name."""
    start = a_start(world.pool, priority=85)
    await launcher.cold_start(start)
    (job,) = server.stub.launched(start.launch_id)
    assert job.meta == {
        "tenant": "acme",
        "session_id": start.session_id,
        "lease_id": start.launch_id,
        "epoch": "1",
    }
    assert job.priority == 85
    assert job.id.startswith(f"runner-cold-{world.pool}/dispatch-{start.launch_id}-")


async def test_the_least_priority_isnt_the_jobs_own(
    launcher: NomadLauncher, world: NomadWorld, server: NomadServer
) -> None:
    """To Nomad 0 means that nothing was said."""
    await launcher.cold_start(start := a_start(world.pool, priority=0))
    assert server.stub.launched(start.launch_id)[0].priority == 1


async def test_a_launch_that_is_over_isnt_repeated_and_isnt_shown(
    following: NomadLauncher, world: NomadWorld, server: NomadServer
) -> None:
    """Nomad answers a repetition with the old child and no evaluation."""
    await following.cold_start(start := a_start(world.pool))
    (instance,) = await until_running(following, world.pool, 1)
    server.stub.finish(server.stub.allocations[instance.id])
    await until_gone(following, world.pool, instance.id)
    await following.cold_start(start)
    assert await following.instances(world.pool) == []
    assert len(server.stub.launched(start.launch_id)) == 1


async def test_a_reply_dropped_by_nomad_is_no_second_allocation(
    following: NomadLauncher, world: NomadWorld, server: NomadServer
) -> None:
    """The caller learns that it isn't known what was done, and asks again."""
    start = a_start(world.pool)
    server.drop_replies = 1
    with pytest.raises(LauncherUnavailable):
        await following.cold_start(start)
    await following.cold_start(start)
    await until_running(following, world.pool, 1)
    assert len(server.stub.launched(start.launch_id)) == 1
    assert sum(method == "POST" for method, path, _ in server.seen if path.endswith("/dispatch")) == 2


async def test_pending_is_what_has_no_allocation_or_one_that_doesnt_run_yet(
    following: NomadLauncher, world: NomadWorld, server: NomadServer
) -> None:
    """And stopping what was told to end and hasn't."""
    server.stub.auto_run = server.stub.auto_end = False
    await following.cold_start(start := a_start(world.pool))
    (instance,) = await eventually(
        lambda: following.instances(world.pool), lambda all_: [i.id for i in all_] == list(server.stub.allocations)
    )
    assert (instance.state, instance.launch_id) == ("pending", start.launch_id)
    server.stub.run(server.stub.allocations[instance.id])
    await until_running(following, world.pool, 1)
    await following.cancel(start.launch_id)
    await eventually(lambda: following.instances(world.pool), lambda all_: [i.state for i in all_] == ["stopping"])
    server.stub.finish(server.stub.allocations[instance.id])
    await until_gone(following, world.pool, instance.id)


async def test_a_failed_allocation_is_gone(following: NomadLauncher, world: NomadWorld, server: NomadServer) -> None:
    """A cold start isn't tried again by Nomad; that is the scheduler's to decide."""
    await following.cold_start(a_start(world.pool))
    (instance,) = await until_running(following, world.pool, 1)
    server.stub.finish(server.stub.allocations[instance.id], failed=True)
    assert await until_gone(following, world.pool, instance.id) == []


# ---------------------------------------------------------------------------- room


async def test_no_room_is_said_with_its_reason_until_there_is_some(
    following: NomadLauncher, world: NomadWorld, server: NomadServer
) -> None:
    """The launches wait at Nomad, shown as pending; the other pool isn't concerned."""
    server.stub.set_capacity(1)
    for _ in range(3):
        await following.cold_start(a_start(world.pool))
    await _until(lambda: following.held_back(world.pool) == "no capacity: memory exhausted on 3 nodes (2 wait)")
    assert following.held_back(world.other) is None
    states = [instance.state for instance in await following.instances(world.pool)]
    assert sorted(states) == ["pending", "pending", "running"]
    server.stub.set_capacity(3)
    await _until(lambda: following.held_back(world.pool) is None)
    await until_running(following, world.pool, 3)


async def test_no_room_is_known_with_the_dispatch(
    launcher: NomadLauncher, world: NomadWorld, server: NomadServer
) -> None:
    """The dispatch's own evaluation is looked at: nobody has to wait for events, which may be late or away."""
    server.stub.set_capacity(1)
    await launcher.cold_start(a_start(world.pool))
    assert launcher.held_back(world.pool) is None
    await launcher.cold_start(a_start(world.pool))
    assert launcher.held_back(world.pool) == "no capacity: memory exhausted on 3 nodes"


async def test_a_new_leader_finds_out_what_has_no_room(world: NomadWorld, server: NomadServer) -> None:
    """From the evaluations that are blocked; nobody needs to have seen the event."""
    server.stub.set_capacity(0)
    async with world.scheduler() as launcher:
        await launcher.cold_start(a_start(world.pool))
    server.stub.forget_events()
    async with world.scheduler() as launcher:
        await _until(lambda: launcher.held_back(world.pool) == "no capacity: memory exhausted on 3 nodes")


async def test_a_cancelled_launch_waits_for_no_room(
    following: NomadLauncher, world: NomadWorld, server: NomadServer
) -> None:
    """With its job its evaluation goes too."""
    server.stub.set_capacity(0)
    await following.cold_start(start := a_start(world.pool))
    await _until(lambda: following.held_back(world.pool) is not None)
    await following.cancel(start.launch_id)
    await _until(lambda: following.held_back(world.pool) is None)
    assert await following.instances(world.pool) == []


# ---------------------------------------------------------------------------- the group


async def test_a_group_isnt_scaled_while_a_deployment_is_active(
    launcher: NomadLauncher, world: NomadWorld, server: NomadServer
) -> None:
    """Nomad would answer 400; it is asked again when the deployment is through."""
    job = world.names.runner_job(world.pool)
    server.stub.register(runner_job(job, updates=True))
    await launcher.set_count(world.pool, 1)
    await asyncio.sleep(0.02)
    with pytest.raises(LaunchRefused, match="deployment of it is running") as refusal:
        await launcher.set_count(world.pool, 2)
    assert not refusal.value.permanent
    assert (refusal.value.retry_after_s or 0) > 0
    await launcher.set_count(world.pool, 1)
    server.stub.deploy(job, "successful")
    await asyncio.sleep(0.02)
    await launcher.set_count(world.pool, 2)
    await until_running(launcher, world.pool, 2)


async def test_a_deployment_that_begins_in_between_is_waited_for_too(
    launcher: NomadLauncher, world: NomadWorld, server: NomadServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nomad's own refusal says the same."""

    async def none(_job: str) -> None:
        return None

    monkeypatch.setattr(launcher._client, "deployment", none)
    server.stub.deploy(world.names.runner_job(world.pool))
    with pytest.raises(LaunchRefused, match="job scaling blocked due to active deployment") as refusal:
        await launcher.set_count(world.pool, 1)
    assert not refusal.value.permanent


async def test_a_group_isnt_scaled_in_quick_succession(world: NomadWorld) -> None:
    """Not even where no deployment follows; the same size again is no change and may be said any time."""
    async with world.client() as client:
        launcher = world.launcher(client, scale_cooldown_s=30.0)
        await launcher.set_count(world.pool, 2)
        await launcher.set_count(world.pool, 2)
        with pytest.raises(LaunchRefused, match="a moment ago") as refusal:
            await launcher.set_count(world.pool, 3)
        assert not refusal.value.permanent
        assert 25 < (refusal.value.retry_after_s or 0) <= 30


async def test_the_bounds_of_the_job_hold(launcher: NomadLauncher, world: NomadWorld) -> None:
    """To ask again can't help: somebody has to change the job or the policy."""
    with pytest.raises(LaunchRefused, match="scaling policy maximum: 11 > 10") as refusal:
        await launcher.set_count(world.pool, 11)
    assert refusal.value.permanent
    assert refusal.value.retry_after_s is None


async def test_only_the_last_of_a_group_is_retired(launcher: NomadLauncher, world: NomadWorld) -> None:
    """Nomad would end the last whichever was meant, and that one may have calls."""
    await launcher.set_count(world.pool, 2)
    first, last = sorted(await until_running(launcher, world.pool, 2), key=lambda each: each.ordinal or 0)
    with pytest.raises(LaunchRefused, match="shrinks from its last"):
        await launcher.retire(first)
    await asyncio.sleep(0.02)
    await launcher.retire(last)
    assert [each.id for each in await until_running(launcher, world.pool, 1)] == [first.id]


async def test_a_retirement_whose_answer_was_lost_takes_one_instance(
    launcher: NomadLauncher, world: NomadWorld, server: NomadServer
) -> None:
    """Also while the one that goes is still there."""
    server.stub.auto_end = False
    await launcher.set_count(world.pool, 3)
    instances = sorted(await until_running(launcher, world.pool, 3), key=lambda each: each.ordinal or 0)
    server.drop_replies = 1
    await asyncio.sleep(0.02)
    with pytest.raises(LauncherUnavailable):
        await launcher.retire(instances[2])
    await launcher.retire(instances[2])
    assert server.stub.jobs[world.names.runner_job(world.pool)].count == 2
    states = {each.ordinal: each.state for each in await launcher.instances(world.pool)}
    assert states == {0: "running", 1: "running", 2: "stopping"}


async def test_what_goes_already_isnt_scaled_for_again(
    launcher: NomadLauncher, world: NomadWorld, server: NomadServer
) -> None:
    """Be it that Nomad hasn't decided yet, or that the place has a new instance by now."""
    job = server.stub.jobs[world.names.runner_job(world.pool)]
    await launcher.set_count(world.pool, 2)
    last = max(await until_running(launcher, world.pool, 2), key=lambda each: each.ordinal or 0)
    job.count = 1
    await asyncio.sleep(0.02)
    await launcher.retire(last)
    job.count = 2
    server.stub.finish(server.stub.allocations[last.id])
    assert len(await until_running(launcher, world.pool, 2)) == 2
    await launcher.retire(last)
    assert (job.count, job.version) == (2, 1)


async def test_an_instance_of_a_group_that_dies_is_replaced_by_nomad(
    following: NomadLauncher, world: NomadWorld, server: NomadServer
) -> None:
    """In the same place, as another instance."""
    await following.set_count(world.pool, 1)
    (before,) = await until_running(following, world.pool, 1)
    server.stub.finish(server.stub.allocations[before.id], failed=True)
    await until_gone(following, world.pool, before.id)
    (after,) = await until_running(following, world.pool, 1)
    assert (after.ordinal, after.id != before.id) == (0, True)


# ---------------------------------------------------------------------------- refusals and outages


async def test_jobs_that_arent_there_or_dont_fit_are_refused_for_good(
    launcher: NomadLauncher, world: NomadWorld, server: NomadServer
) -> None:
    """And the pool says why, until a launch succeeds."""
    with pytest.raises(LaunchRefused, match="parameterized job not found") as refusal:
        await launcher.cold_start(a_start("nowhere"))
    assert refusal.value.permanent
    job = cold_job(world.names.cold_job(world.pool))
    job["Job"]["ParameterizedJob"]["MetaRequired"] = ["session_id", "carrier"]
    server.stub.register(job)
    with pytest.raises(LaunchRefused, match="unpermitted metadata keys"):
        await launcher.cold_start(a_start(world.pool))
    assert "unpermitted metadata keys" in (launcher.held_back(world.pool) or "")
    server.stub.register(cold_job(world.names.cold_job(world.pool)))
    await launcher.cold_start(a_start(world.pool))
    assert launcher.held_back(world.pool) is None


async def test_a_cluster_without_a_leader_is_unavailable_not_refusing(
    launcher: NomadLauncher, world: NomadWorld, server: NomadServer
) -> None:
    """It is a 500 like all the others; only the text tells."""
    server.refuse = (500, "rpc error: No cluster leader")
    with pytest.raises(LauncherUnavailable):
        await launcher.cold_start(a_start(world.pool))
    server.refuse = (500, "something that nobody has seen before")
    with pytest.raises(LaunchRefused, match="nobody has seen before") as refusal:
        await launcher.cold_start(a_start(world.pool))
    assert (refusal.value.permanent, refusal.value.retry_after_s) == (False, 60.0)


async def test_nothing_is_asked_twice_by_itself(
    launcher: NomadLauncher, world: NomadWorld, server: NomadServer
) -> None:
    """Whatever Nomad answers: who asked decides."""
    await launcher.cold_start(a_start(world.pool))
    for refuse in ((500, "No cluster leader"), (500, "what?"), (403, "Permission denied")):
        server.refuse = refuse
        server.seen.clear()
        with pytest.raises((LaunchRefused, LauncherUnavailable)):
            await launcher.set_count(world.pool, 2)
        assert len(server.seen) == 1


async def test_a_token_that_lacks_a_capability_is_refused_for_good(world: NomadWorld, server: NomadServer) -> None:
    """403, `Permission denied`; without the right to ask for the version the one it was told counts."""
    server.tokens, server.denied = {"secret"}, {"dispatch-job", "agent:read"}
    world.token = "secret"
    async with world.client() as client:
        launcher = world.launcher(client, version="1.11.3")
        with pytest.raises(LaunchRefused, match="Permission denied") as refusal:
            await launcher.cold_start(a_start(world.pool))
        assert refusal.value.permanent
        assert await launcher.instances(world.pool) == []


@pytest.mark.parametrize(("version", "fits"), [("1.11.1", False), ("1.9.0", False), ("1.11.2", True), ("2.0.5", True)])
async def test_a_nomad_that_is_too_old_isnt_used(
    launcher: NomadLauncher, world: NomadWorld, server: NomadServer, version: str, *, fits: bool
) -> None:
    """Before 1.11.2 one token could be two allocations."""
    server.stub.version = version
    start = a_start(world.pool)
    if fits:
        await launcher.cold_start(start)
        return
    with pytest.raises(NomadTooOld, match=rf"Nomad is {version}, and 1\.11\.2 is needed") as refusal:
        await launcher.cold_start(start)
    assert refusal.value.permanent
    assert "is needed" in (launcher.held_back(world.pool) or "")
    assert not server.stub.launched(start.launch_id)


async def test_an_outage_is_said_and_survived(following: NomadLauncher, world: NomadWorld, server: NomadServer) -> None:
    """What changed meanwhile is found by listing, not by events: those are lost."""
    await following.cold_start(a_start(world.pool))
    (before,) = await until_running(following, world.pool, 1)
    await server.stop()
    await _until(lambda: following.held_back(world.pool) is not None)
    with pytest.raises(LauncherUnavailable):
        await following.instances(world.pool)
    server.stub.finish(server.stub.allocations[before.id])
    server.stub.forget_events()
    await server.start()
    assert await eventually(lambda: _instances(following, world.pool), lambda all_: all_ == []) == []
    await _until(lambda: following.held_back(world.pool) is None)


async def test_a_broken_stream_is_taken_up_again_by_listing(
    following: NomadLauncher, world: NomadWorld, server: NomadServer
) -> None:
    """Even where Nomad's buffer doesn't reach back to where it broke: the loss of an index can't be seen."""
    await following.set_count(world.pool, 2)
    instances = await until_running(following, world.pool, 2)
    server.break_streams()
    server.stub.scale(world.names.runner_job(world.pool), {"Count": 1, "Target": {"Group": "runner"}})
    server.stub.forget_events()
    await until_gone(following, world.pool, max(instances, key=lambda each: each.ordinal or 0).id)
    await _until(lambda: server.streams == 1)


async def test_old_events_dont_bring_back_what_is_gone(world: NomadWorld, server: NomadServer) -> None:
    """A subscription begins with the oldest event that Nomad still has."""
    async with world.scheduler() as launcher:
        await launcher.cold_start(a_start(world.pool))
        (instance,) = await until_running(launcher, world.pool, 1)
    server.stub.finish(server.stub.allocations[instance.id])
    server.stub.collect_garbage()
    server.stub.events.pop()
    async with world.scheduler() as launcher:
        await _until(lambda: server.streams == 1)
        for _ in range(20):
            assert await launcher.instances(world.pool) == []
            await asyncio.sleep(0.01)


async def test_a_stream_that_says_nothing_is_given_up(
    world: NomadWorld, server: NomadServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`{}` comes every 30 s; after 45 s without it the connection is dead, whatever TCP thinks."""
    monkeypatch.setattr("greenroom.scheduler.launchers.nomad_client.STREAM_SILENCE_S", 0.2)
    server.heartbeat_s = 60.0
    async with world.client() as client:
        launcher = world.launcher(client)
        async with running(launcher):
            await _until(lambda: launcher.held_back(world.pool) == "Nomad's event stream broke: ReadTimeout")
    server.heartbeat_s = 0.05
    async with world.client() as client:
        launcher = world.launcher(client)
        async with running(launcher):
            await _until(lambda: launcher._follower.current)
            await asyncio.sleep(0.5)
            assert launcher.held_back(world.pool) is None


async def test_a_slow_nomad_is_waited_for_only_so_long(
    launcher: NomadLauncher, world: NomadWorld, server: NomadServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scheduler goes on without it."""
    monkeypatch.setattr("greenroom.scheduler.launchers.nomad_client.CALL_TIMEOUT_S", 0.1)
    server.latency_s = 0.5
    with pytest.raises(LauncherUnavailable, match="doesn't answer"):
        await launcher.instances(world.pool)


# ---------------------------------------------------------------------------- how Nomad is reached


async def test_the_task_api_is_used_with_the_workload_identity(server: NomadServer, tmp_path: Path) -> None:
    """On its socket each request bears the token that the file has now, ACLs or not."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    stub = NomadStub(namespace="voice")
    async with nomad_server(stub, socket=secrets / "api.sock") as task_api:
        settings = _settings(NOMAD_SECRETS_DIR=str(secrets), NOMAD_NAMESPACE="voice")
        async with launcher_for(settings, SystemClock()) as launcher:
            with pytest.raises(LaunchRefused, match="no token was sent"):
                await launcher.instances("default")
            for token in ("first", "renewed"):
                (secrets / "nomad_token").write_text(token + "\n")
                await launcher.instances("default")
                assert {bearer for _, _, bearer in task_api.seen[-3:]} == {token}
        assert server.seen == []


async def test_an_address_and_a_token_come_before_the_task_api(world: NomadWorld, server: NomadServer) -> None:
    """As they are named by Nomad's own tools."""
    server.tokens = {"secret"}
    settings = _settings(NOMAD_ADDR=server.url, NOMAD_TOKEN="secret", NOMAD_SECRETS_DIR="/nonexistent")
    async with launcher_for(settings, SystemClock()) as launcher:
        await launcher.set_count(world.pool, 1)
        await until_running(launcher, world.pool, 1)
    async with nomad_client(settings) as client:
        assert await client.version() == "2.0.5"


async def test_a_pool_without_a_job_of_its_name_is_refused(server: NomadServer) -> None:
    """A job whose name has no placeholder serves the pool `default`."""
    server.stub.register(cold_job("overflow"))
    settings = _settings(NOMAD_ADDR=server.url, GREENROOM_NOMAD_COLD_JOB="overflow")
    async with launcher_for(settings, SystemClock()) as launcher:
        await launcher.cold_start(a_start("default"))
        assert len(await launcher.instances("default")) == 1
        with pytest.raises(LaunchRefused, match="serves the pool default only"):
            await launcher.cold_start(a_start("gpu"))


def _settings(**env: str) -> LauncherSettings:
    return load(LauncherSettings, {"GREENROOM_LAUNCHER": "nomad", **env})


async def _instances(launcher: NomadLauncher, pool: str) -> Any:
    try:
        return await launcher.instances(pool)
    except LauncherUnavailable as error:
        return error


async def _until(holds: Any) -> None:
    async def look() -> bool:
        return holds()

    await eventually(look, bool)
