"""Clients of Pipecat against the api, by what they send and read: `/start`, Pipecat Cloud's start, and `/join`."""

from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from greenroom.common import messages, subjects
from greenroom.common.broker import Message
from greenroom.common.lifecycle import Session
from greenroom.common.peer_messages import OfferPeer, PeerAnswered, PeerCandidates
from tests.support.api_scheduler import LeadingScheduler, refuses
from tests.support.api_world import ApiWorld, FakeProcess, problem_of, running_api, until
from tests.support.daily_stub import DailyStub

SDP = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\n"
STUN = "stun:stun.example.org:3478"
CLOUD = "/v1/public/echo/start"


@pytest.fixture
async def world(nats_url: str, database: str, daily: DailyStub) -> AsyncGenerator[ApiWorld]:
    """A running api with one agent, which takes what Pipecat's clients speak."""
    settings: dict[str, Any] = {
        "daily_api_key": daily.key,
        "daily_api_url": daily.url,
        "ice_servers": (STUN,),
        "turn_urls": ("turn:turn.example.org:3478",),
        "turn_secret": "north",
    }
    async with running_api(nats_url, database, first=False, **settings) as running:
        await running.add_agent(transports=["websocket", "daily", "smallwebrtc"])
        yield running


@pytest.fixture
async def client(world: ApiWorld) -> AsyncGenerator[httpx.AsyncClient]:
    """A client with a key that may ask for sessions and nothing else, as pages of Pipecat Cloud have."""
    async with world.client("sessions:write") as given:
        yield given


async def session_of(world: ApiWorld, response: httpx.Response) -> Session:
    """Return the session that an answer names."""
    assert response.status_code == 200, response.text
    entry = await world.ledger.last("default", response.headers["location"].rpartition("/")[2])
    assert entry is not None
    return entry.session


# ---------------------------------------------------------------------------- each transport


