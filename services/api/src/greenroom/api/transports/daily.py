"""Rooms at Daily: the bot owns one, its user gets in with a token that can do nothing else.

    prepare    room `gr-SESSION` (private, expiring) made, or one that is brought looked at: whether it is there, is
               open while the session may start, and has room for two; owner token laid down
    answer     the room's URL and a token of the user's own, new each time
    in use     after a warm transfer, while somebody is in the room: caller and operator go on in it
    release    the room is deleted, and whoever is in it put out; one that was brought stays

A request that is repeated finds the room by its name. What is prepared and then not needed is released by its plan; a
room that even that can't reach expires by itself.
"""

import fnmatch
from datetime import timedelta
from typing import Any, Final, override
from urllib.parse import urlsplit

import msgspec

from greenroom.api.canonical import canonical_number
from greenroom.api.schemas import Transport
from greenroom.api.transports import daily_options
from greenroom.api.transports.base import Adapter, Asked, Prepared, expiry
from greenroom.api.transports.daily_options import DailyOptions, Dialin, UserWish
from greenroom.api.transports.daily_rest import DailyRest, Room, RoomConfig
from greenroom.common.call_data import CallData
from greenroom.common.clock import Clock, SystemClock
from greenroom.common.errors import FieldProblem, Forbidden, GreenroomError
from greenroom.common.lifecycle import Session
from greenroom.common.reasons import Reason

NAME: Final = "daily"


# Clocks differ, and who makes a room often gives the present as its `nbf`. In the end Daily's clock decides.
_SKEW_S: Final = 5.0
# The bot, and somebody to speak with.
_FEWEST: Final = 2


class RoomNotFound(GreenroomError):
    """The room that was brought is none that the session could take place in; `detail` says why.

    It doesn't exist in this installation's account at the provider or has expired, isn't open yet (`nbf`), expires
    before the session is sure to have started (`exp`), doesn't hold a bot and a user, or is full (`max_participants`).
    Compare the URL with the provider's dashboard. Without `room_url` a room is made for the session.
    """

    code = "room-not-found"
    status = 422
    title = "There is no such room for the session"


