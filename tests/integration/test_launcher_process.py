"""The launcher for processes of this host: what it starts, what it survives, what it ends."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path

import msgspec
import psutil
import pytest

from greenroom.common.clock import SystemClock, utcnow
from greenroom.common.settings import load
from greenroom.scheduler.launchers.base import Instance, LauncherUnavailable
from greenroom.scheduler.launchers.none import NoLauncher
from greenroom.scheduler.launchers.process import ProcessLauncher, stop_all
from greenroom.scheduler.launchers.process_birth import boot_id, start_ticks
from greenroom.scheduler.launchers.process_children import Children, ask_to_end, kill
from greenroom.scheduler.launchers.process_state import LOGS_KEPT, Record, StateFolder
from greenroom.scheduler.launchers.settings import LauncherSettings, launcher_for
from tests.support.launcher_worlds import (
    STAND_IN,
    ProcessWorld,
    a_start,
    eventually,
    running,
    until_gone,
    until_running,
)
from tests.support.processes import assert_gone

_PYTHON = (sys.executable, "-I", "-S", "-c")
# Ignores being asked, and has a child that does too.
_STUBBORN = (
    *_PYTHON,
    "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.fork()\nwhile True: time.sleep(1)",
)
# A scheduler that is killed: it starts a group and says so.
_SCHEDULER = """
import asyncio, sys
from pathlib import Path
from tests.support.launcher_worlds import ProcessWorld, a_start, until_running
async def main():
    world = ProcessWorld(Path(sys.argv[1]))
    async with world.scheduler() as launcher:
        await launcher.set_count("blue", 2)
        await launcher.cold_start(a_start("blue", session_id="s1"))
        await until_running(launcher, "blue", 3)
        print("ready", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[ProcessWorld]:
    """Yield a place for processes, and end what is there at the end."""
    world = ProcessWorld(tmp_path / "runners")
    yield world
    await world.clean()


@pytest.fixture
def folder(world: ProcessWorld) -> StateFolder:
    """Return its state."""
    state = StateFolder(world.folder)
    state.make()
    return state


# ---------------------------------------------------------------------------- starting


async def test_a_runner_is_told_who_it_is_and_nothing_of_the_schedulers_own(world: ProcessWorld) -> None:
    """It shares the settings of the installation; its health port is any free one."""
    dump = (*_PYTHON, "import os, json, signal; print(json.dumps(dict(os.environ)), flush=True); signal.pause()")
    env = {
        "PATH": os.environ["PATH"],
        "NATS_URL": "nats://n:4222",
        "GREENROOM_BOTS": "b=m:f",
        "GREENROOM_INSTANCE_ID": "scheduler-1",
        "GREENROOM_HEALTH_PORT": "9000",
        "GREENROOM_SCHEDULER_POOL": "x",
        "GREENROOM_LAUNCHER_FOLDER": "y",
        "NOMAD_TOKEN": "secret",
    }
    launcher = ProcessLauncher(world.folder, clock=SystemClock(), env=env, command=lambda: dump)
    start = a_start("blue", session_id="s1", epoch=3)
    await launcher.cold_start(start)
    await launcher.set_count("blue", 1)
    cold, group = await _env(world, "cold-s1-3"), await _env(world, "blue-0-1")
    assert _greenroom(cold) == {
        "GREENROOM_BOTS": "b=m:f",
        "GREENROOM_POOL": "blue",
        "GREENROOM_INSTANCE_ID": start.runner_id,
        "GREENROOM_INSTANCE": start.runner_id,
        "GREENROOM_CLAIM": "acme/s1/3",
        "GREENROOM_HEALTH_PORT": "0",
    }
    assert _greenroom(group) == {
        "GREENROOM_BOTS": "b=m:f",
        "GREENROOM_POOL": "blue",
        "GREENROOM_INSTANCE_ID": "blue-0-1",
        "GREENROOM_INSTANCE": "blue-0-1",
        "GREENROOM_ORDINAL": "0",
        "GREENROOM_HEALTH_PORT": "0",
    }
    for each in (cold, group):
        assert each["NATS_URL"] == "nats://n:4222"
        assert "NOMAD_TOKEN" not in each


async def test_by_default_it_is_the_runner_that_is_started(world: ProcessWorld) -> None:
    """With the interpreter that runs the scheduler; nothing of the state can be read by others."""
    settings = load(LauncherSettings, {"GREENROOM_LAUNCHER": "process", "GREENROOM_LAUNCHER_FOLDER": str(world.folder)})
    async with launcher_for(settings, SystemClock()) as launcher:
        assert isinstance(launcher, ProcessLauncher)
        assert tuple(launcher._command()) == (sys.executable, "-m", "greenroom.runner")
    assert {path.stat().st_mode & 0o777 for path in [world.folder, *world.folder.iterdir()]} == {0o700}


async def test_of_two_processes_with_one_id_one_remains(folder: StateFolder) -> None:
    """The other ends at its birth, also where the first has ended in between."""
    record, children = Record(id="twin", pool="blue", launch_id="l", since=utcnow()), Children(folder)
    for _ in range(4):
        children.start(record, STAND_IN, os.environ)
    await _until(lambda: len(children._running) == 1, reap=children)
    (alive,) = folder.records()
    assert children._running == {alive.pid}
    kill(alive)
    folder.end(alive)
    children.start(record, STAND_IN, os.environ)
    await _until(lambda: not children._running, reap=children)
    assert folder.records() == []


async def test_a_program_that_isnt_there_is_seen_to_end(world: ProcessWorld, folder: StateFolder) -> None:
    """Its log says why."""
    launcher = world.launcher(("/nonexistent/runner",))
    async with running(launcher):
        await launcher.cold_start(start := a_start("blue"))
        await _until(lambda: bool(folder.ended_records()))
        (record,) = folder.ended_records()
        assert (record.launch_id, record.exit_code) == (start.launch_id, 127)
        assert "/nonexistent/runner can't be run: No such file" in folder.log_path(record.id).read_text()


async def test_a_folder_that_cant_be_used_is_an_outage(world: ProcessWorld, folder: StateFolder) -> None:
    """What runs there runs on; the scheduler asks again."""
    launcher = world.launcher()
    folder.groups.rmdir()
    folder.groups.touch()
    with pytest.raises(LauncherUnavailable, match="folder can't be used"):
        await launcher.set_count("blue", 1)
    folder.groups.unlink()
    folder.make()
    async with running(launcher):
        await launcher.set_count("blue", 1)
        await until_running(launcher, "blue", 1)


# ---------------------------------------------------------------------------- surviving


async def test_runners_survive_a_scheduler_that_is_killed_and_are_found_by_the_next(world: ProcessWorld) -> None:
    """Also by a signal to its whole process group; when one of them ends the next scheduler sees that, and fills up."""
    command = [sys.executable, "-c", _SCHEDULER, str(world.folder)]
    scheduler = subprocess.Popen(command, stdout=subprocess.PIPE, process_group=0, cwd=Path(__file__).parents[2])
    assert scheduler.stdout is not None
    try:
        with scheduler.stdout as stdout:
            while line := await asyncio.to_thread(stdout.readline):
                if line == b"ready\n":
                    break
            else:
                pytest.fail("the scheduler has ended")
    finally:
        os.killpg(scheduler.pid, signal.SIGKILL)
        scheduler.wait(5)
    async with world.scheduler() as launcher:
        found = await until_running(launcher, "blue", 3)
        assert {i.id for i in found} == {"blue-0-1", "blue-1-1", "cold-s1-1"}
        await launcher.cold_start(a_start("blue", session_id="s1"))
        assert {i.id for i in await launcher.instances("blue")} == {i.id for i in found}
        first = next(i for i in found if i.ordinal == 0)
        os.kill(_pid(world, first), signal.SIGKILL)
        await until_gone(launcher, "blue", first.id)
        after = await until_running(launcher, "blue", 3)
        assert {i.id for i in after} - {i.id for i in found} == {"blue-0-2"}


@pytest.mark.parametrize("same", ["ticks", "boot"])
async def test_a_process_with_the_id_of_a_gone_one_is_left_alone(
    world: ProcessWorld, folder: StateFolder, same: str
) -> None:
    """The kernel gives ids again: what tells processes apart is when they started, in which boot."""
    stranger = subprocess.Popen(STAND_IN)
    try:
        record = Record(
            id="old",
            pool="blue",
            launch_id="l-1",
            since=utcnow(),
            pid=stranger.pid,
            started_ticks=start_ticks(stranger.pid) if same == "ticks" else 1,
            boot_id=boot_id() if same == "boot" else "of another day",
        )
        folder.write(record)
        launcher = world.launcher()
        assert await launcher.instances("blue") == []
        await launcher.cancel("l-1")
        kill(record)
        async with running(launcher):
            await _until(lambda: not folder.records())
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait(5)


async def test_a_cold_start_that_is_over_isnt_repeated(world: ProcessWorld, folder: StateFolder) -> None:
    """A lease is tried once; how its runner ended is kept."""
    async with world.scheduler() as launcher:
        await launcher.cold_start(start := a_start("blue"))
        (instance,) = await until_running(launcher, "blue", 1)
        os.kill(_pid(world, instance), signal.SIGKILL)
        await until_gone(launcher, "blue", instance.id)
        await launcher.cold_start(start)
        assert await launcher.instances("blue") == []
        await _until(lambda: [each.exit_code for each in folder.ended_records()] == [-signal.SIGKILL])


async def test_runners_that_end_at_once_are_started_again_later_each_time(
    world: ProcessWorld, folder: StateFolder
) -> None:
    """And the pool says so, with the exit code and the log; the wait outlives the scheduler."""
    command = (*_PYTHON, "raise SystemExit(78)")
    launcher = world.launcher(command)
    async with running(launcher):
        await launcher.set_count("blue", 1)
        await _until(lambda: len(folder.ended_records()) == 2)
        await _until(lambda: "last 2 runners" in (launcher.held_back("blue") or ""))
    following = world.launcher(command)
    async with running(following):
        await _until(lambda: following.held_back("blue") is not None)
        text = following.held_back("blue") or ""
        assert text.startswith("the last 2 runners ended at once (exit code 78, log blue-0-2.log); next try in")
        assert following.held_back("green") is None
        await following.set_count("blue", 0)
        await _until(lambda: len(folder.ended_records()) == 2)


# ---------------------------------------------------------------------------- ending


async def test_what_doesnt_end_when_asked_is_ended_by_force_with_all_its_children(world: ProcessWorld) -> None:
    """By whoever leads by then: until when it may take is written down."""
    launcher = world.launcher(_STUBBORN)
    launcher._kill_after_s = 0.3
    await launcher.cold_start(start := a_start("blue"))
    (instance,) = await until_running(launcher, "blue", 1)
    process = psutil.Process(_pid(world, instance))
    await _until(lambda: bool(process.children()))
    (child,) = process.children()
    await launcher.cancel(start.launch_id)
    assert [each.state for each in await launcher.instances("blue")] == ["stopping"]
    async with world.scheduler() as following:
        await until_gone(following, "blue", instance.id)
    assert_gone(child)


async def test_only_the_runner_itself_is_asked_and_only_once(world: ProcessWorld, folder: StateFolder) -> None:
    """It ends its sessions in order; asked a second time it would hurry."""
    log = world.folder / "signals"
    script = (
        "import os, signal, sys, time\n"
        f"def note(*_): open({str(log)!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
        "signal.signal(signal.SIGTERM, note)\n"
        "os.fork()\n"
        "print('up', flush=True)\n"
        "while True: time.sleep(0.01)\n"
    )
    launcher = world.launcher((*_PYTHON, script))
    await launcher.set_count("blue", 1)
    (instance,) = await until_running(launcher, "blue", 1)
    await _until(lambda: folder.log_path(instance.id).read_text().count("up") == 2)
    await launcher.set_count("blue", 0)
    await _until(log.exists)
    (record,) = folder.records()
    assert record.kill_at is not None
    assert record.kill_at - utcnow() > timedelta(hours=1)
    await launcher.retire(instance)
    ask_to_end(record, folder, utcnow(), 5.0)
    await asyncio.sleep(0.1)
    assert log.read_text().split() == [str(record.pid)]
    (sooner,) = folder.records()
    assert sooner.kill_at is not None
    assert sooner.kill_at < record.kill_at
    kill(sooner)


async def test_everything_is_ended_on_request(world: ProcessWorld, folder: StateFolder) -> None:
    """What doesn't end in time by force; no group is filled again afterwards."""
    polite, stubborn = world.launcher(), world.launcher(_STUBBORN)
    await polite.set_count("blue", 2)
    await stubborn.cold_start(a_start("blue"))
    pids = [record.pid for record in folder.records()]
    await _until(lambda: any(psutil.Process(pid).children() for pid in pids))
    assert await stop_all(world.folder, clock=SystemClock(), timeout_s=0.3) == 1
    assert folder.records() == []
    for pid in filter(psutil.pid_exists, pids):
        assert_gone(psutil.Process(pid))
    async with world.scheduler() as launcher:
        await asyncio.sleep(0.7)
        assert await launcher.instances("blue") == []


def test_what_ended_long_ago_is_forgotten_and_logs_are_bounded(folder: StateFolder) -> None:
    """But the last of each place, whose number the next one counts on from."""
    now = utcnow()
    for generation in (1, 2, 3):
        ended_at = now - timedelta(hours=5 - generation)
        folder.end(
            Record(
                id=f"b-0-{generation}", pool="b", ordinal=0, generation=generation, since=ended_at, ended_at=ended_at
            )
        )
    old = now - timedelta(hours=2)
    folder.end(Record(id="cold-1", pool="b", launch_id="1", since=old, ended_at=old))
    folder.end(Record(id="cold-2", pool="b", launch_id="2", since=now, ended_at=now))
    folder.write(Record(id="b-1-1", pool="b", ordinal=1, since=now))
    for number in range(LOGS_KEPT + 5):
        path = folder.log_path(f"gone-{number}")
        path.touch()
        os.utime(path, (number, number))
    folder.log_path("b-1-1").touch()
    os.utime(folder.log_path("b-1-1"), (0, 0))
    folder.prune(now)
    assert sorted(each.id for each in folder.ended_records()) == ["b-0-3", "cold-2"]
    assert len(list(folder.logs.iterdir())) == LOGS_KEPT + 1
    assert folder.log_path("b-1-1").exists()
    assert not folder.log_path("gone-4").exists()


def test_a_file_that_isnt_an_entry_is_no_process(folder: StateFolder) -> None:
    """Half a file can't be there by us; whoever put it there doesn't stop the scheduler."""
    (folder.live / "x.json").write_text('{"id": ')
    (folder.groups / "x.json").write_text("[]")
    assert folder.records() == []
    assert folder.counts() == {}


# ---------------------------------------------------------------------------- no launcher


async def test_a_fixed_fleet_refuses_to_change() -> None:
    """For good, and with the setting that says so; there is nothing to see and nothing to cancel."""
    async with launcher_for(load(LauncherSettings, {}), SystemClock()) as launcher:
        assert isinstance(launcher, NoLauncher)
        instance = Instance(id="i", pool="p", state="running", launch_id=None, ordinal=0, since=utcnow())
        for change in (launcher.cold_start(a_start("p")), launcher.set_count("p", 1), launcher.retire(instance)):
            with pytest.raises(Exception, match="GREENROOM_LAUNCHER is none") as refusal:
                await change
            assert getattr(refusal.value, "permanent", False)
        await launcher.cancel("l")
        assert list(await launcher.instances("p")) == []
        assert launcher.held_back("p") is None
        assert launcher.retires == "none"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await launcher.run()


async def _until(holds: object, reap: Children | None = None) -> None:
    assert callable(holds)

    async def look() -> bool:
        if reap is not None:
            reap.reap()
        return bool(holds())

    await eventually(look, bool)


async def _env(world: ProcessWorld, id_: str) -> dict[str, str]:
    log = world.folder / "logs" / f"{id_}.log"
    await _until(lambda: log.exists() and log.read_text().endswith("\n"))
    return msgspec.json.decode(log.read_bytes())


def _greenroom(env: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith("GREENROOM")}


def _pid(world: ProcessWorld, instance: Instance) -> int:
    return next(record.pid for record in StateFolder(world.folder).records() if record.id == instance.id)
