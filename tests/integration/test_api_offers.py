"""Offers of browsers on a real broker: the api on one side, a fake session process on the other."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl

import httpx
import msgspec
import pytest

from greenroom.api import offers
from greenroom.common import messages, subjects
from greenroom.common.broker import Message
from greenroom.common.clock import utcnow
from greenroom.common.messages import Ticket
from greenroom.common.peer_messages import OfferPeer, PeerAnswered, PeerCandidates, PeerRefused, PeerReply
from tests.support.api_world import PATIENCE_S, ApiWorld, problem_of, running_api

SDP = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\n"
ORIGIN = "https://app.example.org"
SETTINGS: dict[str, Any] = {
    "allowed_origins": (ORIGIN,),
    "media_hold_s": 1.0,
    "ice_servers": ("stun:stun.example.org:3478",),
    "turn_urls": ("turn:turn.example.org:3478?transport=udp",),
    "turn_secret": "north",
}


@pytest.fixture
async def world(nats_url: str, database: str) -> AsyncGenerator[ApiWorld]:
    """A running api with an agent that browsers can call, and one that they can't."""
    async with running_api(nats_url, database, **SETTINGS) as running:
        await running.add_agent("browsers", transports=["smallwebrtc"])
        yield running


class Peer:
    """A session process, as far as its offers go."""

    def __init__(self) -> None:
        self.asked: list[OfferPeer | PeerCandidates] = []
        self.reply: PeerReply | None = PeerAnswered(pc_id="pc-1", sdp="v=0 answer")

    async def offer(self, message: Message) -> bytes:
        """Answer an offer."""
        return await self._take(messages.decode(message.data, OfferPeer))

    async def ice(self, message: Message) -> bytes:
        """Answer candidates."""
        return await self._take(messages.decode(message.data, PeerCandidates))

    async def _take(self, request: OfferPeer | PeerCandidates) -> bytes:
        self.asked.append(request)
        if self.reply is None:
            await asyncio.Event().wait()
        assert self.reply is not None
        return messages.encode(self.reply)


@asynccontextmanager
async def peer_of(world: ApiWorld, session_id: str) -> AsyncGenerator[Peer]:
    """Run a session process for the time of the block."""
    peer = Peer()
    serve: dict[str, Callable[[Message], Awaitable[bytes]]] = {"offer": peer.offer, "ice": peer.ice}
    subscriptions = [
        await world.broker.serve(
            subjects.SESSION_CMD.format(tenant="default", session_id=session_id, name=name), responder
        )
        for name, responder in serve.items()
    ]
    await world.broker.client.flush()
    try:
        yield peer
    finally:
        for subscription in subscriptions:
            await subscription.unsubscribe()


async def ask(world: ApiWorld, *, ready: bool = True, agent: str = "browsers", **wish: Any) -> dict[str, Any]:
    """Return a session that was asked for, and is ready unless told otherwise."""
    wish.setdefault("transport", "smallwebrtc")
    async with world.client() as client:
        response = await client.post("/v1/sessions", json={"agent": agent, **wish})
    session = response.json()
    assert response.status_code == 201, session
    if ready:
        await world.make_ready(session["id"])
    return session


async def send(session: dict[str, Any], method: str = "POST", token: str | None = None, **body: Any) -> httpx.Response:
    """Send an offer or candidates as a page does."""
    body = body or {"sdp": SDP, "type": "offer"}
    bearer = session["transport"]["token"] if token is None else token
    headers = {"authorization": f"Bearer {bearer}", "origin": ORIGIN}
    async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
        return await client.request(method, session["transport"]["url"], json=body, headers=headers)


async def code_of(response: httpx.Response) -> tuple[int, str]:
    """Return status and code of a problem."""
    problem = problem_of(response)
    return problem["status"], problem["code"]


# ---------------------------------------------------------------------------- the way in