class DailyAdapter(Adapter):
    """Rooms at Daily.

    Args:
        rest: Daily's API.
        api_key: of the account; goes to bots that take a call, for Pipecat connects it with the key.
        api_url: where they use it.
        bring: names of rooms that requests may bring, as patterns; `{tenant}` is who asks.
        dialout: the account may dial out, so that callers can be handed over by calling somebody into their room.
        clock: says when rooms expire.
    """

    def __init__(
        self,
        rest: DailyRest,
        *,
        api_key: str,
        api_url: str,
        bring: tuple[str, ...] = ("*",),
        dialout: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self._rest = rest
        self._api_key, self._api_url = api_key, api_url
        self._bring = bring
        self._dialout = dialout
        self._clock = clock or SystemClock()

    @property
    @override
    def name(self) -> str:
        return NAME

    @override
    def check(self, options: dict[str, Any]) -> None:
        daily_options.read(options)

    @override
    def room(self, options: dict[str, Any]) -> str | None:
        # One bot in a room: that a second session in it is refused is a matter of the scheduler.
        return daily_options.read(options).room_url

    @property
    @override
    def movable(self) -> bool:
        return True

    @override
    def public(self, session: Session, options: dict[str, Any]) -> Transport:
        info = session.transport_info | _told(daily_options.read(options))
        return Transport(type=NAME, info=info, expires_at=expiry(session))

    @override
    def plan(self, session: Session, options: dict[str, Any]) -> dict[str, str] | None:
        return None if daily_options.read(options).room_url is not None else {"room": _name(session)}

    @override
    async def prepare(self, asked: Asked, session: Session, options: dict[str, Any]) -> Prepared:
        wanted = daily_options.read(options)
        expires_at = expiry(session) + timedelta(seconds=wanted.after_transfer_s)
        exp = int(expires_at.timestamp())
        daily_options.check_nbf(wanted, exp)
        daily_options.check_dialout(wanted, {**session.config, **session.body}, session.limits.join_timeout_s)
        if wanted.room_url is None:
            properties = daily_options.room_properties(wanted, exp=exp)
            if wanted.dialin is not None and self._dialout:
                properties["enable_dialout"] = True
            room = await self._rest.make_room(_name(session), properties)
        else:
            room = await self._brought(session, wanted.room_url)
        token = await self._rest.make_token(daily_options.owner_token(room.name, exp=exp))
        info = {"room": room.name, "room_url": room.url}
        if wanted.room_url is not None:
            # A public one is Daily's default and its owner's choice: whoever has its URL gets in without our token.
            info["privacy"] = room.privacy
        secrets, call = {"room_token": token}, None
        if wanted.dialin is not None:
            info["call_id"] = wanted.dialin.call_id
            secrets |= self._dialin_secrets(wanted.dialin)
            call = _call(wanted.dialin)
        if wanted.dialout_settings:
            # Who is called is nobody else's business either.
            call = CallData(carrier=NAME, direction="outbound")
            secrets["dialout_settings"] = msgspec.json.encode(wanted.dialout_settings).decode()
            info["ring_timeout_s"] = str(wanted.ring_timeout_s)
        if wanted.voicemail_detection:
            info["voicemail_detection"] = msgspec.json.encode(wanted.voicemail_detection).decode()
        public = Transport(type=NAME, info=info | _told(wanted), expires_at=expires_at)
        carrier = NAME if wanted.dialout_settings else None
        return Prepared(public=public, info=info, secrets=secrets, carrier=carrier, call=call)

    @override
    async def answer(self, asked: Asked, session_id: str, public: Transport, *, again: bool) -> Transport:
        info, expires_at = public.info, public.expires_at
        public = msgspec.structs.replace(public, url=info["room_url"])
        if "call_id" in info or expires_at is None or expires_at <= self._clock.now():
            # A caller comes by telephone; and nobody gets into a room that is gone.
            return public
        wanted = daily_options.user_token(info["room"], exp=int(expires_at.timestamp()), user=_user(info))
        token = await self._rest.make_token(wanted)
        return msgspec.structs.replace(public, token=token, sip_uri=await self._sip_uri(info))

    async def in_use(self, session: Session, info: dict[str, str]) -> bool:
        """See `base.Outlived`: whoever was handed over speaks on in the room."""
        return session.reason == Reason.TRANSFERRED.value and await self._rest.present(info["room"]) > 0

    @override
    async def release(self, tenant: str, session_id: str, info: dict[str, str]) -> None:
        await self._rest.delete_room(info["room"])

    @override
    async def close(self) -> None:
        await self._rest.close()

    async def url(self, name: str) -> str | None:
        """Return the address of a room of the account; None: there is none of this name. Raises as `DailyRest`."""
        room = await self._rest.room(name)
        return room.url if room is not None else None

    async def _brought(self, session: Session, room_url: str) -> Room:
        name = daily_options.brought_name(room_url)
        patterns = [pattern.replace("{tenant}", session.tenant) for pattern in self._bring]
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            raise Forbidden("This room may not be brought here.")
        room = await self._rest.room(name)
        if room is None or urlsplit(room.url).hostname != urlsplit(room_url).hostname:
            raise _no_room("There is no such room in the account, or it has expired.")
        _check_open(room.config, session)
        most = room.config.max_participants
        if most is not None and await self._rest.present(name) >= most:
            raise _no_room(f"It is full: {most} are in it, and that is its `max_participants`.")
        return room

    async def _sip_uri(self, info: dict[str, str]) -> str | None:
        """Return where the room can be called, if that was asked for: whoever knows it gets in."""
        room = await self._rest.room(info["room"]) if "sip" in info else None
        found = room.config.sip_uri if room is not None else None
        return f"sip:{found.endpoint}" if found is not None and found.endpoint else None

    def _dialin_secrets(self, dialin: Dialin) -> dict[str, str]:
        """Return what Pipecat needs to have Daily connect the call; who calls is nobody else's business."""
        settings = {
            "call_id": dialin.call_id,
            "call_domain": dialin.call_domain,
            "To": dialin.to,
            "From": dialin.from_,
            "sip_headers": dialin.sip_headers or None,
        }
        return {
            "dialin_settings": msgspec.json.encode(settings).decode(),
            "daily_api_key": self._api_key,
            "daily_api_url": self._api_url,
        }


def _call(dialin: Dialin) -> CallData:
    """Return what the session may have of a call: not who calls, nor the SIP headers, which say it too."""
    to = canonical_number(dialin.to) if dialin.to is not None else None
    return CallData(carrier=NAME, direction="inbound", call_id=dialin.call_id, to=to)


def _check_open(config: RoomConfig, session: Session) -> None:
    """Raise RoomNotFound unless two can be in a room, from now until the session has started at the latest."""
    now = session.requested_at.timestamp()
    starts_within_s = session.limits.queue_timeout_s + session.limits.start_timeout_s
    if config.nbf is not None and config.nbf > now + _SKEW_S:
        raise _no_room(f"It opens in {config.nbf - now:.0f} s, and the session may start at once.")
    if config.exp is not None and config.exp < now + starts_within_s:
        raise _no_room(f"It expires in {config.exp - now:.0f} s, and the session has {starts_within_s:g} s to start.")
    if config.max_participants is not None and config.max_participants < _FEWEST:
        raise _no_room("It doesn't hold two: the bot, and somebody to speak with.")


def _no_room(text: str) -> RoomNotFound:
    problem = FieldProblem(pointer="/transport_options/room_url", detail=text)
    return RoomNotFound(f"{problem.pointer}: {text}", errors=[problem])


def _name(session: Session) -> str:
    # That of one that it goes to later has a name of its own.
    return daily_options.PREFIX + session.id + (f"-{session.moving.id[-8:]}" if session.moving is not None else "")


def _told(wanted: DailyOptions) -> dict[str, str]:
    """Return what the answer says of the user's token, from which that can be made again."""
    user = wanted.user
    said = {
        "user_name": user.user_name,
        "user_id": user.user_id,
        "can_send": ",".join(user.can_send),
        "can_receive": None if user.can_receive is None else msgspec.json.encode(user.can_receive).decode(),
        "nbf": None if user.nbf is None else str(user.nbf),
    }
    if wanted.room is not None and wanted.room.sip is not None:
        said["sip"] = wanted.room.sip.sip_mode
    return {name: value for name, value in said.items() if value is not None}


def _user(info: dict[str, str]) -> UserWish:
    user: dict[str, Any] = {name: info[name] for name in ("user_name", "user_id") if name in info}
    if "can_receive" in info:
        user["can_receive"] = msgspec.json.decode(info["can_receive"])
    if "nbf" in info:
        user["nbf"] = int(info["nbf"])
    return msgspec.convert({**user, "can_send": [media for media in info["can_send"].split(",") if media]}, UserWish)
