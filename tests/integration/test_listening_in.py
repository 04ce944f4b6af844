"""Listening in on a real session process over a real api: what is heard and said, and that the call pays nothing."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from greenroom.common import subjects
from greenroom.common.broker import Message
from greenroom.common.lifecycle import Ended, Outcome
from greenroom.runner.control import Finished, MediaConnected, PipelineReady
from tests.support.api_world import ApiWorld, eventually, problem_of, running_api
from tests.support.commanding import events_of, until_events
from tests.support.session_bots import RATE, tone
from tests.support.session_rig import Caller, HostProcess, SessionRun, Sessions


class Stage:
    """A session with a caller, in the ledger, and an api that knows it."""

    def __init__(self, world: ApiWorld, run: SessionRun, caller: Caller, client: httpx.AsyncClient) -> None:
        self.world = world
        self.run = run
        self.caller = caller
        self.client = client
        self.path = f"/v1/sessions/{run.session.id}/listen"
        self.windows: list[Message] = []

    async def listen(self, **wish: Any) -> ClientConnection:
        """Return a listener's socket."""
        response = await self.client.post(self.path, json=wish)
        assert response.status_code == 201, response.text
        return await connect(response.json()["url"], compression=None, max_queue=None)

    async def keep(self, message: Message) -> None:
        """Keep what is published live."""
        self.windows.append(message)


@pytest.fixture
async def stage(host: HostProcess, nats_url: str, database: str) -> AsyncGenerator[Stage]:
    """An echo with a caller."""
    async with Sessions(host, nats_url) as sessions, running_api(nats_url, database) as world, world.client() as client:
        run = await sessions.assign("echo")
        await run.expect(PipelineReady)
        caller = await run.call()
        await run.expect(MediaConnected)
        await world.request(id=run.session.id)
        await world.make_ready(run.session.id)
        stage = Stage(world, run, caller, client)
        tap = subjects.SESSION_TAP.format(tenant="default", session_id=run.session.id, direction="listen")
        await world.broker.subscribe(tap, stage.keep)
        await world.broker.flush(5)
        yield stage


async def hear(socket: ClientConnection, seconds: float, channels: int = 1) -> np.ndarray:
    """Return what a listener hears, as samples by channel."""
    heard = bytearray()
    async with asyncio.timeout(20):
        while len(heard) < seconds * RATE * 2 * channels:
            message = await socket.recv()
            assert isinstance(message, bytes)
            heard += message
    return np.frombuffer(bytes(heard), dtype="<i2").reshape(-1, channels)


