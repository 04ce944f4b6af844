"""Rooms at LiveKit: against the server that LIVEKIT_URL names (with LIVEKIT_API_KEY, LIVEKIT_API_SECRET), else a stub.

Tokens are read by LiveKit's own library, which is what servers and clients read them with.
"""

import base64
import json
import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, override

import httpx
import pytest
from livekit import api

from greenroom.api.schemas import Transport
from greenroom.api.transports.base import Prepared, expiry
from greenroom.api.transports.livekit import LiveKitAdapter, api_url
from greenroom.api.transports.livekit_rest import PATH, LiveKitRest
from greenroom.api.transports.livekit_tokens import Signer
from greenroom.api.transports.provider import Provider, ProviderRefused
from greenroom.common.clock import SystemClock, utcnow
from greenroom.common.errors import InvalidBody
from greenroom.common.ids import uuid7
from greenroom.common.lifecycle import Session
from tests.support import livekit_stub
from tests.support.adapter_cases import ASKED
from tests.support.livekit_stub import LiveKitStub


@dataclass
class LateClock(SystemClock):
    """A clock that is behind."""

    behind: timedelta

    @override
    def now(self) -> datetime:
        return super().now() - self.behind


@dataclass
class Server:
    """A LiveKit server, and our adapter before it; `behind`: which makes tokens as it would have then."""

    url: str
    key: str
    secret: str
    behind: timedelta = timedelta(0)

    def __post_init__(self) -> None:
        """Make the adapter."""
        self.signer = Signer(self.key, self.secret)
        self.clock = LateClock(self.behind)
        self.rest = LiveKitRest(Provider("LiveKit", api_url(self.url)), self.signer)
        self.adapter = LiveKitAdapter(self.rest, self.signer, url=self.url, clock=self.clock)

    async def prepare(self, options: dict[str, Any] | None = None) -> tuple[Session, Prepared]:
        """Prepare a session."""
        now = self.clock.now()
        fields: dict[str, Any] = {"agent": "echo", "bot": "echo", "transport": "livekit", "tenant": "default"}
        session = Session(id=uuid7(), requested_at=now, queue_deadline_at=now, **fields)
        return session, await self.adapter.prepare(ASKED, session, options or {})

    async def answer(self, options: dict[str, Any] | None = None) -> tuple[Session, Prepared, Transport]:
        """Prepare a session and answer its caller."""
        session, prepared = await self.prepare(options)
        return session, prepared, await self.adapter.answer(ASKED, session.id, prepared.public, again=False)

    async def rooms(self, name: str) -> list[dict[str, Any]]:
        """Return the rooms of this name, as the server lists them."""
        token = self.signer.sign({"roomList": True}, now=utcnow(), until=utcnow() + timedelta(minutes=1))
        async with httpx.AsyncClient(base_url=api_url(self.url)) as client:
            headers = {"authorization": f"Bearer {token}"}
            listed = await client.post(f"{PATH}ListRooms", json={"names": [name]}, headers=headers)
        assert listed.status_code == 200, listed.text
        return listed.json().get("rooms", [])

    def read(self, token: str | None) -> api.access_token.Claims:
        """Read a token with LiveKit's library, which checks it."""
        assert token is not None
        return api.TokenVerifier(self.key, self.secret).verify(token)


def _times(token: str | None) -> tuple[datetime, datetime]:
    """Return from when until when a token is good."""
    assert token is not None
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return datetime.fromtimestamp(claims["nbf"], UTC), datetime.fromtimestamp(claims["exp"], UTC)


@pytest.fixture
async def server() -> AsyncGenerator[Server]:
    """Give a server: a real one if there is one."""
    if url := os.environ.get("LIVEKIT_URL"):
        server = Server(url, os.environ["LIVEKIT_API_KEY"], os.environ["LIVEKIT_API_SECRET"])
        yield server
        await server.adapter.close()
        return
    async with LiveKitStub().listening() as address:
        server = Server("ws" + address.removeprefix("http"), livekit_stub.KEY, livekit_stub.SECRET)
        yield server
        await server.adapter.close()


async def test_a_room_is_made_and_taken_away(server: Server) -> None:
    """It is there when the session is prepared, once however often that is done, and gone when it is released."""
    session, prepared = await server.prepare({"max_participants": 4})
    name = f"gr-{session.id}"
    assert prepared.info == {"room": name, "url": server.url}
    await server.adapter.prepare(ASKED, session, {"max_participants": 4})
    rooms = await server.rooms(name)
    assert [room["name"] for room in rooms] == [name]
    assert {"max_participants": 4}.items() <= rooms[0].items() or rooms[0]["maxParticipants"] == 4
    for _ in range(2):
        await server.adapter.release("default", session.id, {"room": name})
        assert await server.rooms(name) == []


