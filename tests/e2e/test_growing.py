"""A stack that grows: callers beyond its slots get runners of their own, launched for them."""

import asyncio
from pathlib import Path
from typing import Any

import psutil
import pytest

from greenroom.devtools.client import ApiClient
from greenroom.scheduler.launchers.process_state import StateFolder
from tests.support.stack import all_events, running_stack, wait_for_event, wait_for_session

pytestmark = pytest.mark.timeout(180)


async def test_three_callers_on_one_slot_get_three_runners(tmp_path: Path) -> None:
    """Two of them by a cold start each; the runners end with their calls, and why they were launched is kept."""
    async with (
        running_stack(tmp_path, GREENROOM_LAUNCHER="process", GREENROOM_SLOTS="1", GREENROOM_STANDBY="1") as stack,
        stack.client() as client,
    ):
        await _applied(client)
        request = {"agent": "echo", "wait": "ready", "wait_timeout_s": 60, "limits": {"queue_timeout_s": 60}}
        sessions = await asyncio.gather(*(client.post("/v1/sessions", request) for _ in range(3)))
        assert [session["state"] for session in sessions] == ["ready"] * 3
        runners = await _busy(client, 3)
        cold = [runner for runner in runners if runner["id"].startswith("cold-")]
        assert len(cold) == 2
        pools = {pool["name"]: pool for pool in (await client.get("/v1/pools"))["pools"]}
        assert pools["default"]["state"]["launcher"] == "process"

        for session in sessions:
            await client.post(f"/v1/sessions/{session['id']}/stop")
            await wait_for_session(client, session["id"])
        await _gone(StateFolder(stack.stack.launched_dir))
        launched = next(each for each in sessions if cold[0]["id"].startswith(f"cold-{each['id']}"))
        await wait_for_event(client, launched["id"], "session.ended")
        decisions = [
            event["data"]["decision"]
            for event in await all_events(client, launched["id"])
            if event["type"] == "scheduler.decision"
        ]
        assert "cold_start" in decisions


async def test_what_was_launched_ends_with_the_stack(tmp_path: Path) -> None:
    """Also in the middle of a call: nothing is left running on the machine."""
    async with running_stack(
        tmp_path, GREENROOM_LAUNCHER="process", GREENROOM_SLOTS="1", GREENROOM_STANDBY="0"
    ) as stack:
        async with stack.client() as client:
            await _applied(client)
            request = {"agent": "echo", "wait": "ready", "wait_timeout_s": 60, "limits": {"queue_timeout_s": 60}}
            await asyncio.gather(*(client.post("/v1/sessions", request) for _ in range(2)))
        pids = [record.pid for record in StateFolder(stack.stack.launched_dir).records() if record.lives()]
        assert pids
    assert not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]


async def _busy(client: ApiClient, count: int) -> list[dict[str, Any]]:
    """Return the runners that have a session, once there are so many."""
    async with asyncio.timeout(10):
        while True:
            found = [runner for runner in (await client.get("/v1/runners"))["runners"] if runner["sessions"]]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.2)


async def _applied(client: ApiClient) -> None:
    """Wait until the scheduler plans by the policy that lets the pool grow."""
    async with asyncio.timeout(30):
        while True:
            pools = {pool["name"]: pool for pool in (await client.get("/v1/pools"))["pools"]}
            state = pools.get("default", {}).get("state")
            if state is not None and pools["default"]["policy"]["cold_starts"] and not state["held_back"]:
                return
            await asyncio.sleep(0.3)


async def _gone(folder: StateFolder) -> None:
    async with asyncio.timeout(30):
        while any(record.lives() for record in folder.records()):
            await asyncio.sleep(0.2)