async def test_the_answer_has_all_that_a_page_needs(world: ApiWorld) -> None:
    """URL, a token that is no key, servers with the session's credentials, a page with all of it; never again."""
    session = await ask(world)
    transport = session["transport"]
    assert transport["url"] == f"{world.url}/v1/sessions/{session['id']}/offer"
    assert transport["token"].startswith("gro_default.")
    assert [server["urls"] for server in transport["ice_servers"]] == [
        list(SETTINGS["ice_servers"]),
        list(SETTINGS["turn_urls"]),
    ]
    assert transport["ice_servers"][1]["username"].endswith(session["id"])
    page, _, fragment = transport["page_url"].partition("#")
    assert page == f"{world.url}/call"
    given = dict(parse_qsl(fragment, strict_parsing=True))
    stun, turn = transport["ice_servers"]
    assert (given["session"], given["token"]) == (session["id"], transport["token"])
    assert msgspec.json.decode(given["ice"]) == [{"urls": stun["urls"]}, turn]
    async with world.client() as client:
        again = (await client.get(f"/v1/sessions/{session['id']}")).json()
        other = (await client.post("/v1/sessions", json={"agent": "echo"})).json()
    assert (again["transport"]["token"], again["transport"]["ice_servers"]) == (None, [])
    # Only who asks is told where, and only of what the page can speak with.
    assert (again["transport"]["page_url"], other["transport"]["page_url"]) == (None, None)


async def test_a_repeated_request_gets_the_same_token_and_another_key_one_of_its_own(world: ApiWorld) -> None:
    """Both tokens open the session, whoever of the tenant repeated the request."""
    wish = {"agent": "browsers", "transport": "smallwebrtc"}
    headers = {"idempotency-key": "once"}
    async with world.client() as client, world.client() as other:
        first, second = [(await client.post("/v1/sessions", json=wish, headers=headers)).json() for _ in range(2)]
        third = (await other.post("/v1/sessions", json=wish, headers=headers)).json()
    assert first["id"] == second["id"] == third["id"]
    assert first["transport"]["token"] == second["transport"]["token"] != third["transport"]["token"]
    await world.make_ready(first["id"])
    async with peer_of(world, first["id"]):
        assert [(await send(session)).status_code for session in (first, third)] == [200, 200]


async def test_offers_and_candidates_reach_the_process_and_its_answer_comes_back(world: ApiWorld) -> None:
    """What Pipecat's clients send arrives as it was sent, with who sent it."""
    session = await ask(world)
    credential = hashlib.sha256(session["transport"]["token"].encode()).hexdigest()
    async with peer_of(world, session["id"]) as peer:
        answered = await send(session, sdp=SDP, type="offer", requestData={"name": "Ada"}, unheard_of=1)
        assert answered.json() == {"sdp": "v=0 answer", "type": "answer", "pc_id": "pc-1"}
        assert answered.headers["access-control-allow-origin"] == ORIGIN
        candidate = {"candidate": "candidate:1 1 udp 1 192.0.2.7 5 typ host", "sdp_mid": "0", "sdp_mline_index": 0}
        taken = await send(session, "PATCH", pc_id="pc-1", candidates=[candidate])
        assert taken.json() == {"status": "success"}
    offer, candidates = peer.asked
    assert isinstance(offer, OfferPeer)
    assert (offer.sdp, offer.credential, offer.may_open) == (SDP, credential, True)
    assert offer.request_data == {"name": "Ada"}
    assert isinstance(candidates, PeerCandidates)
    assert msgspec.to_builtins(candidates.candidates) == (candidate,)


async def test_an_offer_waits_for_its_session(world: ApiWorld) -> None:
    """One that comes before the session is ready is held, and answered once it is."""
    session = await ask(world, ready=False)
    async with peer_of(world, session["id"]):
        sending = asyncio.create_task(send(session))
        await asyncio.sleep(0.1)
        assert not sending.done()
        await world.make_ready(session["id"])
        assert (await sending).status_code == 200


async def test_pages_may_ask_beforehand(world: ApiWorld) -> None:
    """Browsers ask whether a page of another origin may send candidates: PATCH is among what it may."""
    session = await ask(world)
    headers = {
        "origin": ORIGIN,
        "access-control-request-method": "PATCH",
        "access-control-request-headers": "authorization,content-type",
    }
    async with httpx.AsyncClient() as client:
        response = await client.options(session["transport"]["url"], headers=headers)
    assert response.status_code in {200, 204}
    assert "PATCH" in response.headers["access-control-allow-methods"]


# ---------------------------------------------------------------------------- refusals


async def test_a_token_opens_its_session_alone(world: ApiWorld) -> None:
    """No token, an unknown one, another session's and a key that may not connect are refused; a key that may isn't."""
    session, other = await ask(world), await ask(world)
    reader, writer = await world.key("sessions:read"), await world.key("sessions:write")
    async with peer_of(world, session["id"]) as peer:
        assert await code_of(await send(session, token="x")) == (401, "unauthenticated")
        assert await code_of(await send(session, token="gro_x")) == (403, "ticket-invalid")
        stolen = other["transport"]["token"]
        assert await code_of(await send(session, token=stolen)) == (403, "ticket-invalid")
        assert await code_of(await send(session, token=reader)) == (403, "forbidden")
        assert peer.asked == []
        assert (await send(session, token=writer)).status_code == 200
    async with world.client() as client:
        client.headers["authorization"] = f"Bearer {session['transport']['token']}"
        assert await code_of(await client.get(f"/v1/sessions/{session['id']}")) == (401, "unauthenticated")


