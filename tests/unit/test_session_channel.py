"""The session process's end of the control socket."""

import asyncio
import socket
from collections.abc import AsyncGenerator

import pytest

from greenroom.common.lifecycle import Outcome
from greenroom.runner import control
from greenroom.runner.control import Assign, Cancel, Pong, Standby, Stop
from greenroom.runner.session.channel import Channel
from tests.support.session_rig import new_session

type Pair = tuple[Channel, socket.socket]


@pytest.fixture
async def pair() -> AsyncGenerator[Pair]:
    """A channel, and the runner's end of its socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(ours.detach())
    yield channel, theirs
    theirs.close()
    await asyncio.sleep(0)
    channel.close()


async def test_messages_arrive_one_by_one(pair: Pair) -> None:
    """Each packet is a message, in order."""
    channel, runner = pair
    session = new_session("echo")
    stop = Stop(outcome=Outcome.COMPLETED, reason="client-stop", deadline_s=3)
    runner.send(control.encode(Assign(session=session)))
    runner.send(control.encode(stop))
    assert await channel.receive() == Assign(session=session)
    assert await channel.receive() == stop


async def test_the_runners_end_is_a_message_too(pair: Pair) -> None:
    """What was sent before is still received; then the end, and `closed`."""
    channel, runner = pair
    runner.send(control.encode(Cancel(reason="fenced")))
    runner.close()
    assert await channel.receive() == Cancel(reason="fenced")
    assert await channel.receive() is None
    assert channel.closed.is_set()
    await channel.send(Standby())  # to nobody


async def test_a_malformed_packet_is_passed_over(pair: Pair) -> None:
    """What can't be decoded doesn't end the session."""
    channel, runner = pair
    runner.send(b"\xc1")
    runner.send(control.encode(Cancel(reason="x")))
    assert await channel.receive() == Cancel(reason="x")


async def test_a_runner_that_doesnt_read_costs_no_more_than_a_second(pair: Pair) -> None:
    """A full socket drops a pong at once, and gives up on anything else after a deadline."""
    channel, runner = pair
    runner.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    async with asyncio.timeout(5):
        for _ in range(2000):
            await channel.send(Pong(loop_lag_ms=0.1))
        await channel.send(Standby())


async def test_what_is_sent_is_received(pair: Pair) -> None:
    """A message is one packet."""
    channel, runner = pair
    await channel.send(Standby())
    assert control.decode_from_session(runner.recv(1000)) == Standby()
