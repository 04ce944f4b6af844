"""Commands to sessions that aren't ready, over the api: they wait, and whoever asks again learns what came of it."""

import asyncio
import signal
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from greenroom.common import mailbox
from greenroom.common.commands import CommandDone, Mute, Whisper
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.ledger import Ledger
from greenroom.common.lifecycle import Ended, Ending, Leased, OnLoss, Outcome, Ready, Requeued, Started, State
from greenroom.common.mailbox import Mailbox
from greenroom.common.mailboxes import Mailboxes
from tests.support.api_world import ApiWorld, eventually, problem_of, running_api
from tests.support.runner_process import request, runner_process


@pytest.fixture
async def world(nats_url: str, database: str) -> AsyncGenerator[ApiWorld]:
    """An api."""
    async with running_api(nats_url, database) as world:
        yield world


WHISPER: dict[str, Any] = {"type": "whisper", "text": "Be kind."}


async def send(client: httpx.AsyncClient, session_id: str, command: dict[str, Any], **more: Any) -> httpx.Response:
    """Send a command."""
    return await client.post(f"/v1/sessions/{session_id}/commands", json={"command": command, **more})


async def change(world: ApiWorld, session_id: str, to: Callable[[Mailbox], Mailbox]) -> Mailbox:
    """Do to a mailbox what a session's process does."""
    return await Mailboxes(world.broker).change("default", session_id, to)


async def box_of(world: ApiWorld, session_id: str) -> Mailbox:
    """Return the mailbox of a session."""
    return await Mailboxes(world.broker).read("default", session_id)


async def test_a_command_waits_and_is_told_when_it_is_done(world: ApiWorld) -> None:
    """In every state before ready it is accepted; the same id then says that it waits, and what was answered."""
    session_id = (await world.request()).session.id
    steps = Leased(runner_id="r1", epoch=1, expires_at=datetime.now(UTC)), Started(runner_id="r1", epoch=1)
    async with (
        running_api(world.nats_url, world.dsn, first=False) as other,
        world.client("sessions:control") as client,
        other.client("sessions:control") as elsewhere,
    ):
        first = await send(client, session_id, WHISPER, id="a")
        for number, step in enumerate(steps):
            await world.advance(session_id, step)
            assert (await send(client, session_id, WHISPER, id=f"b{number}")).status_code == 202
        again = await send(elsewhere, session_id, WHISPER, id="a")
        assert problem_of(await send(elsewhere, session_id, {"type": "interrupt"}, id="a"))["status"] == 422
        assert [each.request.id for each in (await box_of(world, session_id)).posted] == ["a", "b0", "b1"]
        # A process that is left over from before must not have it.
        assert {each.epoch for each in (await box_of(world, session_id)).posted} == {1}

        await world.advance(session_id, Ready(epoch=1))
        await change(world, session_id, lambda box: mailbox.answer(box, CommandDone(id="a", result={"queued": True})))
        done = await send(elsewhere, session_id, WHISPER, id="a")
        # Written down by now: the mailbox may go.
        await change(world, session_id, lambda _: Mailbox())
        late = await send(client, session_id, WHISPER, id="a")
    assert (first.status_code, again.status_code, done.status_code) == (202, 202, 200)
    assert first.json() == {"id": "a", "session_id": session_id, "command": "whisper", "status": "queued", "result": {}}
    assert first.json() == again.json()
    assert done.json() == {**first.json(), "status": "done", "result": {"queued": True}} == late.json()
    assert late.headers["idempotent-replayed"] == "true"
    assert world.counted("commands_total", command="whisper", outcome="queued") == 3


@pytest.mark.parametrize(
    "command",
    [
        {"type": "snapshot"},
        {"type": "interrupt"},
        {"type": "barge_in", "text": "x"},
        {"type": "transfer", "target": "+4930123456"},
        {"type": "stop"},
    ],
    ids=lambda command: command["type"],
)
async def test_what_makes_no_sense_later_is_refused(world: ApiWorld, command: dict[str, Any]) -> None:
    """It is for the moment at which it is sent; nothing waits, and the same id may be used again."""
    session_id = (await world.request()).session.id
    async with world.client() as client:
        problem = problem_of(await send(client, session_id, command, id="a"))
        assert (await send(client, session_id, WHISPER, id="a")).status_code == 202
    assert (problem["code"], problem["status"]) == ("session-not-live", 409)
    assert problem["detail"].startswith("It is requested; what can wait until it is ready: say, ")


async def test_so_many_may_wait_and_no_more(world: ApiWorld) -> None:
    """However many instances and clients send at once, the mailbox is bounded; the rest is told so."""
    session_id = (await world.request()).session.id
    async with world.client() as client:
        count = mailbox.MAX_POSTED + 6
        responses: list[httpx.Response] = []
        for start in range(0, count, 10):
            ids = (f"c{number}" for number in range(start, start + 10))
            responses += await asyncio.gather(*(send(client, session_id, WHISPER, id=each) for each in ids))
    refused = [problem_of(response) for response in responses if response.status_code != 202]
    assert {(problem["code"], problem["status"]) for problem in refused} == {("too-many-commands", 429)}
    assert len(refused) == 6
    assert len((await box_of(world, session_id)).posted) == mailbox.MAX_POSTED