async def test_a_token_that_has_expired_is_for_the_process_to_judge(world: ApiWorld) -> None:
    """It opens nothing new: the process is told so, and knows whether its connection was made with it."""
    session = await ask(world)
    key = hashlib.sha256(session["transport"]["token"].rpartition(".")[2].encode()).hexdigest()
    stored = Ticket(tenant="default", session_id=session["id"], expires_at=utcnow() - timedelta(seconds=1))
    await world.broker.append(subjects.TICKET.format(key=key), messages.encode(stored))
    async with peer_of(world, session["id"]) as peer:
        assert (await send(session, sdp=SDP, type="offer", pc_id="pc-1", restart_pc=True)).status_code == 200
        peer.reply = PeerRefused(code="ticket-invalid")
        assert await code_of(await send(session)) == (403, "ticket-invalid")
    assert [request.may_open for request in peer.asked] == [False, False]


@pytest.mark.parametrize(
    ("refused", "status"),
    [
        ("session-ended", 409),
        ("media-already-connected", 409),
        ("sdp-invalid", 422),
        ("peer-not-found", 404),
        ("out-of-order", 502),
    ],
)
async def test_what_the_process_refuses_is_a_typed_problem(world: ApiWorld, refused: str, status: int) -> None:
    """Its reason is the problem's code; one that nobody knows is a process that takes no client."""
    session = await ask(world)
    async with peer_of(world, session["id"]) as peer:
        peer.reply = PeerRefused(code=refused, detail="because")
        expected = "media-not-taken" if refused == "out-of-order" else refused
        assert await code_of(await send(session)) == (status, expected)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"sdp": "hello", "type": "offer"}, "sdp-invalid"),
        ({"sdp": "v=0" + "x" * offers.MAX_SDP, "type": "offer"}, "sdp-invalid"),
        ({"sdp": SDP, "type": "answer"}, "invalid-body"),
        ({"type": "offer"}, "invalid-body"),
    ],
)
async def test_what_is_no_offer_goes_nowhere(world: ApiWorld, body: dict[str, Any], code: str) -> None:
    """A body that isn't an offer is a 422 that says why; the process isn't bothered."""
    session = await ask(world)
    async with peer_of(world, session["id"]) as peer:
        assert await code_of(await send(session, **body)) == (422, code)
    assert peer.asked == []


async def test_nobody_there_or_no_answer_in_time(world: ApiWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not ready yet, gone, silent and over are told apart, and the first three may be tried again."""
    monkeypatch.setattr(offers, "NOBODY_TIMEOUT_S", 0.3)
    monkeypatch.setattr(offers, "REPLY_TIMEOUT_S", 0.3)
    waiting, session = await ask(world, ready=False), await ask(world)
    for response in (await send(waiting), await send(session)):
        assert await code_of(response) == (503, "session-not-ready")
        assert response.headers["retry-after"]
    async with peer_of(world, session["id"]) as peer:
        peer.reply = None
        assert await code_of(await send(session)) == (504, "offer-timed-out")
    await world.end(session["id"])
    assert await code_of(await send(session)) == (409, "session-ended")


async def test_offers_are_for_sessions_that_take_them(world: ApiWorld) -> None:
    """A session over a WebSocket says that it is one, and one that isn't there is not found."""
    session = await ask(world, agent="echo", transport="websocket")
    key = await world.key()
    for session_id, expected in (
        (session["id"], (409, "wrong-transport")),
        ("0199b6a4-5d1e-7c3a-9a52-0c5a3b1e7f42", (404, "session-not-found")),
        ("nonsense", (404, "session-not-found")),
    ):
        there = {"transport": {"url": f"{world.url}/v1/sessions/{session_id}/offer", "token": key}}
        assert await code_of(await send(there)) == expected
    async with world.client() as client:
        wish = {"agent": "browsers", "transport": "smallwebrtc", "transport_options": {"room": 1}}
        assert await code_of(await client.post("/v1/sessions", json=wish)) == (422, "invalid-body")
