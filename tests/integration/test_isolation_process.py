"""What a session process can see and reach, told by a bot that looks at itself inside a real one."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from greenroom.common.lifecycle import State
from greenroom.runner.isolation import kernel
from tests.support.runner_process import PATIENCE_S, RunnerProcess, request, runner_process
from tests.support.runner_rig import until

BOTS = "mirror=tests.support.mirror_bot:bot,other=tests.support.mirror_bot:other"


async def look(it: RunnerProcess, folder: Path, *, bot: str = "mirror", **body: Any) -> dict[str, Any]:
    """Run a session of the bot that looks at itself; return what it saw."""
    report = folder / f"report-{len(list(folder.iterdir()))}.json"
    await it.start(bot, wait=None, body={"report": str(report), **body})
    async with asyncio.timeout(PATIENCE_S):
        while not report.exists():
            await asyncio.sleep(0.02)
    return json.loads(report.read_text())


async def test_a_session_process_keeps_to_itself(nats_url: str, tmp_path: Path) -> None:
    """It leads its own group, can't gain privileges, has no capabilities, isn't dumpable, has few files."""
    async with runner_process(nats_url, GREENROOM_BOTS=BOTS, GREENROOM_SESSION_FILES="500") as it:
        seen = await look(it, tmp_path)
    assert seen["pid"] == seen["group"] == seen["session"]
    assert seen["no_new_privileges"] == "1"
    assert {int(each, 16) for each in seen["capabilities"]} == {0}
    assert seen["dumpable"] == 0
    assert seen["umask"] == 0o077
    assert seen["limits"]["CORE"] == [0, 0]
    assert seen["limits"]["NOFILE"] == [500, 500]
    assert seen["limits"]["FSIZE"] == [1024**3, 1024**3]
    assert seen["oom_score"] == 300
    # Its files: the log, the null device, its broker, its event loop's, its control socket, held twice, its stacks, and
    # its turn detector.
    kinds = set(seen["files"])
    assert not [each for each in kinds if "smaps" in each or "landlock" in each or "pidfd" in each]
    assert seen["files"].count("socket") <= 6
    assert len(seen["files"]) <= 18


async def test_a_session_sees_an_allow_list_of_the_environment(
    nats_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the runner's variables a session sees paths and the like, and those that are named; no setting, no key."""
    monkeypatch.setenv("CANARY_API_KEY", "sk-canary")
    monkeypatch.setenv("SHOWN", "to sessions")
    async with runner_process(nats_url, GREENROOM_BOTS=BOTS, GREENROOM_SESSION_ENV="SHOWN") as it:
        seen = await look(it, tmp_path, secrets=["SHOWN"])
    assert "PATH" in seen["environment"]
    assert seen["values"] == {"SHOWN": "to sessions"}
    assert not [name for name in seen["environment"] if name.startswith(("GREENROOM_", "NATS_", "CANARY"))]
    assert "sk-canary" not in seen["initial_environment"]


async def test_a_session_reads_what_it_has_made(nats_url: str, tmp_path: Path) -> None:
    """In the project's folder, in a new one and beside it, also where the runner keeps reports in it, as under `up`."""
    project = tmp_path / "project"
    (project / ".greenroom" / "reports").mkdir(parents=True)
    made = [str(project / "new.txt"), str(project / "new" / "file.txt"), str(tmp_path / "temporary")]
    reports = str(project / ".greenroom" / "reports")
    async with runner_process(nats_url, GREENROOM_BOTS=BOTS, GREENROOM_REPORTS_DIR=reports) as it:
        seen = await look(it, tmp_path, made=made)
    assert seen["made"] == dict.fromkeys(made, "done")


async def test_a_session_reaches_no_other_process(nats_url: str, tmp_path: Path) -> None:
    """It can neither read, trace nor, where the kernel keeps signals apart, signal its runner or a neighbour."""
    async with runner_process(nats_url, GREENROOM_BOTS=BOTS) as it:
        neighbour = await look(it, tmp_path, stay_s=30)
        runner_pid = it.process.pid
        zygote_pid = next(each.pid for each in it.family() if each.ppid() == runner_pid)
        pids = [runner_pid, zygote_pid, neighbour["pid"]]
        seen = await look(it, tmp_path, pids=pids)
        for pid in pids:
            reached = seen["reached"][str(pid)]
            assert reached["environment"] == reached["memory"] == reached["trace"] == "PermissionError", reached
            if kernel.landlock_version() >= kernel.SCOPES_FROM:
                assert reached["signal"] == "PermissionError"
        assert it.process.returncode is None
        os.kill(neighbour["pid"], 0)


async def test_the_runner_still_ends_and_measures_what_it_has_shut_in(nats_url: str, tmp_path: Path) -> None:
    """Sessions that nobody may read or trace are seen, killed and reaped by their runner as before."""
    async with runner_process(nats_url, GREENROOM_BOTS=BOTS) as it:
        entry = await request(it.ledger, "mirror", body={"report": str(tmp_path / "report.json"), "stay_s": 300})
        session_id = await it.begin(entry, wait=State.STARTED)
        await until((tmp_path / "report.json").exists)
        await it.stop(session_id)
        ended = await it.reaches(session_id, State.ENDED)
        assert ended.reason == "client-stop", ended.detail
        await until(lambda: not it.heartbeats[-1].sessions)
