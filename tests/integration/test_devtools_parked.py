"""`greenroom parked`: messages that couldn't be processed, on a real nats-server."""

import asyncio
import json
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Any, Final

import pytest
import structlog.testing
from click.testing import CliRunner, Result

from greenroom.common import messages, subjects, topology_admin
from greenroom.common.broker import Message
from greenroom.common.clock import utcnow
from greenroom.common.consumer import Consumer, Drop
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.messages import Parked
from greenroom.common.nats_broker import NatsBroker
from greenroom.devtools import parked_messages
from greenroom.devtools.cli import cli
from greenroom.devtools.parked_messages import ParkedNotFound, ParkedNotReplayable

TOKENS: Final = {"tenant": "acme", "session_id": "s1"}
EVENT: Final = subjects.SESSION_EVENT.format(**TOKENS, type="crm.note")
AUDIO: Final = subjects.SESSION_AUDIO.format(**TOKENS, track="user")
LIFECYCLE: Final = subjects.SESSION_LIFECYCLE.format(**TOKENS)


@pytest.fixture(autouse=True)
def _logs() -> Generator[None]:
    """Keep our own log out of what the commands print, as their configuration does."""
    with structlog.testing.capture_logs():
        yield


@pytest.fixture
async def broker(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[NatsBroker]:
    """A connection to a server with the streams of the topology; commands go to the same one."""
    monkeypatch.setenv("NATS_URL", nats_url)
    monkeypatch.setenv("COLUMNS", "250")
    connection = await NatsBroker.connect(nats_url, name="test-parked")
    await topology_admin.apply(connection)
    yield connection
    await connection.close()


class Recorder:
    """Handles messages, some of which it doesn't understand (yet)."""

    def __init__(self, broker: NatsBroker, stream: str, name: str) -> None:
        self.understands = False
        self.handled: list[Message] = []
        self.consumer = Consumer(
            broker, stream, name, decode=lambda message: message, handle=self.handle, max_wait_s=0.1
        )

    async def handle(self, batch: Sequence[Message]) -> None:
        """Take note of them."""
        if not self.understands:
            raise Drop("nobody knows what that is")
        self.handled += batch

    async def run_until(self, parked: int = 0, handled: int = 0) -> None:
        """Consume until so many were parked and handled since the start."""
        task = asyncio.create_task(self.consumer.run())
        try:
            async with asyncio.timeout(20):
                while self.consumer.counts.parked < parked or len(self.handled) < handled:
                    await asyncio.sleep(0.01)
        finally:
            task.cancel()
            await asyncio.wait({task})


async def command(*arguments: str) -> Result:
    """Run a command as from a shell."""
    result = await asyncio.to_thread(CliRunner().invoke, cli, ["parked", *arguments], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result


async def test_what_was_parked_is_listed_shown_and_put_back(broker: NatsBroker) -> None:
    """With its reason and as it was; put back, it is handled like any other, with its body and its own headers."""
    assert "nothing is parked" in (await command("list")).output
    await broker.append(EVENT, b'{"data": {"n": 1}}', msg_id="mine", headers={"traceparent": "00-1-2-01"})
    recorder = Recorder(broker, "SESSIONS", "recorder-sessions")
    await recorder.run_until(parked=1)

    listed = (await command("list")).output
    assert EVENT in listed
    assert "nobody knows what that is" in listed
    shown = (await command("show", "1")).output
    assert '{"data": {"n": 1}}' in shown
    assert "traceparent: 00-1-2-01" in shown

    recorder.understands = True
    assert "put back" in (await command("replay", "1")).output
    await recorder.run_until(handled=1)
    (message,) = recorder.handled
    assert (message.subject, message.data, message.headers["traceparent"]) == (
        EVENT,
        b'{"data": {"n": 1}}',
        "00-1-2-01",
    )
    assert message.headers["Nats-Msg-Id"] != "mine", "the stream would take it for a repetition"
    assert "nothing is parked" in (await command("list")).output
    assert "put back" in (await command("list", "--all")).output
    assert "put back" in (await command("show", "1")).output


async def test_it_is_put_back_once_however_often_and_by_however_many(broker: NatsBroker) -> None:
    """A second replay says so and does nothing; several at once put one message there and leave one mark."""
    await broker.append(AUDIO, b"\x01\x02")
    await Recorder(broker, "AUDIO", "recorder-audio").run_until(parked=1)
    done = await asyncio.gather(*(parked_messages.replay(broker, 1, by=f"operator {n}") for n in range(5)))
    assert await broker.count("AUDIO", AUDIO) == 1
    assert await broker.count("PARKED", subjects.REPLAYED.wildcard()) == 1
    assert len({each.replayed for each in done}) == 1
    assert "already" in (await command("replay", "1")).output
    assert await broker.count("AUDIO", AUDIO) == 1


class DiesBeforeTheMark(Exception):
    """The operator's process ended."""


async def test_a_replay_that_died_halfway_is_finished_by_the_next(
    broker: NatsBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was put back and not marked, and the stream has forgotten the id: it is found there, and only marked."""
    await broker.append(EVENT, b"{}")
    await Recorder(broker, "SESSIONS", "recorder-sessions").run_until(parked=1)
    found = await parked_messages.one(broker, 1)
    monkeypatch.setattr(NatsBroker, "append", _dying(NatsBroker.append))
    with pytest.raises(DiesBeforeTheMark):
        await parked_messages.replay(broker, 1)
    monkeypatch.undo()
    assert await broker.count("SESSIONS", EVENT) == 2
    await _forget_ids(broker)
    done = await parked_messages.replay(broker, 1)
    assert await broker.count("SESSIONS", EVENT) == 2
    last = await broker.last("SESSIONS", EVENT)
    assert last is not None
    assert done.replayed is not None
    assert (done.replayed.stream_seq, last.headers["Nats-Msg-Id"]) == (last.stream_seq, found.replay_id)


def _dying(append: Any) -> Any:
    async def dying(self: NatsBroker, subject: str, *arguments: Any, **options: Any) -> int:
        if subjects.REPLAYED.parse(subject):
            raise DiesBeforeTheMark
        return await append(self, subject, *arguments, **options)

    return dying


async def _forget_ids(broker: NatsBroker) -> None:
    """Have the window pass in which SESSIONS recognises ids."""
    jetstream = broker.client.jetstream()
    config = (await jetstream.stream_info("SESSIONS")).config
    config.duplicate_window = 0.1
    await jetstream.update_stream(config)
    await asyncio.sleep(0.3)


async def test_a_ledger_entry_is_not_put_back(broker: NatsBroker) -> None:
    """It would become the session's newest state; the command says so, and the ledger stays as it is."""
    await broker.append(LIFECYCLE, b"{}", expected_last=0)
    await Recorder(broker, "SESSIONS", "recorder-sessions").run_until(parked=1)
    with pytest.raises(ParkedNotReplayable):
        await parked_messages.replay(broker, 1)
    result = await asyncio.to_thread(CliRunner().invoke, cli, ["parked", "replay", "1"], standalone_mode=False)
    assert result.return_value == 1
    assert "can't be put back" in result.output
    assert await broker.count("SESSIONS", LIFECYCLE) == 1
    assert "nobody knows" in (await command("list")).output


async def test_all_at_once_but_only_of_one_stream(broker: NatsBroker) -> None:
    """What was put back before isn't put back again; what fails again is parked again, under a new number."""
    for number in range(3):
        await broker.append(EVENT, f'{{"seq": {number}}}'.encode())
    await broker.append(AUDIO, b"\x01\x02")
    recorder = Recorder(broker, "SESSIONS", "recorder-sessions")
    await recorder.run_until(parked=3)
    await Recorder(broker, "AUDIO", "recorder-audio").run_until(parked=1)
    await command("replay", "2")
    output = (await command("replay", "--all", "--stream", "SESSIONS")).output
    assert len(output.splitlines()) == 2
    again = Recorder(broker, "SESSIONS", "recorder-sessions")
    await again.run_until(parked=3)
    lines = [json.loads(line) for line in (await command("list", "--all", "--json")).output.splitlines()]
    assert [(line["seq"], line["parked"]["stream"], bool(line["replayed"])) for line in lines if line["seq"] < 5] == [
        (1, "SESSIONS", True),
        (2, "SESSIONS", True),
        (3, "SESSIONS", True),
        (4, "AUDIO", False),
    ]
    left = [json.loads(line) for line in (await command("list", "--json")).output.splitlines()]
    assert [line["parked"]["stream"] for line in left] == ["AUDIO", "SESSIONS", "SESSIONS", "SESSIONS"]


async def test_what_is_not_there(broker: NatsBroker) -> None:
    """Numbers that nothing has; and a stream that doesn't take what came from it leaves it unmarked."""
    for number in (1, 7):
        with pytest.raises(ParkedNotFound):
            await parked_messages.one(broker, number)
    gone = Parked(
        stream="GONE", subject="gr.v1.gone.x", stream_seq=1, consumer="c", reason="r", at=utcnow(), payload=b"\xff"
    )
    await broker.append(subjects.PARKED.format(stream="GONE"), messages.encode(gone))
    assert "1 bytes: ff" in (await command("show", "1")).output
    result = await asyncio.to_thread(CliRunner().invoke, cli, ["parked", "replay", "1"], standalone_mode=False)
    assert result.return_value == 1
    assert (await parked_messages.one(broker, 1)).replayed is None


async def test_a_broker_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is there to be shown, and that isn't because nothing is parked."""
    monkeypatch.setenv("NATS_URL", "nats://127.0.0.1:1")
    monkeypatch.setattr("greenroom.devtools.parked._CONNECT_S", 0.2)
    with pytest.raises(BrokerUnavailable):
        await command("list")
