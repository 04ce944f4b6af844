"""The media edge on a real broker: a client on one side, a fake session process on the other."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from greenroom.api.media_protocol import MediaProtocol
from greenroom.common import media_frames as frames
from greenroom.common import subjects
from greenroom.common.lifecycle import Ending, Leased, OnLoss, Outcome, Ready, Requeued, Started
from greenroom.common.media_frames import Join
from greenroom.devtools.embedded.nats import EmbeddedNats
from tests.support.api_world import PATIENCE_S, ApiWorld, FakeProcess, eventually, running_api, until


@pytest.fixture
async def world(nats_url: str, database: str) -> AsyncGenerator[ApiWorld]:
    """A running api with the agent `echo`."""
    async with running_api(nats_url, database) as running:
        yield running


async def ask(world: ApiWorld, *, ready: bool = True, **wish: Any) -> dict[str, Any]:
    """Return a session that was asked for, and is ready unless told otherwise."""
    async with world.client() as client:
        session = (await client.post("/v1/sessions", json={"agent": "echo", **wish})).json()
    if ready:
        await world.make_ready(session["id"])
    return session


async def refusal(url: str, **options: Any) -> dict[str, Any]:
    """Return the problem with which a handshake is refused."""
    with pytest.raises(InvalidStatus) as refused:
        async with connect(url, **options):
            pass
    response = refused.value.response
    assert response.headers["content-type"] == "application/problem+json"
    ticket = url.rpartition("/")[2]
    assert not ticket or ticket.encode() not in response.body
    problem = msgspec.json.decode(response.body, type=dict[str, Any])
    assert problem["status"] == response.status_code
    return problem


async def close_of(client: ClientConnection) -> tuple[int, str]:
    """Return how the server closes a connection."""
    with contextlib.suppress(ConnectionClosed):
        async with asyncio.timeout(PATIENCE_S):
            while True:
                await client.recv()
    return client.close_code or 0, client.close_reason or ""


# ---------------------------------------------------------------------------- in and out


async def test_frames_go_both_ways_in_order(world: ApiWorld) -> None:
    """Text and bytes arrive as what they are, numbered from 0, and the bot sees the handshake without its secrets."""
    session = await ask(world)
    headers = {"Cookie": "a=b", "Authorization": "Bearer x", "X-Caller": "4711"}
    url = session["transport"]["url"] + "?lang=en"
    async with FakeProcess(world, session["id"], echo=True) as process:
        async with connect(url, additional_headers=headers) as client:
            said = [b"\x00\x01", "grüße", b"x" * 640, ""]
            for payload in said:
                await client.send(payload)
            assert [await client.recv() for _ in said] == said
        await until(lambda: process.closes)
    assert [number for _, number, _ in process.heard] == [0, 1, 2, 3, 4]
    assert process.closes == [frames.Close(code=1000)]
    assert process.connects[0].query == {"lang": "en"}
    assert process.connects[0].headers["x-caller"] == "4711"
    assert not {"cookie", "authorization", "sec-websocket-key"} & process.connects[0].headers.keys()


async def test_a_client_is_read_for_as_many_frames_as_its_process_wants_at_once(
    world: ApiWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel wakes the api for the third frame of 20 ms, not for each; for whom that isn't asked, for each."""
    opened: list[MediaProtocol] = []
    begin = MediaProtocol.connection_made
    monkeypatch.setattr(
        MediaProtocol, "connection_made", lambda self, transport: (opened.append(self), begin(self, transport))[1]
    )
    session = await ask(world)
    frame = b"x" * 640
    async with FakeProcess(world, session["id"]) as process, connect(session["transport"]["url"]) as client:
        own = opened[-1].transport.get_extra_info("socket")
        marks: set[int] = set()
        for wished in (False, True):
            if wished:
                wish = frames.encode_join(0, Join(messages=3, hold_ms=60))
                await process.send(wish[frames.HEAD.size :], kind=frames.JOIN)
            marks.clear()
            for _ in range(12):
                await client.send(frame)
                await asyncio.sleep(0.02)
                marks.add(own.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT))
            # Two frames with their heads, and a byte of the third.
            assert (2 * (len(frame) + 8) + 1 in marks) is wished
        await until(lambda: sum(payload.count(frame) for payload in process.payloads) == 24)


async def test_a_ticket_is_good_for_one_connection(world: ApiWorld) -> None:
    """Used, unknown and malformed tickets are refused before the upgrade."""
    session = await ask(world)
    url = session["transport"]["url"]
    async with FakeProcess(world, session["id"]):
        async with connect(url):
            assert (await refusal(url))["code"] == "ticket-used"
        assert (await refusal(url))["code"] == "ticket-used"
    base = url.rpartition("/")[0]
    for ticket in ("A" * 43, "short", "some/thing", "%2e%2e%2f", ""):
        assert (await refusal(f"{base}/{ticket}"))["code"] == "ticket-invalid"
    assert (await refusal(base.removesuffix("media") + "other"))["code"] == "not-found"


