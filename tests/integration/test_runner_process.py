"""The runner as a process of its own, with the real session process."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import httpx

from greenroom.common.lifecycle import Outcome, State
from greenroom.devtools.embedded.nats import EmbeddedNats
from greenroom.devtools.process import free_port
from tests.support.api_world import eventually
from tests.support.runner_process import PATIENCE_S, runner_process
from tests.support.runner_rig import gone, until


async def test_nothing_outlives_a_runner_that_is_killed(nats_url: str) -> None:
    """1.5 s after a SIGKILL of the runner its zygote, its standbys and its sessions, hanging ones too, are gone."""
    async with runner_process(nats_url) as it:
        await it.start("echo")
        await it.start("frozen", wait=State.STARTED)
        await asyncio.sleep(0.2)
        family = it.family()
        assert len(family) >= 3
        it.process.kill()
        await until(lambda: all(gone(each) for each in family), 1.5)


async def test_an_idle_runner_stops_at_once(nats_url: str) -> None:
    """SIGTERM ends a runner without sessions with exit code 0, and leaves nothing."""
    async with runner_process(nats_url) as it:
        family = it.family()
        it.process.send_signal(signal.SIGTERM)
        assert await it.exit_code() == 0
        await until(lambda: all(gone(each) for each in family), 1.0)


async def test_the_second_signal_ends_the_calls(nats_url: str) -> None:
    """The first SIGTERM lets a call go on; the second ends it in order, and the runner leaves with exit code 0."""
    async with runner_process(nats_url) as it:
        session_id = await it.start("echo")
        it.process.send_signal(signal.SIGTERM)
        await until(lambda: it.heartbeats[-1].draining)
        await asyncio.sleep(0.5)
        assert len(it.heartbeats[-1].sessions) == 1
        it.process.send_signal(signal.SIGTERM)
        ended = await it.reaches(session_id, State.ENDED)
        assert (ended.outcome, ended.reason) == (Outcome.FAILED, "drain-deadline")
        assert await it.exit_code() == 0


async def test_whoever_escapes_from_the_group_of_a_session_is_killed_too(nats_url: str) -> None:
    """A process that a bot has started in a session of its own is killed once the bot's process is gone."""
    async with runner_process(nats_url) as it:
        await it.start("spawner")
        [escaped] = [each for each in it.family() if "time.sleep(300)" in " ".join(each.cmdline())]
        [parent] = [each for each in it.family() if each.pid == escaped.ppid()]
        await asyncio.sleep(1.2)  # longer than strays are looked for: as long as its session lives, it is none
        assert not gone(escaped)
        parent.kill()
        await until(lambda: gone(escaped), 3.0)


async def test_the_probe_says_what_is_missing(own_nats: EmbeddedNats) -> None:
    """A runner that can't take work says why: the broker is away, its zygote is not warm, it drains with calls."""
    port = str(free_port())
    async with runner_process(own_nats.url, GREENROOM_HEALTH_PORT=port) as it, httpx.AsyncClient() as http:

        async def says(name: str, reason: str | None) -> None:
            async def look() -> str | None:
                return (await http.get(f"http://127.0.0.1:{port}/readyz")).json().get("reasons", {}).get(name)

            await eventually(look, lambda found: found == reason)

        await says("zygote", None)
        await says("broker", None)
        # Beside those who stand by, the one that has forked them.
        zygote = next(each for each in it.family() if each.ppid() == it.process.pid and each.children())
        zygote.kill()
        await says("zygote", "zygote-not-warm")
        await says("zygote", None)
        session_id = await it.start("echo")
        await own_nats.kill()
        await says("broker", "broker-unavailable")
        await own_nats.start()
        await says("broker", None)
        it.process.send_signal(signal.SIGTERM)
        await says("draining", "draining")
        await it.stop(session_id)
        assert await it.exit_code() == 0


async def test_settings_that_are_wrong_end_the_runner(tmp_path: Path) -> None:
    """A runner whose settings are wrong says which, and leaves with exit code 78."""
    env = {**os.environ, "GREENROOM_SLOTS": "many"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "greenroom.runner", env=env, cwd=tmp_path, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(PATIENCE_S):
        _, complaint = await process.communicate()
    assert process.returncode == 78
    assert b"GREENROOM_SLOTS is 'many'" in complaint