async def test_the_bots_token_is_for_its_room_and_says_what_it_is(server: Server) -> None:
    """It joins, speaks and hears in this one room, is shown as an agent, and administrates nothing."""
    session, prepared = await server.prepare()
    claims = server.read(prepared.secrets["room_token"])
    assert (claims.identity, claims.kind) == ("bot", "agent")
    video = claims.video
    assert video is not None
    assert (video.room, video.room_join) == (f"gr-{session.id}", True)
    assert (video.can_publish, video.can_subscribe, video.can_publish_data) == (True, True, True)
    assert not any((video.room_admin, video.room_create, video.room_list, video.room_record, video.agent))
    await server.adapter.release("default", session.id, {"room": video.room})


async def test_the_users_token_is_for_what_was_asked_for(server: Server) -> None:
    """It publishes the named sources only, in this one room, under the name that was given."""
    options = {"user": {"identity": "ada", "name": "Ada", "can_publish": ["microphone"]}}
    session, _, answer = await server.answer(options)
    assert answer.url == server.url
    claims = server.read(answer.token)
    assert (claims.identity, claims.name, claims.kind) == ("ada", "Ada", "")
    video = claims.video
    assert video is not None
    assert (video.room, video.room_join, video.can_publish_sources) == (f"gr-{session.id}", True, ["microphone"])
    assert not any((video.room_admin, video.room_create, video.room_list, video.hidden, video.can_update_own_metadata))
    await server.adapter.release("default", session.id, {"room": video.room})


async def test_somebody_who_only_listens_publishes_nothing(server: Server) -> None:
    """No source at all is no publishing, rather than LiveKit's default of everything."""
    session, _, answer = await server.answer({"user": {"can_publish": []}})
    video = server.read(answer.token).video
    assert video is not None
    assert video.can_publish is False
    await server.adapter.release("default", session.id, {"room": video.room})


async def test_both_tokens_are_good_from_now_until_the_answer_says(server: Server) -> None:
    """They expire when the answer says, to the second: after the longest that the session can take."""
    session, prepared, answer = await server.answer()
    assert answer.expires_at == expiry(session)
    for token in (prepared.secrets["room_token"], answer.token):
        begins, ends = _times(token)
        assert begins <= utcnow()
        assert ends == answer.expires_at
    await server.adapter.release("default", session.id, {"room": prepared.info["room"]})


async def test_a_token_that_has_expired_lets_nobody_in(server: Server) -> None:
    """LiveKit's own library refuses the bot's and the user's, once the answer's time is over."""
    earlier = Server(server.url, server.key, server.secret, behind=timedelta(days=30))
    session, prepared, answer = await earlier.answer()
    assert answer.expires_at is not None
    assert answer.expires_at < utcnow()
    for token in (prepared.secrets["room_token"], answer.token):
        with pytest.raises(Exception, match="has expired"):
            server.read(token)
    await earlier.adapter.release("default", session.id, {"room": prepared.info["room"]})
    await earlier.adapter.close()


async def test_a_key_that_isnt_known_is_told(server: Server) -> None:
    """The server's refusal is 502 in its own words, without the key."""
    stranger = Server(server.url, server.key, "another-secret-that-nobody-knows-0123456789")
    with pytest.raises(ProviderRefused) as refused:
        await stranger.prepare()
    assert "HTTP 401" in refused.value.detail
    assert stranger.secret not in refused.value.detail
    await stranger.adapter.close()


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        ({"user": {"identity": "bot"}}, "/transport_options/user/identity"),
        ({"user": {"can_publish": ["mind"]}}, "/transport_options/user/can_publish/0"),
        ({"max_participants": 1}, "/transport_options/max_participants"),
        ({"user": {"roomAdmin": True}}, "/transport_options/user"),
    ],
)
async def test_options_that_cant_be_are_refused_where_they_are(
    server: Server, options: dict[str, Any], pointer: str
) -> None:
    """Nobody takes the bot's place or gets a grant that isn't offered."""
    with pytest.raises(InvalidBody) as refused:
        server.adapter.check(options)
    assert refused.value.errors[0].pointer == pointer
