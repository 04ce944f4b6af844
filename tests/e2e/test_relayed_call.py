"""Calls of clients that reach nobody but a TURN server: coturn, with credentials that the api has made."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from aioice import stun, turn
from aiortc import RTCConfiguration, RTCIceServer, RTCIceTransportPolicy

from greenroom.api.ice import IceServers
from greenroom.common.clock import utcnow
from tests.support.coturn import Coturn, coturn
from tests.support.rtc_caller import RtcCaller, over_http
from tests.support.stack import RunningStack, running_stack, wait_for_session

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

SECRET = "north"
LIFETIME = timedelta(hours=1)
UNAUTHORIZED = 401


@pytest.fixture(scope="module")
async def relay(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Coturn]:
    """A TURN server."""
    async with coturn(tmp_path_factory.mktemp("coturn"), secret=SECRET) as server:
        yield server


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory, relay: Coturn) -> AsyncIterator[RunningStack]:
    """A stack that offers this relay to its callers."""
    settings = {
        "GREENROOM_RTC_ADDRESSES": "127.0.0.1",
        "GREENROOM_TURN_URLS": ",".join(relay.urls),
        "GREENROOM_TURN_SECRET": SECRET,
        "GREENROOM_TURN_LIFETIME_S": str(LIFETIME.total_seconds()),
    }
    async with running_stack(tmp_path_factory.mktemp("relayed"), **settings) as running:
        yield running


def through(servers: list[dict[str, Any]], transport: str) -> RTCConfiguration:
    """Return what has a client use relays alone, over UDP or TCP, of those that the api has named."""
    allowed = [
        RTCIceServer(
            urls=[url for url in server["urls"] if url.endswith(f"?transport={transport}")],
            username=server.get("username"),
            credential=server.get("credential"),
        )
        for server in servers
    ]
    return RTCConfiguration(iceServers=allowed, iceTransportPolicy=RTCIceTransportPolicy.RELAY)


def candidates(sdp: str) -> list[str]:
    """Return the types of the candidates in a description."""
    return [line.split(" typ ", 1)[1].split()[0] for line in sdp.splitlines() if line.startswith("a=candidate")]


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_call_through_a_relay(stack: RunningStack, relay: Coturn, transport: str) -> None:
    """A client that has no other way gets in with what the api has told it, hears the bot, and hangs up in order."""
    async with stack.client() as client:
        session = await client.post(
            "/v1/sessions", {"agent": "frontdesk", "transport": "smallwebrtc", "wait": "ready", "wait_timeout_s": 30}
        )
        way = session["transport"]
        configuration = through(way["ice_servers"], transport)
        async with RtcCaller(over_http(way["url"], way["token"]), configuration) as caller:
            await caller.connect()
            assert set(candidates(caller.pc.localDescription.sdp)) == {"relay"}
            await caller.until_heard(0.5)
            await caller.hang_up()
        ended = await wait_for_session(client, session["id"])
    assert (ended["outcome"], ended["reason"]) == ("completed", "client-left")
    # Users of the relay are sessions, so that its log says whose traffic it was.
    (named,) = [server["username"] for server in way["ice_servers"]]
    assert named.endswith(f":{session['id']}")
    assert f"user <{named}>: incoming packet ALLOCATE processed, success" in relay.log


async def test_without_good_credentials_there_is_no_way(stack: RunningStack) -> None:
    """Who may use relays alone and shows a wrong password finds no way at all: the relay isn't open to anybody."""
    async with stack.client() as client:
        session = await client.post(
            "/v1/sessions", {"agent": "frontdesk", "transport": "smallwebrtc", "wait": "ready", "wait_timeout_s": 30}
        )
        servers = [{**server, "credential": "guessed"} for server in session["transport"]["ice_servers"]]
        async with RtcCaller(over_http(session["transport"]["url"]), through(servers, "udp")) as caller:
            assert candidates((await caller.offer())["sdp"]) == []
        await client.post(f"/v1/sessions/{session['id']}/stop", {})


async def allocate(relay: Coturn, *, secret: str = SECRET, asked_at: datetime | None = None, user: str = "") -> int:
    """Ask a relay for an address with credentials of the api; return the port, which is given back.

    Args:
        relay: of whom.
        secret: what the api believes to share with it.
        asked_at: when the api was asked.
        user: a name that is shown instead of the one that belongs to the password.
    """
    [server] = IceServers((), relay.urls, secret, LIFETIME).for_user("a-session", asked_at or utcnow())
    transport, _ = await turn.create_turn_endpoint(
        asyncio.DatagramProtocol, relay.address, username=user or server.username, password=server.credential
    )
    try:
        port: int = transport.get_extra_info("sockname")[1]
    finally:
        transport.close()
    return port


async def test_credentials_are_good_until_they_expire(relay: Coturn) -> None:
    """Asked for a minute less than their lifetime ago they are taken; a minute more and they are refused."""
    minute = timedelta(minutes=1)
    assert await allocate(relay, asked_at=utcnow() - LIFETIME + minute) > 0
    with pytest.raises(stun.TransactionFailed) as refused:
        await allocate(relay, asked_at=utcnow() - LIFETIME - minute)
    assert refused.value.response.error_code == UNAUTHORIZED


async def test_wrong_credentials_are_refused(relay: Coturn) -> None:
    """Those of another secret, and those whose time somebody has put off, don't fit."""
    later = f"{round((utcnow() + timedelta(days=30)).timestamp())}:a-session"
    for wrong in (allocate(relay, secret="south"), allocate(relay, user=later)):
        with pytest.raises(stun.TransactionFailed) as refused:
            await wrong
        assert refused.value.response.error_code == UNAUTHORIZED
