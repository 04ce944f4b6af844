"""A session that isn't one."""

import asyncio
import contextlib

import pytest
from pipecat.runner.types import WebSocketRunnerArguments

from greenroom.common.broker import Message
from greenroom.runner.discovery import BotFunction
from greenroom.runner.session import practice
from greenroom.runner.session.attach import SETUP_VARIABLE, announce_setup_file
from greenroom.runner.session.context import SessionContext
from greenroom.runner.session.practice import practise, rehearse
from greenroom.runner.settings import RunnerSettings
from tests.support.memory_broker import MemoryServer

CONTEXT = SessionContext(runner_id="r", settings=RunnerSettings(), bots={})


@pytest.fixture(autouse=True)
def _hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETUP_VARIABLE, "")
    # How long one takes says how busy the machine is.
    monkeypatch.setattr(practice, "_TIMEOUT_S", 60.0)
    monkeypatch.setattr(practice, "_REHEARSAL_S", 60.0)
    announce_setup_file()


async def test_a_practice_starts_a_pipeline_and_ends_it() -> None:
    """Practised is the whole start, until the pipeline runs; nothing of it is stored, and nobody else hears of it."""
    server = MemoryServer()
    heard: list[str] = []

    async def listen(message: Message) -> None:
        heard.append(message.subject)

    await server.connect().subscribe("gr.>", listen)
    assert await practise(CONTEXT, server.connect()) is None
    assert not heard
    assert not any(stream.messages for stream in server.streams.values())


async def test_a_practice_without_a_broker_is_no_more_than_that() -> None:
    """A connection that is lost meanwhile spoils nothing, and isn't waited for: what wasn't published is left."""
    broker = MemoryServer().connect()
    broker.connected = False
    assert await practise(CONTEXT, broker) is None


async def test_a_practice_that_fails_is_no_more_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong is named, and the process can still take a session."""

    async def broken(_: object) -> None:
        raise KeyError("practice")

    monkeypatch.setattr(practice, "_bot", broken)
    assert await practise(CONTEXT, MemoryServer().connect()) is None

    async def refuse(*_: object) -> None:
        raise OSError("no sockets")

    monkeypatch.setattr(practice, "_run", refuse)
    assert await practise(CONTEXT, MemoryServer().connect()) == "OSError"


async def test_a_rehearsal_needs_no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions begin and end as often as is rehearsed, with nobody to speak to and nothing left behind."""
    begun: list[object] = []
    bot = practice._bot

    async def counted(arguments: WebSocketRunnerArguments) -> None:
        begun.append(arguments)
        await bot(arguments)

    monkeypatch.setattr(practice, "_bot", counted)
    tasks = asyncio.all_tasks()
    await rehearse(RunnerSettings())
    assert len(begun) == practice._REHEARSALS
    assert asyncio.all_tasks() == tasks


async def test_bots_that_may_be_rehearsed_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bot that says so is begun before there is a caller, in the zygote and in each process; others aren't."""
    begun: list[str] = []

    def named(name: str) -> BotFunction:
        async def bot(arguments: WebSocketRunnerArguments) -> None:
            begun.append(name)
            await practice._bot(arguments)

        return bot

    monkeypatch.setattr(practice, "_REHEARSALS", 2)
    await rehearse(RunnerSettings(), named("mine"))
    assert begun == ["mine", "mine"]
    bots = {("mine", 1): named("mine"), ("other", 1): named("other")}
    context = SessionContext(runner_id="r", settings=RunnerSettings(), bots=bots, rehearsed=(("mine", 1),))
    assert await practise(context, MemoryServer().connect()) is None
    assert begun == ["mine"] * 3


@pytest.mark.parametrize("after_s", [0.01, 0.03, 0.06, 0.1])
async def test_a_rehearsal_that_takes_too_long_is_ended_with_all_it_began(
    monkeypatch: pytest.MonkeyPatch, after_s: float
) -> None:
    """Wherever it is by then: a zygote that waited for the rest would hang."""
    monkeypatch.setattr(practice, "_REHEARSAL_S", after_s)
    before = asyncio.all_tasks()
    with contextlib.suppress(TimeoutError):
        await rehearse(RunnerSettings())
    assert not asyncio.all_tasks() - before
