"""Commands over the api: who may send them, what comes back, and that an id is carried out once over all instances."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from greenroom.common import messages, subjects
from greenroom.common.broker import Message
from greenroom.common.commands import CommandDone, CommandRefused, CommandRequest, Say, Stop
from greenroom.common.lifecycle import Ending, Leased, Outcome, Ready, Requeued, Started
from tests.support.api_world import ApiWorld, problem_of, running_api


@pytest.fixture
async def world(nats_url: str, database: str) -> AsyncGenerator[ApiWorld]:
    """An api."""
    async with running_api(nats_url, database) as world:
        yield world


class Process:
    """A session process, as far as commands go: it keeps what it is asked, and says what it is told to."""

    def __init__(self) -> None:
        self.asked: list[CommandRequest] = []
        self.refuse: str | None = None
        self.silent = False

    async def answer(self, message: Message) -> bytes:
        """Answer a command."""
        request = messages.decode(message.data, CommandRequest)
        self.asked.append(request)
        if self.silent:
            await asyncio.sleep(3600)
        if self.refuse:
            return messages.encode(CommandRefused(id=request.id, code=self.refuse, detail="Because."))
        return messages.encode(CommandDone(id=request.id, result={"times": len(self.asked)}))


@contextlib.asynccontextmanager
async def process_of(world: ApiWorld, session_id: str) -> AsyncGenerator[Process]:
    """Run the process of a session for the time of the block."""
    process = Process()
    subject = subjects.SESSION_CMD.format(tenant="default", session_id=session_id, name="command")
    serving = await world.broker.serve(subject, process.answer)
    await world.broker.flush(5)
    yield process
    await serving.unsubscribe()
    await world.broker.flush(5)


async def ready(world: ApiWorld) -> str:
    """Return the id of a session that is ready."""
    entry = await world.request()
    await world.make_ready(entry.session.id)
    return entry.session.id


def say(text: str = "Hello.", **fields: Any) -> dict[str, Any]:
    """Return the body of a command."""
    return {"command": {"type": "say", "text": text}, **fields}


async def test_a_command_is_answered_with_its_result(world: ApiWorld) -> None:
    """The process is told who sends what under which id, and its result comes back."""
    session_id = await ready(world)
    async with process_of(world, session_id) as process, world.client("sessions:control") as client:
        response = await client.post(f"/v1/sessions/{session_id}/commands", json=say(id="order-7"))
    assert response.status_code == 200
    assert response.json() == {
        "id": "order-7",
        "session_id": session_id,
        "command": "say",
        "status": "done",
        "result": {"times": 1},
    }
    assert "idempotent-replayed" not in response.headers
    [asked] = process.asked
    assert asked.command == Say(text="Hello.")
    assert len(asked.by) == 36
    assert world.counted("commands_total", command="say", outcome="done") == 1


async def test_the_same_id_is_answered_the_same_over_instances(world: ApiWorld) -> None:
    """A second instance gives the first one's answer without asking the process, even when the session is over."""
    session_id = await ready(world)
    path = f"/v1/sessions/{session_id}/commands"
    async with (
        running_api(world.nats_url, world.dsn, first=False) as other,
        world.client() as client,
        other.client() as elsewhere,
    ):
        async with process_of(world, session_id) as process:
            first = await client.post(path, json=say(id="a"))
            again = await elsewhere.post(path, json=say(id="a"))
            other_text = await elsewhere.post(path, json=say("Bye.", id="a"))
        await world.end(session_id)
        late = await elsewhere.post(path, json=say(id="a"))
    assert first.content == again.content == late.content
    assert again.headers["idempotent-replayed"] == late.headers["idempotent-replayed"] == "true"
    assert problem_of(other_text)["code"] == "command-id-reused"
    assert len(process.asked) == 1


async def test_duplicates_at_the_same_time_are_one_command_to_the_process(world: ApiWorld) -> None:
    """However many ask at once, the process sees one id, and each gets an answer."""
    session_id = await ready(world)
    async with process_of(world, session_id) as process, world.client() as client:
        path = f"/v1/sessions/{session_id}/commands"
        responses = await asyncio.gather(*(client.post(path, json=say(id="b")) for _ in range(8)))
    assert {response.status_code for response in responses} == {200}
    assert {request.id for request in process.asked} == {"b"}


async def test_no_answer_in_time_can_be_asked_again(world: ApiWorld) -> None:
    """After a 504 the same id goes to the same process again; the problem names the id that was made."""
    session_id = await ready(world)
    async with process_of(world, session_id) as process, world.client() as client:
        process.silent = True
        path = f"/v1/sessions/{session_id}/commands"
        problem = problem_of(await client.post(path, json=say(timeout_s=0.1)))
    assert (problem["code"], problem["status"], problem["retryable"]) == ("command-timed-out", 504, True)
    async with process_of(world, session_id) as process, world.client() as client:
        response = await client.post(path, json=say(id=problem["command_id"]))
    assert response.status_code == 200
    assert [request.id for request in process.asked] == [problem["command_id"]]


async def test_a_command_whose_process_is_gone_is_not_sent_to_the_next_one(world: ApiWorld) -> None:
    """Nobody knows whether it was carried out, so it isn't a second time."""
    session_id = await ready(world)
    path = f"/v1/sessions/{session_id}/commands"
    async with process_of(world, session_id) as process, world.client() as client:
        process.silent = True
        problem_of(await client.post(path, json=say(id="c", timeout_s=0.1)))
        await world.advance(
            session_id,
            Requeued(by="scheduler", epoch=1, reason="runner-lost"),
            Leased(runner_id="runner-2", epoch=2, expires_at=process.asked[0].at),
            Started(runner_id="runner-2", epoch=2),
            Ready(epoch=2),
        )
    async with process_of(world, session_id) as process, world.client() as client:
        lost = problem_of(await client.post(path, json=say(id="c")))
        new = await client.post(path, json=say(id="d"))
    assert (lost["code"], lost["status"]) == ("command-lost", 409)
    assert new.status_code == 200
    assert [request.id for request in process.asked] == ["d"]


