"""Rooms at LiveKit: its server takes whoever has a token that is signed with the installation's key.

prepare    room `gr-SESSION` made, which closes by itself when nobody comes; the bot's token laid down
answer     the server's URL and a token of the user's own, new each time
release    the room is deleted, and whoever is in it put out
"""

from typing import Annotated, Any, Final, Literal, override

import msgspec
from msgspec import Meta

from greenroom.api.schemas import Transport
from greenroom.api.transports.base import Adapter, Asked, Prepared, expiry, options_of
from greenroom.api.transports.livekit_rest import LiveKitRest
from greenroom.api.transports.livekit_tokens import Signer
from greenroom.common.clock import Clock, SystemClock
from greenroom.common.errors import FieldProblem, InvalidBody
from greenroom.common.lifecycle import Session

NAME: Final = "livekit"
PREFIX: Final = "gr-"
# Who is who in the room. A second participant of the same identity takes the place of the first.
BOT: Final = "bot"
USER: Final = "user"
# Longer than the session's process waits for somebody to come back.
_DEPARTURE_S: Final = 60
_DEFAULT_PARTICIPANTS: Final = 3

type Source = Literal["microphone", "camera", "screen_share", "screen_share_audio"]
type ShortText = Annotated[str, Meta(min_length=1, max_length=128)]


class _User(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the user's token says."""

    identity: ShortText = USER
    name: ShortText | None = None
    can_publish: tuple[Source, ...] = ("microphone", "camera")


class _Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    max_participants: Annotated[int, Meta(ge=2, le=1000)] = _DEFAULT_PARTICIPANTS
    user: _User = _User()


class LiveKitAdapter(Adapter):
    """Rooms at a LiveKit server.

    Args:
        rest: its RoomService.
        signer: signs tokens.
        url: where clients and bots connect, `wss://…`.
        clock: says until when tokens are good.
    """

    def __init__(self, rest: LiveKitRest, signer: Signer, *, url: str, clock: Clock | None = None) -> None:
        self._rest = rest
        self._signer = signer
        self._url = url
        self._clock = clock or SystemClock()

    @property
    @override
    def name(self) -> str:
        return NAME

    @override
    def check(self, options: dict[str, Any]) -> None:
        _read(options)

    @override
    def plan(self, session: Session, options: dict[str, Any]) -> dict[str, str]:
        return {"room": _name(session)}

    @override
    async def prepare(self, asked: Asked, session: Session, options: dict[str, Any]) -> Prepared:
        wanted, room, limits = _read(options), _name(session), session.limits
        nobody_s = limits.queue_timeout_s + limits.start_timeout_s + limits.join_timeout_s
        await self._rest.make_room(
            room,
            empty_s=int(nobody_s) + _DEPARTURE_S,
            departure_s=_DEPARTURE_S,
            max_participants=wanted.max_participants,
        )
        expires_at = expiry(session)
        grant = {"room": room, "roomJoin": True, "canPublish": True, "canSubscribe": True, "canPublishData": True}
        # Clients tell agents from people by `kind`. The grant `agent` is another thing: for LiveKit's own workers.
        token = self._signer.sign(grant, now=self._clock.now(), until=expires_at, sub=BOT, name=BOT, kind="agent")
        info = {"room": room, "url": self._url}
        user = wanted.user
        told = {"identity": user.identity, "can_publish": ",".join(user.can_publish)}
        if user.name is not None:
            told["name"] = user.name
        public = Transport(type=NAME, info=info | told, expires_at=expires_at)
        return Prepared(public=public, info=info, secrets={"room_token": token})

    @override
    async def answer(self, asked: Asked, session_id: str, public: Transport, *, again: bool) -> Transport:
        info, now = public.info, self._clock.now()
        public = msgspec.structs.replace(public, url=info["url"])
        if public.expires_at is None or public.expires_at <= now:
            return public
        sources = [source for source in info["can_publish"].split(",") if source]
        grant = {
            "room": info["room"],
            "roomJoin": True,
            "canPublish": bool(sources),
            "canPublishSources": sources,
            "canSubscribe": True,
            "canPublishData": True,
            "canUpdateOwnMetadata": False,
        }
        name = {"name": info["name"]} if "name" in info else {}
        token = self._signer.sign(grant, now=now, until=public.expires_at, sub=info["identity"], **name)
        return msgspec.structs.replace(public, token=token)

    @override
    async def release(self, tenant: str, session_id: str, info: dict[str, str]) -> None:
        await self._rest.delete_room(info["room"])

    @override
    async def close(self) -> None:
        await self._rest.close()


def api_url(url: str) -> str:
    """Return where the API of a server is that clients reach at `url`: the same place, by HTTP."""
    return "http" + url.removeprefix("ws") if url.startswith("ws") else url


def _read(options: dict[str, Any]) -> _Options:
    wanted = options_of(options, _Options)
    if wanted.user.identity == BOT:
        pointer, text = "/transport_options/user/identity", "That is the bot's."
        raise InvalidBody(f"{pointer}: {text}", errors=[FieldProblem(pointer=pointer, detail=text)])
    return wanted


def _name(session: Session) -> str:
    return PREFIX + session.id