async def test_a_websocket_client_connects_where_the_answer_says(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """Its transport refuses an answer with more than the URL and a token; the session's id is in the header."""
    started = await client.post("/start", json={"transport": "websocket", "body": {"language": "en"}})
    session = await session_of(world, started)
    assert list(started.json()) == ["wsUrl"]
    assert (session.agent, session.transport, session.body) == ("echo", "websocket", {"language": "en"})
    await world.make_ready(session.id)
    async with FakeProcess(world, session.id, echo=True), connect(started.json()["wsUrl"]) as socket:
        await socket.send(b"hello")
        assert await socket.recv() == b"hello"


async def test_a_daily_client_gets_the_room_and_its_token(
    world: ApiWorld, client: httpx.AsyncClient, daily: DailyStub
) -> None:
    """`createDailyRoom` says the transport; the room and the user's token are as they were asked for."""
    wish = {
        "createDailyRoom": True,
        "dailyRoomProperties": {"enable_recording": "cloud", "start_video_off": False, "eject_at_room_exp": True},
        "dailyMeetingTokenProperties": {
            "user_name": "Ada",
            "nbf": 1700000000,
            "permissions": {"canSend": ["audio"], "canReceive": {"base": False, "byUserId": {"bot": True}}},
        },
        "body": {"foo": "bar"},
    }
    started = await client.post(CLOUD, json=wish)
    session, answer = await session_of(world, started), started.json()
    room = daily.rooms[f"gr-{session.id}"]
    assert sorted(answer) == ["dailyRoom", "dailyToken", "sessionId"]
    assert (answer["dailyRoom"], answer["sessionId"]) == (room["url"], session.id)
    assert (session.transport, session.body) == ("daily", {"foo": "bar"})
    config = room["config"]
    assert (config["enable_recording"], config["start_video_off"]) == ("cloud", False)
    token = daily.tokens[-1]
    assert token["nbf"] == 1700000000
    assert token["permissions"] == {
        "hasPresence": True,
        "canSend": ["audio"],
        "canReceive": {"base": False, "byUserId": {"bot": True}},
        "canAdmin": False,
    }


@pytest.mark.parametrize(
    ("start", "offer"),
    [("/start", "/sessions/{}/api/offer"), (CLOUD, "/v1/public/echo/sessions/{}/api/offer")],
)
async def test_a_webrtc_client_sends_its_offer_beside_where_it_started(
    world: ApiWorld, client: httpx.AsyncClient, start: str, offer: str
) -> None:
    """It has nothing but `sessionId`, the address it started at, and the headers it started with."""
    started = await client.post(start, json={"enableDefaultIceServers": True, "body": {"language": "en"}})
    session, answer = await session_of(world, started), started.json()
    assert (session.transport, answer["sessionId"]) == ("smallwebrtc", session.id)
    stun, turn = answer["iceConfig"]["iceServers"]
    # A browser takes no `null` for what a server doesn't have.
    assert stun == {"urls": [STUN]}
    assert sorted(turn) == ["credential", "urls", "username"]
    url = start.replace("/start", f"/sessions/{answer['sessionId']}/api/offer")
    assert url == offer.format(session.id)
    await world.make_ready(session.id)
    asked: list[OfferPeer | PeerCandidates] = []

    async def on_offer(message: Message) -> bytes:
        asked.append(messages.decode(message.data, OfferPeer))
        return messages.encode(PeerAnswered(pc_id="pc-1", sdp="v=0 answer"))

    async def on_ice(message: Message) -> bytes:
        asked.append(messages.decode(message.data, PeerCandidates))
        return messages.encode(PeerAnswered(pc_id="pc-1", sdp=""))

    for kind, responder in (("offer", on_offer), ("ice", on_ice)):
        await world.broker.serve(
            subjects.SESSION_CMD.format(tenant="default", session_id=session.id, name=kind), responder
        )
    await world.broker.client.flush()
    told = {"sdp": SDP, "type": "offer", "pc_id": None, "restart_pc": False, "requestData": {"page": 1}}
    answered = await client.post(url, json=told)
    assert (answered.status_code, answered.json()) == (200, {"sdp": "v=0 answer", "type": "answer", "pc_id": "pc-1"})
    found = {"candidate": "candidate:1 1 UDP 1 127.0.0.1 9 typ host", "sdp_mid": "0", "sdp_mline_index": 0}
    added = await client.patch(url, json={"pc_id": "pc-1", "candidates": [found]})
    assert (added.status_code, added.json()) == (200, {"status": "success"})
    first, second = asked
    assert isinstance(first, OfferPeer)
    assert isinstance(second, PeerCandidates)
    assert (first.request_data, second.candidates[0].sdp_mid) == ({"page": 1}, "0")
    async with httpx.AsyncClient(base_url=world.url) as stranger, world.client(tenant="other") as other:
        assert (await stranger.post(url, json=told)).status_code == 401
        assert (await other.post(url, json=told)).status_code == 404
    assert problem_of(await client.post(url, json={"type": "offer"}))["code"] == "invalid-body"


async def test_a_key_that_starts_sessions_reaches_no_other_route_of_a_bot(
    world: ApiWorld, client: httpx.AsyncClient
) -> None:
    """What browsers may have isn't what steers a bot; and an offer goes to sessions of that agent only."""
    session = await session_of(world, await client.post("/start"))
    await world.make_ready(session.id)
    own = f"/v1/public/echo/sessions/{session.id}"
    for method, path in (("POST", "/say"), ("GET", "/api/offer"), ("POST", "/api/offer/more")):
        assert problem_of(await client.request(method, own + path))["code"] == "forbidden"
    other = await client.post(f"/v1/public/desk/sessions/{session.id}/api/offer", json={"sdp": SDP, "type": "offer"})
    assert problem_of(other)["code"] == "session-not-found"


# ---------------------------------------------------------------------------- as any other request


async def test_an_empty_request_starts_the_only_agent_over_webrtc(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """As under the development runner; with several agents one has to be named."""
    assert (await session_of(world, await client.post("/start"))).transport == "smallwebrtc"
    await world.add_agent("desk")
    refused = problem_of(await client.post("/start", json={"transport": "websocket"}))
    assert (refused["code"], refused["errors"][0]["pointer"]) == ("invalid-body", "/agent")
    named = await client.post("/start", json={"transport": "websocket", "agent": "desk"})
    assert (await session_of(world, named)).agent == "desk"


async def test_a_start_that_is_repeated_is_one_session(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """`Idempotency-Key` holds here too, and over both ways to ask for the same."""
    wish, headers = {"transport": "websocket", "body": {"a": 1}}, {"idempotency-key": "once"}
    first = await client.post("/start", json=wish, headers=headers)
    second = await client.post(CLOUD, json=wish, headers=headers)
    assert (await session_of(world, first)).id == (await session_of(world, second)).id
    assert second.headers["idempotent-replayed"] == "true"
    assert first.json() == second.json()
    other = await client.post("/start", json={**wish, "body": {"a": 2}}, headers=headers)
    assert problem_of(other)["code"] == "idempotency-mismatch"


@pytest.mark.parametrize(
    ("wish", "status", "code", "pointer"),
    [
        ({"transport": "vonage"}, 400, "transport-not-offered", "/transport"),
        ({"transport": "twilio"}, 400, "transport-not-offered", "/transport"),
        ({"transport": "livekit"}, 400, "transport-not-offered", "/transport"),
        ({"createDailyRooms": True}, 422, "unknown-field", "/createDailyRooms"),
        ({"createDailyRoom": "yes"}, 422, "invalid-body", "/createDailyRoom"),
        ({"transport": "daily", "createDailyRoom": False}, 422, "invalid-body", "/createDailyRoom"),
        (
            {"createDailyRoom": True, "dailyRoomProperties": {"exp": 1}},
            422,
            "unknown-field",
            "/dailyRoomProperties/exp",
        ),
        (
            {"createDailyRoom": True, "dailyRoomProperties": {"enable_prejoin_ui": True}},
            422,
            "invalid-body",
            "/dailyRoomProperties/enable_prejoin_ui",
        ),
        (
            {"createDailyRoom": True, "dailyRoomProperties": {"eject_at_room_exp": False}},
            422,
            "invalid-body",
            "/dailyRoomProperties/eject_at_room_exp",
        ),
        (
            {"createDailyRoom": True, "dailyMeetingTokenProperties": {"is_owner": True}},
            422,
            "invalid-body",
            "/dailyMeetingTokenProperties/is_owner",
        ),
        ({"body": "text"}, 422, "invalid-body", "/body"),
    ],
)
async def test_what_can_not_be_meant_is_refused(
    client: httpx.AsyncClient, wish: dict[str, Any], status: int, code: str, pointer: str
) -> None:
    """As problems, with a pointer into what was sent."""
    problem = problem_of(await client.post(CLOUD, json=wish))
    assert (problem["status"], problem["code"]) == (status, code)
    assert [each["pointer"] for each in problem["errors"]] == [pointer]


async def test_the_status_names_the_transports_that_are_set_up(world: ApiWorld) -> None:
    """Those of this installation, by our names."""
    async with world.client("sessions:read") as looker:
        assert (await looker.get("/v1/status")).json()["transports"] == ["daily", "smallwebrtc", "websocket"]


@pytest.mark.parametrize("key", [{}, {"idempotency-key": "once"}])
async def test_limits_and_busy_rooms_refuse_here_too(
    world: ApiWorld, client: httpx.AsyncClient, daily: DailyStub, key: dict[str, str]
) -> None:
    """With the scheduler's own words, and when to come again; a repeated request hears them again."""
    url = daily.add_room("standup")
    async with world.client() as operator:
        limit = {"scope": "tenant", "max_sessions": 20, "at_limit": "refuse"}
        assert (await operator.put("/v1/limits/l", json=limit)).status_code == 200
    await until(lambda: world.parts.policy.current.limits)
    async with LeadingScheduler(world.broker, decide=refuses("limit-reached", 13.2)):
        for replayed in ("", "true" if key else ""):
            refused = await client.post("/start", json={"transport": "websocket"}, headers=key)
            assert problem_of(refused)["code"] == "limit-reached"
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "14")
            assert refused.headers.get("idempotent-replayed", "") == replayed
    async with LeadingScheduler(world.broker, decide=refuses("room-busy")):
        busy = await client.post("/join", json={"room_url": url})
    assert (busy.status_code, problem_of(busy)["code"]) == (409, "room-busy")


async def test_a_start_has_the_auth_of_any_request(world: ApiWorld, client: httpx.AsyncClient) -> None:
    """No key, a key that only looks; an agent that isn't there, a transport that nobody set up, no JSON."""
    async with httpx.AsyncClient(base_url=world.url) as stranger, world.client("sessions:read") as looker:
        assert problem_of(await stranger.post("/start"))["code"] == "unauthenticated"
        assert problem_of(await looker.post(CLOUD, json={}))["code"] == "forbidden"
    assert problem_of(await client.post("/v1/public/nobody/start", json={}))["code"] == "agent-not-found"
    await world.add_agent("rooms", transports=["livekit"])
    wish = {"transport": "livekit"}
    assert problem_of(await client.post("/v1/public/rooms/start", json=wish))["code"] == "transport-not-offered"
    broken = await client.post("/start", content=b"{", headers={"content-type": "application/json"})
    assert problem_of(broken)["code"] == "malformed-json"


# ---------------------------------------------------------------------------- /join


async def test_a_join_brings_a_room(world: ApiWorld, client: httpx.AsyncClient, daily: DailyStub) -> None:
    """The bot gets what the body says of it; the room's own token of the caller is nowhere."""
    url = daily.add_room("standup")
    wish = {
        "room_url": url,
        "tenantId": "default",
        "persona": "receptionist",
        "token": "not ours",
        "voiceParameters": {"speed": 1.1, "maxCallDuration": 600},
        "supportedFeatures": ["notes"],
        "sessionUserId": "u-1042",
        "debugTraceId": "t-1",
    }
    joined = await client.post("/join", json=wish)
    session = await session_of(world, joined)
    assert joined.json() == {
        "status": "queued",
        "session_id": session.id,
        "room_url": url,
        "debugTraceId": "t-1",
    }
    assert session.body == {
        field: value for field, value in wish.items() if field not in {"room_url", "tenantId", "token"}
    }
    assert (session.transport, session.limits.max_duration_s) == ("daily", 600)
    assert (session.room or "").endswith("/standup")
    assert session.user == "u-1042"


@pytest.mark.parametrize(
    ("wish", "code", "pointer"),
    [
        ({"persona": "x"}, "invalid-body", ""),
        ({"room_url": "https://x.daily.co/y", "roomUrl": "z"}, "unknown-field", "/roomUrl"),
        ({"room_url": "https://x.daily.co/y", "tenantId": "acme"}, "invalid-body", "/tenantId"),
        (
            {"room_url": "https://x.daily.co/y", "voiceParameters": {"maxCallDuration": 0}},
            "invalid-body",
            "/voiceParameters/maxCallDuration",
        ),
        ({"room_url": "standup"}, "invalid-body", "/room_url"),
        ({"room_url": "https://x.daily.co/nowhere"}, "room-not-found", "/room_url"),
    ],
)
async def test_a_join_that_can_not_be_meant_is_refused(
    client: httpx.AsyncClient, wish: dict[str, Any], code: str, pointer: str
) -> None:
    """As problems, with a pointer into what was sent."""
    problem = problem_of(await client.post("/join", json=wish))
    assert (problem["status"], problem["code"]) == (422, code)
    assert [each["pointer"] for each in problem["errors"]] == [pointer]
