"""Calls of a whole Greenroom whose turns are judged in the turn detector, and without it."""

from collections.abc import AsyncIterator

import psutil
import pytest

from greenroom.devtools import call
from greenroom.devtools.client import ApiClient
from greenroom.runner.turn_detector import NAME
from tests.support.openai_stub import KEY, running_openai_stub
from tests.support.stack import RunningStack, running_stack

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Smart Turn is sure that it is over.
_LINE = "I want to talk to a person"


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningStack]:
    """A stack whose assistant finds OpenAI's APIs at a stub."""
    async with running_openai_stub() as stub:
        env = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": stub.url}
        async with running_stack(tmp_path_factory.mktemp("turns"), **env) as running:
            yield running


def _detectors(stack: RunningStack) -> list[psutil.Process]:
    runner = psutil.Process(stack.stack.services["runner"].pid)
    return [each for each in runner.children(recursive=True) if each.name() == NAME]


async def _answered(client: ApiClient) -> int:
    """Return how often the assistant answered a caller who says two things."""
    report = await call.place(client, "assistant", call.spoken([_LINE, _LINE]), body={"greeting": ""}, linger_s=0.5)
    assert report.session["outcome"] == "completed"
    return sum(event.type == "agent_spoke" for event in report.events)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


@pytest.mark.timeout(120)
async def test_turns_are_judged_in_the_detector(stack: RunningStack) -> None:
    """Both turns of a call are judged there; when it is killed, the next call's are judged without it."""
    detector, *others = _detectors(stack)
    before = _cpu_s(detector) + sum(_cpu_s(each) for each in others)
    async with stack.client() as client:
        assert await _answered(client) == 2
        # A judgement takes 30 ms at least.
        assert _cpu_s(detector) + sum(_cpu_s(each) for each in others) - before >= 0.05
        for each in (detector, *others):
            each.kill()
        assert await _answered(client) == 2
