"""Two versions of one bot on one runner, each in a folder of its own with the same modules beside it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from greenroom.devtools.client import ApiClient
from tests.support.stack import PATIENCE_S, RunningStack, running_stack, the_runner, wait_for_session

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

_BOT = """
from greenroom.runner.bots import echo
import prompts

TRANSPORTS = ("websocket",)
REHEARSE = True
EXPOSED = {}

async def bot(runner_args):
    import manners
    EXPOSED["asked"] = lambda: {"prompt": prompts.TEXT, "manners": manners.TEXT}
    await echo.bot(runner_args)
"""


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningStack]:
    """A Greenroom whose runner has both."""
    folder = tmp_path_factory.mktemp("versions")
    for version in ("1", "2"):
        _write(folder / version, version)
    bots = f"front@1={folder}/1/front.py,front@2={folder}/2/front.py"
    async with running_stack(folder, GREENROOM_BOTS=bots) as running:
        yield running


def _write(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "front.py").write_text(_BOT)
    for name in ("prompts", "manners"):
        (folder / f"{name}.py").write_text(f"TEXT = 'of {text}'\n")


async def _asked(client: ApiClient, version: int) -> str:
    """Return a session of a version, once the rollout has come to the scheduler; all of it is of that version."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            session = await client.post("/v1/sessions", {"agent": "front"})
            ready = await wait_for_session(client, session["id"], state="ready")
            if ready["agent_version"] == version:
                break
            await client.post(f"/v1/sessions/{session['id']}/stop")
    asked = {"command": {"type": "call", "function": "asked"}}
    answer = await client.post(f"/v1/sessions/{session['id']}/commands", asked)
    assert answer["result"]["returned"] == {"prompt": f"of {version}", "manners": f"of {version}"}
    return session["id"]


async def test_calls_of_two_versions_run_side_by_side(stack: RunningStack) -> None:
    """The newest is for everybody, until a rollout says otherwise; one that is drained is given to nobody."""
    async with stack.client() as client:
        bots = [(bot["name"], bot["version"], bot["error"]) for bot in (await the_runner(client))["bots"]]
        assert [bot for bot in bots if bot[0] == "front"] == [("front", 1, None), ("front", 2, None)]
        calls = [await _asked(client, 2)]
        await client.put("/v1/agents/front/rollout", {"current": 1})
        calls.append(await _asked(client, 1))
        runner = await the_runner(client)
        await client.post(f"/v1/runners/{runner['id']}/drain", {"bot": "front", "agent_version": 1})
        refused = await client.post("/v1/sessions", {"agent": "front", "limits": {"queue_timeout_s": 1}})
        assert (await wait_for_session(client, refused["id"]))["outcome"] == "expired"
        await client.put("/v1/agents/front/rollout", {"current": 2})
        calls.append(await _asked(client, 2))
        held = {each["session_id"] for each in (await the_runner(client))["sessions"]}
        assert held >= set(calls)
        for session_id in calls:
            await client.post(f"/v1/sessions/{session_id}/stop")
            assert (await wait_for_session(client, session_id))["outcome"] == "completed"
