"""Requests beyond the slots wait in the ledger: none is lost, none runs twice."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import msgspec
import pytest

from greenroom.common import messages, subjects
from greenroom.common.ledger import Ledger
from greenroom.common.messages import StartSession
from greenroom.common.nats_broker import NatsBroker
from tests.support.stack import RunningStack, all_events, running_stack, the_runner, wait_for_session

pytestmark = pytest.mark.asyncio(loop_scope="module")

_REQUESTS = 200
_SLOTS = 4
# A session that nobody joins ends by itself after this: it is what frees the slots here.
_JOIN_TIMEOUT_S = 0.2


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningStack]:
    """A stack with four slots."""
    async with running_stack(tmp_path_factory.mktemp("queue"), GREENROOM_SLOTS=str(_SLOTS)) as running:
        yield running


@pytest.mark.timeout(240)
async def test_two_hundred_requests_over_four_slots_all_end_and_none_runs_twice(stack: RunningStack) -> None:
    """200 sessions are requested at once; each is started exactly once, and never more than four at a time."""
    limits = {"queue_timeout_s": 300, "join_timeout_s": _JOIN_TIMEOUT_S}
    async with stack.client() as client:
        requests = [client.post("/v1/sessions", {"agent": "echo", "limits": limits}) for _ in range(_REQUESTS)]
        sessions = await asyncio.gather(*requests)
        async with asyncio.timeout(120):
            ended = [await wait_for_session(client, session["id"]) for session in sessions]
        histories = [await all_events(client, session["id"]) for session in ended]
    assert Counter(session["reason"] for session in ended) == {"nobody-joined": _REQUESTS}
    starts = [Counter(event["type"] for event in history)["session.started"] for history in histories]
    assert starts == [1] * _REQUESTS
    assert _most_at_once(histories) <= _SLOTS


async def test_who_waits_is_told_where_and_why(stack: RunningStack) -> None:
    """A session beyond the slots says its position and what it waits for; stopped there, it is canceled."""
    async with stack.client() as client:
        holding = [
            await client.post("/v1/sessions", {"agent": "echo", "wait": "ready", "wait_timeout_s": 20})
            for _ in range(_SLOTS)
        ]
        waiting = await client.post("/v1/sessions", {"agent": "echo"})
        await asyncio.sleep(0.5)
        seen = await client.get(f"/v1/sessions/{waiting['id']}")
        assert seen["queue"]["position"] == 1
        assert "slot" in seen["queue"]["reason"]
        await client.post(f"/v1/sessions/{waiting['id']}/stop")
        assert (await wait_for_session(client, waiting["id"]))["outcome"] == "canceled"
        for session in holding:
            await client.post(f"/v1/sessions/{session['id']}/stop")
        for session in holding:
            await wait_for_session(client, session["id"])


async def test_a_request_that_nobody_takes_in_time_expires(stack: RunningStack) -> None:
    """The queue deadline passes: the session ends `expired`."""
    async with stack.client() as client:
        holding = [
            await client.post("/v1/sessions", {"agent": "echo", "wait": "ready", "wait_timeout_s": 20})
            for _ in range(_SLOTS)
        ]
        waiting = await client.post("/v1/sessions", {"agent": "echo", "limits": {"queue_timeout_s": 1}})
        assert (await wait_for_session(client, waiting["id"]))["outcome"] == "expired"
        for session in holding:
            await client.post(f"/v1/sessions/{session['id']}/stop")
            await wait_for_session(client, session["id"])


async def test_a_start_that_is_said_twice_runs_once(stack: RunningStack) -> None:
    """The same start for a session that runs already is accepted again and starts nothing."""
    async with stack.client() as client:
        session = await client.post("/v1/sessions", {"agent": "echo", "wait": "ready", "wait_timeout_s": 20})
        broker = await NatsBroker.connect(stack.stack.nats_url, name="test")
        entry = await Ledger(broker).last("default", session["id"])
        assert entry is not None
        subject = subjects.RUNNER_CMD.format(pool="default", runner_id=str(entry.session.runner_id), name="start")
        start = StartSession(session=entry.session, revision=entry.revision)
        for _ in range(3):
            reply = await broker.request(subject, messages.encode(start), timeout_s=5)
            assert msgspec.json.decode(reply.data)["type"] == "accepted"
        await asyncio.sleep(0.5)
        # Those that wait for a session included, of which the scheduler may want more for a while.
        assert len(stack.session_processes()) <= _SLOTS
        assert len((await the_runner(client))["sessions"]) == 1
        await broker.close()
        await client.post(f"/v1/sessions/{session['id']}/stop")
        await wait_for_session(client, session["id"])
        history = await all_events(client, session["id"])
    assert Counter(event["type"] for event in history)["session.started"] == 1


def _most_at_once(histories: list[list[dict[str, object]]]) -> int:
    changes: list[tuple[str, int]] = []
    for history in histories:
        for event in history:
            if event["type"] == "session.started":
                changes.append((str(event["at"]), 1))
            elif event["type"] == "session.ended":
                changes.append((str(event["at"]), -1))
    most = now = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most
