"""`greenroom up`, as a person uses it in a terminal."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.support.stack import PATIENCE_S


def _environment(folder: Path) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("GREENROOM_", "NATS_", "DATABASE_"))
    }
    return {**kept, "GREENROOM_STATE_DIR": str(folder), "COLUMNS": "160", "PYTHONUNBUFFERED": "1"}


async def test_up_tells_where_everything_is_refuses_a_second_one_and_stops_at_once(tmp_path: Path) -> None:
    """`up` prints URLs and key; a second `up` says who is there; the doctor is content; Ctrl-C ends all in 5 s."""
    environment = _environment(tmp_path)
    command = [sys.executable, "-m", "greenroom.devtools.cli"]
    up = await asyncio.create_subprocess_exec(
        *command, "up", "--api-port", "0", env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert up.stdout is not None
    seen: list[str] = []
    try:
        async with asyncio.timeout(PATIENCE_S * 2):
            while not any("Ctrl-C stops" in line for line in seen):
                line = (await up.stdout.readline()).decode()
                assert line, "".join(seen)
                seen.append(line)
        text = "".join(seen)
        assert "Greenroom is up" in text
        assert "gr_dev_" in text

        second = await _run(command, "up", environment=environment)
        assert second.returncode == 1
        assert "already up" in second.stderr

        doctor = await _run(command, "doctor", environment=environment)
        assert doctor.returncode == 0, doctor.stdout

        sessions = await _run(command, "sessions", environment=environment)
        assert sessions.returncode == 0

        # The runner holds a file for what it couldn't publish: the next `up` finds it.
        assert len(list((tmp_path / "reports").glob("*.spool"))) == 1
    finally:
        began = time.monotonic()
        up.send_signal(signal.SIGINT)
        rest, _ = await asyncio.wait_for(up.communicate(), PATIENCE_S)
    assert time.monotonic() - began < 5
    assert up.returncode == 0, rest.decode()
    assert "stopped" in rest.decode()


async def _run(command: list[str], *arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [*command, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


async def test_a_second_ctrl_c_kills(tmp_path: Path) -> None:
    """The first Ctrl-C stops in order, the second one at once: nothing is left running, and no traceback is shown."""
    command = [sys.executable, "-m", "greenroom.devtools.cli"]
    up = await asyncio.create_subprocess_exec(
        *command,
        "up",
        "--api-port",
        "0",
        env=_environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert up.stdout is not None
    async with asyncio.timeout(PATIENCE_S * 2):
        while "Ctrl-C stops" not in (line := (await up.stdout.readline()).decode()):
            assert line
    children = psutil.Process(up.pid).children(recursive=True)
    up.send_signal(signal.SIGINT)
    await asyncio.sleep(0.05)
    up.send_signal(signal.SIGINT)
    rest, _ = await asyncio.wait_for(up.communicate(), PATIENCE_S)
    assert up.returncode == 130, rest.decode()
    assert "Traceback" not in rest.decode()
    _, alive = await asyncio.to_thread(psutil.wait_procs, children, 5)
    assert alive == []