@contextlib.asynccontextmanager
async def talking(stage: Stage) -> AsyncGenerator[None]:
    """Have the caller talk for the time of the block."""

    async def talk() -> None:
        while True:
            await stage.caller.speak(tone(RATE // 5))

    task = asyncio.create_task(talk())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def share_loud(samples: np.ndarray) -> float:
    """Return which share of 10 ms stretches holds sound."""
    frames = samples[: len(samples) // 160 * 160].reshape(-1, 160)
    return float((np.abs(frames).max(axis=1) > 500).mean())


async def test_a_supervisor_hears_both_sides(stage: Stage) -> None:
    """Mixed or side by side; who listens, and until when, is told in the session's events."""
    async with talking(stage):
        mono, stereo = await stage.listen(), await stage.listen(tracks="both")
        both = await hear(stereo, 2.0, channels=2)
        one = await hear(mono, 1.0)
        await mono.close()
        await stereo.close()
    # Half a second at the beginning may have been before the listener came.
    assert share_loud(both[RATE:, 0]) > 0.7
    assert share_loud(both[RATE:, 1]) > 0.7
    assert share_loud(one[-RATE // 2 :, 0]) > 0.7
    assert len(await until_events(stage.run, "listener_joined", 2)) == 2
    left = await until_events(stage.run, "listener_left", 2)
    assert {event.data["why"] for event in left} == {"left"}
    assert len({event.data["by"] for event in left}) == 1


async def test_a_call_that_nobody_listens_to_publishes_nothing(stage: Stage) -> None:
    """Live audio flows while somebody listens, and ends with the last one."""
    await stage.caller.speak(tone(RATE // 2))
    assert stage.windows == []
    socket = await stage.listen()
    await hear(socket, 0.3)
    assert stage.windows
    await socket.close()
    await until_events(stage.run, "listener_left")
    await asyncio.sleep(0.3)
    count = len(stage.windows)
    await stage.caller.speak(tone(RATE // 2))
    await asyncio.sleep(0.3)
    assert len(stage.windows) == count


async def test_a_supervisor_speaks_into_the_call(stage: Stage) -> None:
    """With `barge_in` his voice is heard by the caller, the bot is dropped meanwhile, and speaks again after."""
    socket = await stage.listen(barge_in=True)
    async with talking(stage):
        await stage.caller.until_heard(0.3)
        for _ in range(10):
            await socket.send(tone(RATE // 10, 1000))
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.2)
        samples = np.frombuffer(bytes(stage.caller.audio), dtype="<i2")[-RATE // 2 :]
        spectrum = np.abs(np.fft.rfft(samples))
        assert abs(spectrum.argmax() * RATE / len(samples) - 1000) < 20

        async def again() -> int:
            samples = np.frombuffer(bytes(stage.caller.audio), dtype="<i2")[-RATE // 4 :]
            return int(np.abs(np.fft.rfft(samples)).argmax() * RATE / len(samples))

        assert await eventually(again, lambda hertz: abs(hertz - 200) < 20)
    await socket.close()
    [joined] = await events_of(stage.run, "listener_joined")
    assert joined.data["barge_in"] is True
    # One stretch of speech is told once, with the key that opened the door.
    [spoke] = await events_of(stage.run, "listener_spoke")
    assert spoke.data["listeners"] == [{"listener_id": joined.data["listener_id"], "by": joined.data["by"]}]
    assert spoke.data["at_ms"] >= joined.data["at_ms"]


async def test_a_listener_without_leave_to_speak_is_sent_away(stage: Stage) -> None:
    """Whoever sends audio without `barge_in` is closed, and nothing of it is heard."""
    socket = await stage.listen()
    await socket.send(tone(RATE // 10, 1000))
    with pytest.raises(ConnectionClosed) as closed:
        await hear(socket, 30)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "barge-in-not-allowed")
    assert not any(stage.caller.audio)


async def test_a_ticket_opens_one_socket_and_nothing_else(stage: Stage) -> None:
    """Used once it is worth nothing; it never opens the media socket."""
    url = (await stage.client.post(stage.path)).json()["url"]
    with pytest.raises(InvalidStatus) as refused:
        await connect(url.replace("/v1/listen/", "/v1/media/"))
    assert refused.value.response.status_code == 403
    socket = await connect(url)
    with pytest.raises(InvalidStatus) as refused:
        await connect(url)
    assert refused.value.response.status_code == 403
    assert b"listen-ticket-invalid" in refused.value.response.body
    await socket.close()


async def test_listening_needs_its_scopes(stage: Stage) -> None:
    """No other scope brings listening along; speaking into the call needs its own."""
    for scopes, plain, barging in (
        (("sessions:read", "sessions:write", "sessions:control"), 403, 403),
        (("sessions:listen",), 201, 403),
        (("sessions:listen", "sessions:barge_in"), 201, 201),
    ):
        async with stage.world.client(*scopes) as client:
            assert (await client.post(stage.path)).status_code == plain
            assert (await client.post(stage.path, json={"barge_in": True})).status_code == barging


async def test_a_listener_ends_with_the_session(stage: Stage) -> None:
    """The socket is closed with how the session ended; there is nothing to listen to afterwards."""
    socket = await stage.listen()
    await hear(socket, 0.2)
    stage.run.stop()
    await stage.run.expect(Finished)
    await stage.world.advance(
        stage.run.session.id, Ended(by="runner", epoch=1, outcome=Outcome.COMPLETED, reason="client-stop")
    )
    with pytest.raises(ConnectionClosed) as closed:
        await hear(socket, 60)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1000, "client-stop")
    [left] = await events_of(stage.run, "listener_left")
    assert left.data["why"] == "session-ended"
    assert problem_of(await stage.client.post(stage.path))["code"] == "session-not-live"


async def test_a_listener_that_reads_nothing_costs_the_call_nothing(stage: Stage) -> None:
    """The caller's echo stays whole while a listener takes no byte."""
    socket = await stage.listen(tracks="both")
    socket.transport.pause_reading()
    await stage.caller.speak(tone(2 * RATE))
    await stage.caller.until_heard(1.9)
    assert share_loud(np.frombuffer(bytes(stage.caller.audio), dtype="<i2").reshape(-1, 1)) > 0.95
    socket.transport.resume_reading()
    await socket.close()