@pytest.mark.parametrize(
    ("code", "status", "kept"),
    [
        ("command-unsupported", 422, True),
        ("settings-version-stale", 409, True),
        ("function-failed", 502, True),
        ("too-many-commands", 429, False),
        ("never-heard-of", 409, True),
    ],
)
async def test_a_refusal_is_a_typed_problem(world: ApiWorld, code: str, status: int, *, kept: bool) -> None:
    """What the session refuses keeps its code; it is kept as the answer unless it is of the moment."""
    session_id = await ready(world)
    path = f"/v1/sessions/{session_id}/commands"
    async with process_of(world, session_id) as process, world.client() as client:
        process.refuse = code
        problem = problem_of(await client.post(path, json=say(id="e")))
        process.refuse = None
        again = await client.post(path, json=say(id="e"))
    assert problem["status"] == status
    assert problem["code"] == (code if code != "never-heard-of" else "command-refused")
    assert problem["detail"] == "Because."
    assert (again.status_code != 200) is kept
    assert len(process.asked) == (1 if kept else 2)


async def test_a_session_that_is_not_running_takes_no_commands(world: ApiWorld) -> None:
    """Ending, ended, without a process: 409; unknown: 404. Only `stop` reaches one that ends."""
    gone = await ready(world)
    ending = await ready(world)
    await world.advance(ending, Ending(by="client", epoch=1, outcome=Outcome.COMPLETED, reason="client-stop"))
    ended = await ready(world)
    await world.end(ended)
    async with world.client() as client:
        for session_id in (gone, ending, ended):
            problem = problem_of(await client.post(f"/v1/sessions/{session_id}/commands", json=say()))
            assert (problem["code"], problem["status"]) == ("session-not-live", 409)
        stop = {"command": {"type": "stop", "now": True}}
        async with process_of(world, ending) as process:
            assert (await client.post(f"/v1/sessions/{ending}/commands", json=stop)).status_code == 200
        assert [request.command for request in process.asked] == [Stop(now=True)]
        unknown = "0199b6a4-5d1e-7c3a-9a52-0c5a3b1e7f42"
        assert problem_of(await client.post(f"/v1/sessions/{unknown}/commands", json=say()))["status"] == 404


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        ({"command": {"type": "say"}}, "invalid-body", "/command"),
        ({"command": {"type": "say", "text": ""}}, "invalid-body", "/command/text"),
        ({"command": {"type": "fly"}}, "invalid-body", "/command/type"),
        ({"command": {"type": "say", "text": "x", "loud": True}}, "unknown-field", "/command/loud"),
        ({"command": {"type": "dtmf", "digits": "1x"}}, "invalid-body", "/command/digits"),
        ({"command": {"type": "interrupt"}, "timeout_s": 90}, "invalid-body", "/timeout_s"),
        ({"command": {"type": "interrupt"}, "id": "a b"}, "invalid-body", "/id"),
        ({"command": {"type": "configure", "version": 0}}, "invalid-body", "/command/version"),
    ],
)
async def test_a_body_that_does_not_fit_is_refused_by_its_place(
    world: ApiWorld, body: dict[str, Any], code: str, pointer: str
) -> None:
    """Nothing reaches the session, and the problem points at what is wrong."""
    session_id = await ready(world)
    async with process_of(world, session_id) as process, world.client() as client:
        problem = problem_of(await client.post(f"/v1/sessions/{session_id}/commands", json=body))
    assert (problem["code"], problem["status"]) == (code, 422)
    assert [each["pointer"] for each in problem["errors"]] == [pointer]
    assert process.asked == []


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        ("sessions:write", set[str]()),
        ("sessions:read", set[str]()),
        ("sessions:whisper", {"whisper"}),
        ("sessions:barge_in", {"barge_in"}),
        ("sessions:listen", {"snapshot"}),
        ("sessions:control", {"whisper", "barge_in", "snapshot", "say", "stop"}),
        ("admin", {"whisper", "barge_in", "snapshot", "say", "stop"}),
    ],
)
async def test_each_command_needs_its_scope(world: ApiWorld, scope: str, allowed: set[str]) -> None:
    """No other scope brings them along, and a supervisor's key can do no more than it is for."""
    session_id = await ready(world)
    commands: list[dict[str, Any]] = [
        {"type": "whisper", "text": "x"},
        {"type": "barge_in", "text": "x"},
        {"type": "say", "text": "x"},
        {"type": "snapshot"},
        {"type": "stop"},
    ]
    async with process_of(world, session_id), world.client(scope) as client:
        done: set[str] = set()
        for command in commands:
            response = await client.post(f"/v1/sessions/{session_id}/commands", json={"command": command})
            if response.status_code == 200:
                done.add(command["type"])
            else:
                assert problem_of(response)["code"] == "forbidden"
    assert done == allowed


async def test_another_tenant_sees_no_session(world: ApiWorld) -> None:
    """A key of another tenant can't steer it."""
    session_id = await ready(world)
    async with process_of(world, session_id) as process, world.client(tenant="other") as client:
        response: httpx.Response = await client.post(
            f"/v1/sessions/{session_id}/commands", json={"command": {"type": "interrupt"}}
        )
    assert problem_of(response)["code"] == "session-not-found"
    assert process.asked == []
