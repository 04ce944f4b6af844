"""What Pipecat's clients send to start a bot and read of the answer, and the `/join` of bot gateways.

Only what has an effect here is taken: a field that would do nothing is refused, as everywhere. Room properties may
repeat what rooms are anyway.
"""

import re
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from greenroom.api.schemas import CreateSession, LimitsWish, Seconds, SessionView
from greenroom.api.transports.daily_options import CanReceiveMedia, RoomWish, ShortText, UserId
from greenroom.common.errors import FieldProblem, GreenroomError, InvalidBody

# Pipecat's name of a transport, and ours.
_TRANSPORTS: Final = {"webrtc": "smallwebrtc", "daily": "daily", "livekit": "livekit", "websocket": "websocket"}
_CARRIERS: Final = frozenset({"twilio", "telnyx", "plivo", "exotel"})


class TransportNotOffered(GreenroomError):
    """The transport isn't one that sessions of this agent can be started over: `GET /v1/agents` shows what it takes.

    Pipecat calls them `webrtc`, `daily`, `livekit` and `websocket`; the installation may not be set up for one.
    """

    code = "transport-not-offered"
    status = 400
    title = "The transport isn't offered"


# ---------------------------------------------------------------------------- in


class StartRoom(RoomWish, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Properties of the room that is made, by Daily's names."""

    eject_at_room_exp: Annotated[bool, Meta(description="Rooms do; `false` is refused")] = True
    enable_prejoin_ui: Annotated[bool, Meta(description="Rooms have none; `true` is refused")] = False


class StartCanReceive(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose media get to the user."""

    base: bool | CanReceiveMedia = True
    byUserId: Annotated[dict[UserId, bool | CanReceiveMedia], Meta(max_length=32)] = {}  # noqa: N815


class CanSend(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the user may do in the room."""

    canSend: tuple[Literal["audio", "video", "screenVideo", "screenAudio"], ...] = ("audio", "video")  # noqa: N815
    canReceive: StartCanReceive | None = None  # noqa: N815


class StartToken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Properties of the user's token, by Daily's names. The bot's is its own, and owns the room."""

    user_name: ShortText | None = None
    user_id: UserId | None = None
    nbf: Annotated[int | None, Meta(description="Before this (Unix seconds) the user doesn't get in")] = None
    is_owner: Annotated[bool, Meta(description="Only the bot owns the room: `true` is refused")] = False
    permissions: CanSend = CanSend()


class StartBot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for a session, as Pipecat has it."""

    transport: Annotated[
        ShortText | None,
        Meta(description="`webrtc` (default), `daily` (with `createDailyRoom`), `livekit`, `websocket`"),
    ] = None
    createDailyRoom: bool | None = None  # noqa: N815
    # Of a session over `daily`; else, as in Pipecat, neither is looked at.
    dailyRoomProperties: StartRoom | None = None  # noqa: N815
    dailyMeetingTokenProperties: StartToken | None = None  # noqa: N815
    enableDefaultIceServers: Annotated[  # noqa: N815
        bool, Meta(description="The installation's servers are in the answer anyway, and there are no others")
    ] = False
    body: Annotated[dict[str, Any] | None, Meta(description="What the bot is given")] = None


class StartAgent(StartBot, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same, where the path doesn't name the agent."""

    agent: ShortText | None = None


class JoinVoice(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of the voice: the bot's, but for the limit of the call."""

    maxCallDuration: Seconds | None = None  # noqa: N815


class JoinRoom(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A request to send a bot into a room."""

    room_url: Annotated[str, Meta(min_length=1, max_length=512, description="Of a room at Daily, in our account")]
    agent: ShortText | None = None
    tenantId: Annotated[  # noqa: N815
        ShortText | None, Meta(description="The key says it; another one is refused")
    ] = None
    token: Annotated[str | None, Meta(description="Not used, and not kept: the bot gets a token of its own")] = None
    personalityId: str | None = None  # noqa: N815
    persona: str | None = None
    voice: str | None = None
    voiceProvider: str | None = None  # noqa: N815
    voiceParameters: Annotated[  # noqa: N815
        dict[str, Any], Meta(description="`maxCallDuration` is the session's `max_duration_s`, too")
    ] = {}
    voiceOnly: bool | None = None  # noqa: N815
    sessionPersistence: Any = None  # noqa: N815
    participantId: str | None = None  # noqa: N815
    sessionUserId: str | None = None  # noqa: N815
    sessionUserEmail: str | None = None  # noqa: N815
    sessionUserName: str | None = None  # noqa: N815
    sessionId: str | None = None  # noqa: N815
    isOnboarding: bool | None = None  # noqa: N815
    sessionOverride: Any = None  # noqa: N815
    supportedFeatures: list[str] = []  # noqa: N815
    modePersonalityVoiceConfig: Any = None  # noqa: N815
    debugTraceId: str | None = None  # noqa: N815


# What can be searched for; anything else is the bot's alone.
_USER: Final = re.compile(r"[!-~]{1,128}")
# What isn't the bot's.
_OURS: Final = frozenset({"room_url", "agent", "tenantId", "token"})


def wish_of(agent: str, data: StartBot) -> CreateSession:
    """Return the request for a session that a Pipecat client means.

    Raises:
        TransportNotOffered: its transport isn't one that a session can be asked for over.
        InvalidBody: it wants of its room what rooms here aren't.
    """
    name = data.transport or ("daily" if data.createDailyRoom else "webrtc")
    transport = _TRANSPORTS.get(name)
    if transport is None:
        text = "Calls come to a number: `PUT /v1/numbers`." if name in _CARRIERS else "There is no such transport."
        raise TransportNotOffered(f"/transport: {text}", errors=[FieldProblem(pointer="/transport", detail=text)])
    options = _daily_options(data) if transport == "daily" else {}
    return CreateSession(agent=agent, transport=transport, transport_options=options, body=data.body or {})


def join_wish(agent: str, data: JoinRoom, tenant: str) -> CreateSession:
    """Return the request for a session that a `/join` means.

    Raises:
        InvalidBody: it is for another tenant, or the limit of its call is none.
    """
    if data.tenantId not in {None, tenant}:
        raise _invalid("/tenantId", "The key belongs to another tenant.")
    try:
        longest_s = msgspec.convert(data.voiceParameters, JoinVoice).maxCallDuration
    except msgspec.ValidationError as error:
        raise _invalid("/voiceParameters/maxCallDuration", str(error).partition(" - at")[0]) from error
    said: dict[str, Any] = msgspec.to_builtins(data)
    return CreateSession(
        agent=agent,
        transport="daily",
        transport_options={"room_url": data.room_url},
        body={field: value for field, value in said.items() if field not in _OURS},
        limits=LimitsWish(max_duration_s=longest_s),
        user=data.sessionUserId if data.sessionUserId and _USER.fullmatch(data.sessionUserId) else None,
    )


def as_join(error: GreenroomError) -> GreenroomError:
    """Return what is wrong with the room of a `/join`, with pointers into what was sent."""
    inner = "/transport_options"
    problems = [
        FieldProblem(pointer=problem.pointer.removeprefix(inner), detail=problem.detail) for problem in error.errors
    ]
    return type(error)(error.detail.removeprefix(inner), errors=problems)


def _daily_options(data: StartBot) -> dict[str, Any]:
    if data.createDailyRoom is False:
        raise _invalid("/createDailyRoom", "A session over daily has a room; POST /v1/sessions takes one that exists.")
    options: dict[str, Any] = {}
    room, token = data.dailyRoomProperties, data.dailyMeetingTokenProperties
    if room is not None:
        if not room.eject_at_room_exp:
            raise _invalid("/dailyRoomProperties/eject_at_room_exp", "Nobody stays in a room that has expired.")
        if room.enable_prejoin_ui:
            raise _invalid("/dailyRoomProperties/enable_prejoin_ui", "Rooms have none.")
        known = {field: getattr(room, field) for field in RoomWish.__struct_fields__}
        options["room"] = msgspec.to_builtins({field: value for field, value in known.items() if value is not None})
    if token is not None:
        if token.is_owner:
            raise _invalid("/dailyMeetingTokenProperties/is_owner", "Nobody but the bot owns the room.")
        receive = token.permissions.canReceive
        user = {
            "user_name": token.user_name,
            "user_id": token.user_id,
            "nbf": token.nbf,
            "can_send": token.permissions.canSend,
            "can_receive": receive and msgspec.to_builtins({"base": receive.base, "by_user_id": receive.byUserId}),
        }
        options["user"] = {field: value for field, value in user.items() if value is not None}
    return options


def _invalid(pointer: str, text: str) -> InvalidBody:
    return InvalidBody(f"{pointer}: {text}", errors=[FieldProblem(pointer=pointer, detail=text)])


# ---------------------------------------------------------------------------- out


class StartIceServer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A server for `RTCPeerConnection`, which doesn't take `null`."""

    urls: tuple[str, ...]
    username: str | None = None
    credential: str | None = None


class IceConfig(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How a browser gets through NAT."""

    ice_servers: list[StartIceServer]


class StartAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """How to connect. What a transport has no use for is left out: its clients refuse fields that they don't know."""

    # Not of `websocket`, whose client takes nothing but the URL; `Location` has it always.
    session_id: str | None = None
    # `daily`: the room, and the user's token.
    daily_room: str | None = None
    daily_token: str | None = None
    # `livekit`: the server, and the user's token.
    url: str | None = None
    token: str | None = None
    # `websocket`: good for one connection.
    ws_url: str | None = None
    # `webrtc`, where the installation has servers.
    ice_config: IceConfig | None = None


class JoinAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The session that was made."""

    status: str
    session_id: str
    room_url: str | None = None
    debugTraceId: str | None = None  # noqa: N815


def start_answer(view: SessionView) -> StartAnswer:
    """Return what Pipecat's client of a session's transport connects with."""
    way = view.transport
    match way.type:
        case "websocket":
            return StartAnswer(ws_url=way.url)
        case "daily":
            return StartAnswer(session_id=view.id, daily_room=way.url, daily_token=way.token)
        case "livekit":
            return StartAnswer(session_id=view.id, url=way.url, token=way.token)
        case _:
            servers = [
                StartIceServer(urls=each.urls, username=each.username, credential=each.credential)
                for each in way.ice_servers
            ]
            return StartAnswer(session_id=view.id, ice_config=IceConfig(ice_servers=servers) if servers else None)


def join_answer(view: SessionView, data: JoinRoom) -> JoinAnswer:
    """Return what a gateway's caller reads: what it asked for is under way."""
    return JoinAnswer(status="queued", session_id=view.id, room_url=view.transport.url, debugTraceId=data.debugTraceId)