async def test_of_two_who_show_one_ticket_one_gets_in(world: ApiWorld) -> None:
    """Single use holds also when both come at the same time."""
    session = await ask(world)
    async with FakeProcess(world, session["id"]) as process:
        results = await asyncio.gather(
            *(connect(session["transport"]["url"]) for _ in range(5)), return_exceptions=True
        )
        inside = [result for result in results if isinstance(result, ClientConnection)]
        assert len(inside) == 1
        assert len(process.connects) == 1
        await inside[0].close()


async def test_a_long_url_opens_nothing_and_costs_no_ticket(world: ApiWorld) -> None:
    """What comes in the URL is the bot's to read, up to 4,096 bytes; the ticket is good for a shorter one."""
    session = await ask(world)
    url = session["transport"]["url"]
    problem = await refusal(f"{url}?about={'x' * 4096}")
    assert (problem["status"], problem["code"]) == (413, "body-too-large")
    async with FakeProcess(world, session["id"]) as process, connect(f"{url}?about={'x' * 4090}"):
        await until(lambda: process.connects)
    assert len(process.connects[0].query["about"]) == 4090


async def test_an_expired_ticket_is_refused(world: ApiWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """After five minutes a ticket opens nothing."""
    monkeypatch.setattr("greenroom.api.tickets.LIFETIME_S", -1.0)
    session = await ask(world)
    assert (await refusal(session["transport"]["url"]))["code"] == "ticket-invalid"


async def test_a_client_waits_for_its_session(world: ApiWorld) -> None:
    """The handshake is held until the session is ready, and its process answers."""
    session = await ask(world, ready=False)
    connecting = asyncio.ensure_future(connect(session["transport"]["url"], open_timeout=10).__aenter__())
    await asyncio.sleep(0.2)
    assert not connecting.done()
    async with FakeProcess(world, session["id"]) as process:
        await world.make_ready(session["id"])
        client = await asyncio.wait_for(connecting, 3)
        await client.send(b"hello")
        await until(lambda: process.payloads == [b"hello"])
        await client.close()


async def test_a_client_that_gives_up_waiting_leaves_the_ticket_good(world: ApiWorld) -> None:
    """Hanging up at the door uses nothing."""
    session = await ask(world, ready=False)
    with pytest.raises(TimeoutError):
        async with connect(session["transport"]["url"], open_timeout=0.2):
            pass
    await world.make_ready(session["id"])
    async with FakeProcess(world, session["id"]), connect(session["transport"]["url"]):
        pass


async def test_a_session_that_is_not_ready_in_time_is_told(nats_url: str, database: str) -> None:
    """At the end of its patience the edge says so, and the ticket stays good."""
    async with running_api(nats_url, database, media_hold_s=0.2) as world:
        session = await ask(world, ready=False)
        problem = await refusal(session["transport"]["url"])
        assert (problem["status"], problem["code"], problem["retryable"]) == (503, "session-not-ready", True)
        await world.make_ready(session["id"])
        async with FakeProcess(world, session["id"]), connect(session["transport"]["url"]):
            pass


async def test_a_ticket_is_given_back_when_the_process_does_not_answer(
    world: ApiWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ready by the ledger, but nobody there: the client may try again with the same ticket."""
    monkeypatch.setattr("greenroom.api.edge._CONNECT_S", 0.2)
    session = await ask(world)
    assert (await refusal(session["transport"]["url"]))["code"] == "session-not-ready"
    async with FakeProcess(world, session["id"]), connect(session["transport"]["url"]):
        pass


async def test_who_comes_too_late_is_told(world: ApiWorld) -> None:
    """A session that is over takes nobody; so does one that ends while its client waits at the door."""
    session = await ask(world)
    await world.end(session["id"])
    assert (await refusal(session["transport"]["url"]))["code"] == "session-ended"
    waiting = await ask(world, ready=False)
    knocking = asyncio.create_task(refusal(waiting["transport"]["url"]))
    await asyncio.sleep(0.1)
    async with world.client() as client:
        await client.post(f"/v1/sessions/{waiting['id']}/stop")
    assert (await knocking)["code"] == "session-ended"


@pytest.mark.parametrize(
    ("code", "status", "told"),
    [
        ("media-already-connected", 409, "media-already-connected"),
        ("session-ended", 409, "session-ended"),
        ("something-new", 502, "media-not-taken"),
    ],
)
async def test_a_refusal_of_the_process_is_told(world: ApiWorld, code: str, status: int, told: str) -> None:
    """The process has the last word on who gets in."""
    session = await ask(world)
    async with FakeProcess(world, session["id"], refuse=code):
        problem = await refusal(session["transport"]["url"])
    assert (problem["status"], problem["code"]) == (status, told)


async def test_pages_of_other_origins_stay_outside(nats_url: str, database: str) -> None:
    """With a list of origins, a browser's page must be on it; what is no browser needs the ticket only."""
    async with running_api(nats_url, database, allowed_origins=("https://app.example.org",)) as world:
        session = await ask(world)
        url = session["transport"]["url"]
        assert (await refusal(url, origin="https://evil.example.org"))["code"] == "forbidden"
        async with FakeProcess(world, session["id"]), connect(url, origin=Origin("https://app.example.org")):
            pass


async def test_a_full_edge_says_so(nats_url: str, database: str) -> None:
    """One more than it may hold is sent elsewhere, with a ticket that is still good."""
    async with running_api(nats_url, database, media_max_connections=1) as world:
        first, second = await ask(world), await ask(world)
        async with FakeProcess(world, first["id"]), FakeProcess(world, second["id"]):
            async with connect(first["transport"]["url"]):
                assert (await refusal(second["transport"]["url"]))["code"] == "edge-full"
            await until(lambda: world.parts.media.guests == 0)
            async with connect(second["transport"]["url"]):
                pass


# ---------------------------------------------------------------------------- closing


async def test_the_bot_closes_with_its_own_words(world: ApiWorld) -> None:
    """Code and reason of the process reach the client, behind everything that was said before."""
    session = await ask(world)
    async with FakeProcess(world, session["id"]) as process, connect(session["transport"]["url"]) as client:
        await process.send(b"goodbye")
        await process.close(4242, "that was all")
        assert await client.recv() == b"goodbye"
        assert await close_of(client) == (4242, "that was all")


@pytest.mark.parametrize(
    ("outcome", "reason", "code"),
    [
        (Outcome.COMPLETED, "goodbye", 1000),
        (Outcome.FAILED, "process-killed", 1011),
        (Outcome.LOST, "runner-lost", 1011),
        (Outcome.EXPIRED, "nobody-joined", 4004),
    ],
)
async def test_the_end_of_the_session_closes_the_socket(
    world: ApiWorld, outcome: Outcome, reason: str, code: int
) -> None:
    """When the process says nothing (any more), the ledger does."""
    session = await ask(world)
    async with FakeProcess(world, session["id"]), connect(session["transport"]["url"]) as client:
        await world.end(session["id"], outcome, reason)
        assert await close_of(client) == (code, reason)


async def test_a_session_that_ends_may_finish_its_sentence(world: ApiWorld) -> None:
    """Between `ending` and `ended` audio still flows."""
    session = await ask(world)
    async with FakeProcess(world, session["id"]) as process, connect(session["transport"]["url"]) as client:
        ending = Ending(by="client", epoch=1, outcome=Outcome.COMPLETED, reason="client-stop")
        await world.advance(session["id"], ending)
        await asyncio.sleep(0.1)
        await process.send(b"bye")
        assert await client.recv() == b"bye"


async def test_a_client_that_vanishes_is_reported_to_the_process(world: ApiWorld) -> None:
    """A connection that breaks without a close frame is a close for the process too."""
    session = await ask(world)
    async with FakeProcess(world, session["id"]) as process:
        async with connect(session["transport"]["url"]) as client:
            client.transport.abort()
        await until(lambda: process.closes)


async def test_a_message_that_is_too_large_ends_the_connection(world: ApiWorld) -> None:
    """More than 64 KiB in one message is no audio."""
    session = await ask(world)
    async with FakeProcess(world, session["id"]) as process, connect(session["transport"]["url"]) as client:
        await client.send(b"x" * (64 * 1024 + 1))
        assert (await close_of(client))[0] == 1009
        assert process.payloads == []


async def test_a_client_that_takes_nothing_is_given_up(nats_url: str, database: str) -> None:
    """A stalled client is closed as too slow, its process told, and nothing piles up for it."""
    async with running_api(nats_url, database, media_stall_s=0.5, media_queue_frames=64) as world:
        session = await ask(world)
        async with FakeProcess(world, session["id"]) as process:
            url = httpx.URL(session["transport"]["url"])
            own = socket.socket()
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            own.setblocking(False)  # noqa: FBT003 it has no keyword
            await asyncio.get_running_loop().sock_connect(own, (url.host, url.port))
            async with connect(str(url), sock=own, max_queue=1, close_timeout=0.1) as client:
                client.transport.pause_reading()

                async def flood() -> None:
                    while True:
                        await process.send(b"x" * 4000)
                        await asyncio.sleep(0.002)

                flooding = asyncio.create_task(flood())
                closed = await until(lambda: process.closes)
                flooding.cancel()
                assert (closed[0].code, closed[0].reason) == (4008, "too-slow")
                await until(lambda: world.parts.media.guests == 0)


# ---------------------------------------------------------------------------- losses


async def test_lost_frames_are_counted_and_stale_ones_ignored(world: ApiWorld) -> None:
    """A hole in the numbers is a loss; what an earlier connection left in flight is nothing."""
    session = await ask(world)
    out = subjects.SESSION_MEDIA.format(tenant="default", session_id=session["id"], direction="out")
    async with FakeProcess(world, session["id"]) as process, connect(session["transport"]["url"]) as client:
        await process.send(b"0")
        await process.send(b"4", skip=3)
        await world.broker.publish(out, frames.encode(frames.BINARY, 1, b"late"))
        await world.broker.publish(out, b"no frame")
        await process.send(b"5")
        assert [await client.recv() for _ in range(3)] == [b"0", b"4", b"5"]
    await until(lambda: world.counted("media_frames_lost_total") == 3)


async def test_a_call_survives_a_restart_of_the_broker(own_nats: EmbeddedNats, database: str) -> None:
    """While NATS is away frames are dropped and counted; when it is back the call goes on."""
    async with running_api(own_nats.url, database) as world:
        session = await ask(world)
        async with (
            FakeProcess(world, session["id"], echo=True) as process,
            connect(session["transport"]["url"]) as client,
        ):
            await client.send(b"before")
            assert await client.recv() == b"before"
            await own_nats.kill()
            await until(lambda: not world.parts.broker.connected)
            await client.send(b"during")
            await own_nats.start()
            await until(lambda: world.parts.broker.connected and world.broker.connected)
            await eventually(lambda: echoed(client), lambda answer: answer == b"after")
            assert b"during" not in process.payloads


async def echoed(client: ClientConnection) -> Any:
    """Say `after` and return what comes back, if anything does."""
    await client.send(b"after")
    with contextlib.suppress(TimeoutError):
        return await asyncio.wait_for(client.recv(), 0.5)
    return None


async def test_a_broker_that_stays_away_ends_the_call(own_nats: EmbeddedNats, database: str) -> None:
    """After the grace time the client is told to try again later."""
    async with running_api(own_nats.url, database, media_outage_s=0.5) as world:
        session = await ask(world)
        async with FakeProcess(world, session["id"]), connect(session["transport"]["url"]) as client:
            await own_nats.kill()
            assert await close_of(client) == (1013, "broker-unavailable")
        await own_nats.start()


async def test_a_session_that_is_put_on_another_runner_keeps_its_client(world: ApiWorld) -> None:
    """With `on_loss=always` the socket goes over to the next process, and its numbers begin anew."""
    session = await ask(world, on_loss=OnLoss.ALWAYS)
    async with FakeProcess(world, session["id"]) as first, connect(session["transport"]["url"]) as client:
        await first.send(b"first")
        assert await client.recv() == b"first"
        await first.vanish()
        async with FakeProcess(world, session["id"]) as second:
            await world.advance(
                session["id"],
                Requeued(epoch=1, reason="runner-lost"),
                Leased(runner_id="runner-2", epoch=2, expires_at=(await world.request()).at),
                Started(runner_id="runner-2", epoch=2),
                Ready(epoch=2),
            )
            await until(lambda: second.connects)
            await second.send(b"second")
            assert await client.recv() == b"second"
            await client.send(b"hello again")
            await until(lambda: second.payloads == [b"hello again"])


# ---------------------------------------------------------------------------- draining


async def test_a_drain_waits_for_calls_and_then_says_goodbye(nats_url: str, database: str) -> None:
    """Calls may end by themselves; those that don't are closed with `going away` at the end of the drain."""
    async with running_api(nats_url, database, drain_timeout_s=2.5) as world:
        quick, slow, late = await ask(world), await ask(world), await ask(world)
        async with FakeProcess(world, quick["id"]), FakeProcess(world, slow["id"]) as process:
            async with connect(quick["transport"]["url"]) as first, connect(slow["transport"]["url"]) as second:
                draining = asyncio.create_task(world.parts.media.drain())
                await asyncio.sleep(0)
                assert (await refusal(late["transport"]["url"]))["code"] == "draining"
                await first.close()
                assert not draining.done()
                assert await close_of(second) == (1001, "draining")
                await draining
            assert process.closes[0].code == 1001
