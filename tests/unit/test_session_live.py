"""A session whose transport can't be opened, in this process and over the broker in memory."""

import asyncio
import socket
from typing import Any, Self

import pytest
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.runner.types import RunnerArguments
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams

from greenroom.common.errors import BrokerUnavailable
from greenroom.common.lifecycle import Limits, Outcome
from greenroom.runner.session import live
from greenroom.runner.session.channel import Channel
from greenroom.runner.session.context import SessionContext
from greenroom.runner.session.transports.absent import AbsentTransport
from greenroom.runner.session.transports.base import OnConnected, OnDisconnected
from greenroom.runner.settings import RunnerSettings
from tests.support.memory_broker import MemoryServer
from tests.support.session_rig import new_session


class _Locked(AbsentTransport):
    async def open(self) -> None:
        """Need secrets that can't be read now."""
        raise BrokerUnavailable("no answer in time")


async def _listening() -> None:
    pass


@pytest.mark.parametrize(
    ("transport", "detail"),
    [
        (AbsentTransport("its library isn't installed"), "its library isn't installed"),
        (_Locked(""), "no answer in time"),
    ],
)
async def test_a_way_that_cant_be_opened_ends_the_session_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, transport: AbsentTransport, detail: str
) -> None:
    """The bot isn't called, the process doesn't break, and whoever asks is told what was in the way."""
    monkeypatch.setattr(live, "make_transport", lambda *_: transport)
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(ours.detach())
    context = SessionContext(runner_id="r", settings=RunnerSettings(), bots={})
    session = live.LiveSession(new_session("echo"), context, MemoryServer().connect(), channel, _listening)
    async with asyncio.timeout(10):
        finished = await session.run()
    channel.close()
    theirs.close()
    assert (finished.outcome, finished.reason, finished.detail) == (Outcome.FAILED, "transport-failed", detail)


class _Scripted(AbsentTransport):
    """Tells what it is told to, when the bot is called."""

    def __init__(self, *told: tuple[str, ...]) -> None:
        super().__init__("")
        self._told = told

    def made(self, _session: object, _broker: object, came: OnConnected, left: OnDisconnected, _net: object) -> Self:
        """Be made as any transport."""
        self._came, self._left = came, left
        return self

    async def open(self) -> None:
        """Be there."""

    def arguments(self, body: dict[str, Any]) -> RunnerArguments:
        """Return something that a bot can be called with."""
        return RunnerArguments(body=body)

    def play(self) -> None:
        """Tell it all."""
        for what, *by in self._told:
            if what == "connected":
                self._came("connection-1")
            else:
                self._left(by[0], 1000, "")


@pytest.mark.parametrize(
    ("told", "events", "reason"),
    [
        ([("connected",), ("disconnected", "client")], ["call_connected", "call_disconnected"], "client-left"),
        # A carrier's socket whose stream never begins.
        ([("disconnected", "client")], [], "client-left"),
        ([("disconnected", "transport")], [], "transport-failed"),
        # The bot is put out of a room that is empty for a while.
        (
            [("connected",), ("disconnected", "away"), ("disconnected", "transport")],
            ["call_connected", "call_disconnected"],
            "transport-failed",
        ),
        (
            [("connected",), ("disconnected", "away"), ("connected",), ("disconnected", "client")],
            ["call_connected", "call_disconnected"] * 2,
            "client-left",
        ),
    ],
)
async def test_nobody_is_gone_who_wasnt_there(
    monkeypatch: pytest.MonkeyPatch, told: list[tuple[str, ...]], events: list[str], reason: str
) -> None:
    """Events of who comes and goes are told in pairs; the session ends in any case, and says why."""
    transport, emitted = _Scripted(*told), list[str]()
    monkeypatch.setattr(live, "make_transport", transport.made)

    async def bot(_args: RunnerArguments) -> None:
        transport.play()
        await asyncio.Event().wait()

    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(ours.detach())
    context = SessionContext(runner_id="r", settings=RunnerSettings(), bots={("echo", 1): bot})
    asked = new_session("echo", limits=Limits(rejoin_timeout_s=30, end_timeout_s=1))
    session = live.LiveSession(asked, context, MemoryServer().connect(), channel, _listening)
    session._emitter.on_event = lambda kind, *_: emitted.append(kind)
    async with asyncio.timeout(10):
        finished = await session.run()
    channel.close()
    theirs.close()
    assert [kind for kind in emitted if kind in {"call_connected", "call_disconnected"}] == events
    assert finished.reason == reason


async def test_audio_that_nobody_hears_is_cut_in_every_pipeline_of_the_bot() -> None:
    """The user's in front of the transport, the bot's behind it: the aggregator of words, which is last, gets none."""
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(ours.detach())
    context = SessionContext(runner_id="r", settings=RunnerSettings(), bots={})
    session = live.LiveSession(new_session("echo"), context, MemoryServer().connect(), channel, _listening)
    output = BaseOutputTransport(TransportParams(audio_out_enabled=True))
    assistant = LLMContextAggregatorPair(LLMContext()).assistant()
    as_it_was = [output.queue_frame, assistant.queue_frame]
    await session.on_worker(PipelineWorker(Pipeline([output, assistant])))
    assert output.queue_frame != as_it_was[0]
    assert assistant.queue_frame != as_it_was[1]
    channel.close()
    theirs.close()