async def test_a_session_that_ends_first_answers_what_waited(world: ApiWorld) -> None:
    """Never begun is refused, begun and not answered is lost; and whoever is left of the session takes nothing more."""
    session_id = (await world.request()).session.id
    async with world.client() as client:
        for command_id in ("a", "b"):
            await send(client, session_id, WHISPER, id=command_id)
        await change(world, session_id, lambda box: mailbox.take(box, "1/p", 1, lambda _: True))
        await world.advance(
            session_id,
            Leased(runner_id="r1", epoch=1, expires_at=datetime.now(UTC)),
            Ending(by="client", epoch=1, outcome=Outcome.CANCELED, reason="client-stop"),
        )
        assert problem_of(await send(client, session_id, WHISPER, id="new"))["code"] == "session-not-live"
        await world.advance(session_id, Ended(by="runner", epoch=1, outcome=Outcome.CANCELED, reason="client-stop"))
        lost, refused = [problem_of(await send(client, session_id, WHISPER, id=each)) for each in ("a", "b")]
        again = problem_of(await send(client, session_id, WHISPER, id="b"))
    assert (lost["code"], lost["status"]) == ("command-lost", 409)
    assert (refused["code"], refused["status"]) == ("command-refused", 409)
    assert refused["detail"] == "The session ended before the whisper could be carried out."
    assert again["code"] == "command-refused"
    after = await change(world, session_id, lambda box: mailbox.take(box, "1/q", 1, lambda _: True))
    assert mailbox.held(after, "1/q") is None


async def test_an_api_that_dies_in_between_loses_nothing(world: ApiWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the command is in the mailbox its id is bound to it: sent again, it goes there, also when it is ready."""
    session_id = (await world.request()).session.id

    async def die(*_: object) -> Mailbox:
        raise BrokerUnavailable

    async with running_api(world.nats_url, world.dsn, first=False) as other, other.client() as elsewhere:
        with monkeypatch.context() as broken:
            broken.setattr(Mailboxes, "change", die)
            async with world.client() as client:
                assert (await send(client, session_id, WHISPER, id="a")).status_code == 503
        assert (await box_of(world, session_id)).posted == ()
        await world.make_ready(session_id)
        assert (await send(elsewhere, session_id, WHISPER, id="a")).status_code == 202
        assert (await send(elsewhere, session_id, WHISPER, id="a")).status_code == 202
    assert [each.request.command for each in (await box_of(world, session_id)).posted] == [Whisper(text="Be kind.")]


async def test_to_hold_settings_needs_a_scope_of_its_own(world: ApiWorld) -> None:
    """Beside that for commands; and to let go of them likewise."""
    session_id = (await world.request()).session.id
    async with (
        world.client("sessions:control") as plain,
        world.client("sessions:lock") as other,
        world.client("sessions:control", "sessions:lock") as client,
    ):
        for lock in (True, False):
            command = {"type": "configure", "version": 1, "voice": "anna", "lock": lock}
            for refused in (plain, other):
                assert problem_of(await send(refused, session_id, command))["code"] == "forbidden"
            assert (await send(client, session_id, command)).status_code == 202
        assert (await send(plain, session_id, {**command, "lock": None})).status_code == 422


async def test_a_session_that_is_moved_keeps_its_settings_and_what_waits(nats_url: str, database: str) -> None:
    """Its runner is killed: the next one's process has the settings of the last, and carries out what came between."""
    async with (
        running_api(nats_url, database) as world,
        runner_process(nats_url) as first,
        runner_process(nats_url) as second,
        world.client() as client,
    ):
        ledger = Ledger(world.broker)
        entry = await request(ledger, "minded", on_loss=OnLoss.ALWAYS)
        session_id = entry.session.id

        async def result(command: dict[str, Any], command_id: str) -> Any:
            async def look() -> httpx.Response:
                return await send(client, session_id, command, id=command_id)

            response = await eventually(look, lambda response: response.status_code != 202)
            assert response.status_code == 200, response.text
            return response.json()["result"]

        before = {"type": "configure", "version": 1, "voice": "anna"}
        assert (await send(client, session_id, before, id="before")).status_code == 202
        await first.begin(entry)
        assert (await result(before, "before"))["version"] == 1
        live = await result({"type": "configure", "version": 2, "llm": {"temperature": 0.1}}, "live")
        assert (live["applied"], live["kept"]) == (True, True)

        first.process.send_signal(signal.SIGKILL)
        await first.process.wait()
        entry = await ledger.move("default", session_id, lambda _: Requeued(epoch=1, reason="runner-lost"))
        assert entry.session.state is State.REQUESTED
        asked = {"type": "call", "function": "set_now"}
        assert (await send(client, session_id, asked, id="between")).status_code == 202
        await second.begin(entry)

        voice, _, temperature, _ = (await result(asked, "between"))["returned"]
        assert (voice, temperature) == ("anna", 0.1)
        assert (await result({"type": "snapshot"}, "now"))["settings_version"] == 2
        assert (await send(client, session_id, before | {"voice": "bert"}, id="stale")).status_code == 409
        # What was answered by the first process is answered the same.
        assert (await result(before, "before"))["version"] == 1


def test_what_can_wait_is_told_by_its_names() -> None:
    """The names in the refusal are those of the commands."""
    assert "mute" in mailbox.NAMES
    assert isinstance(Mute(side="bot"), mailbox.CAN_WAIT)
    assert len(mailbox.NAMES) == len(mailbox.CAN_WAIT)
