"""Transports of session processes with the other end of each at hand, for what all of them have to keep.

What happens is told in steps, the same for all of them:

    approach                        the user comes as far as he can without being there: an offer, a carrier's socket
    arrive                          he is there
    leave                           he goes, as he should
    wait                            for as long as a transport waits for anything
    prepare_to_close, code, reason
    bot_ends
    close

Rooms are played by tests/support/rooms_played.py, in a process of their own.
"""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol, override

import msgspec
from aiortc import RTCSessionDescription
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.runner.types import RunnerArguments, SmallWebRTCRunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams

from greenroom.common import media_frames, subjects
from greenroom.common.broker import Broker, NoResponder
from greenroom.common.ids import uuid7
from greenroom.common.lifecycle import Limits, OnLoss, Session
from greenroom.common.media_frames import Close
from greenroom.common.media_messages import ConnectMedia, MediaAccepted, MediaKind, MediaRefused
from greenroom.common.messages import encode
from greenroom.common.peer_messages import OfferPeer, PeerAnswered, PeerRefused
from greenroom.common.secrets import SecretBox
from greenroom.runner.session.attach import Attachment
from greenroom.runner.session.transports import make_transport
from greenroom.runner.session.transports.base import NotRunnable, SessionTransport
from tests.support.carriers.dialect import Leg
from tests.support.carriers.exchange import CALLER, CARRIERS, NUMBER, dialect_of
from tests.support.memory_broker import MemoryServer
from tests.support.rtc_caller import RtcCaller
from tests.support.session_rig import new_session

BODY: Final = {"lang": "de"}
_ROOT: Final = Path(__file__).parents[2]
_PATIENCE_S: Final = 20.0
_TURNS: Final = 20


class Scenario(msgspec.Struct, kw_only=True):
    """A session over a transport, and what happens to it.

    Attributes:
        transport: its name.
        steps: each with its name and what belongs to it; some transports know further ones.
        info: what the api has told the session of the way.
        secrets: what it has laid down for the session's process.
        rejoin_s: for how long an empty room may be come back to.
        on_loss: what is to become of the session if its process is lost.
    """

    transport: str
    steps: list[list[Any]] = []
    info: dict[str, str] = {}
    secrets: dict[str, str] = {}
    rejoin_s: int = 0
    on_loss: OnLoss = OnLoss.BEFORE_MEDIA


class Told(msgspec.Struct, kw_only=True):
    """What became of it.

    Attributes:
        session_id: whose it was.
        early: what is said of arguments that are asked for too early.
        refused: why it can't be run; then there is nothing else.
        kind: the class of what the bot was called with.
        arguments: what of it can be written down.
        heard: `connected` and what connection, `disconnected` and who, code, and reason, `over` and why; in order.
        at: when, in seconds.
        connected: whether the user was there, after each step.
        news: what else was heard of the way: kinds and data.
        counts: of media, at the end.
        left: the secrets that are there still.
        more: what the transport's own tests look at.
    """

    session_id: str
    early: str
    refused: str | None = None
    kind: str = ""
    arguments: dict[str, Any] = {}
    heard: list[list[Any]] = []
    at: list[float] = []
    connected: list[bool] = []
    news: list[list[Any]] = []
    counts: list[Any] = []
    left: dict[str, str] = {}
    more: dict[str, Any] = {}


class FarEnd(Protocol):
    """Whoever is at the other end, and the bot at this one.

    Args of the constructor: session, transport, and the api's connection to the broker.
    """

    async def begin(self, arguments: RunnerArguments) -> BaseTransport:
        """Return what a bot makes of what it is called with."""
        ...

    async def step(self, name: str, *values: Any) -> None:
        """Do a step that isn't the session's own."""
        ...

    def more(self) -> dict[str, Any]:
        """Return what the transport's own tests look at."""
        return {}

    async def end(self) -> None:
        """Leave nothing behind."""
        return


type MakeFarEnd = Callable[[Session, SessionTransport, Broker], FarEnd]


def play_rooms(scenarios: dict[str, Scenario]) -> dict[str, Told]:
    """Play scenarios of rooms, all in one process: its start is what takes time."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.rooms_played"],
        input=msgspec.json.encode(scenarios),
        capture_output=True,
        timeout=240,
        cwd=_ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return msgspec.json.decode(done.stdout, type=dict[str, Told])


async def play(scenario: Scenario, make_end: MakeFarEnd) -> Told:
    """Play a scenario."""
    name, server = scenario.transport, MemoryServer()
    session = new_session(
        "echo",
        transport=name,
        transport_info=scenario.info,
        limits=Limits(rejoin_timeout_s=scenario.rejoin_s),
        on_loss=scenario.on_loss,
    )
    broker, now = server.connect(), asyncio.get_running_loop().time
    box = SecretBox(broker)
    if scenario.secrets:
        await box.put(session.tenant, session.id, scenario.secrets)
    heard: list[list[Any]] = []
    at: list[float] = []

    def hear(*what: Any) -> None:
        heard.append(list(what))
        at.append(round(now(), 3))

    transport = make_transport(
        session,
        broker,
        lambda connection: hear("connected", connection),
        lambda by, code, reason: hear("disconnected", by, code, reason),
    )
    told = Told(session_id=session.id, early=_early(transport))
    transport.on_news = lambda kind, data: told.news.append([kind, data])
    transport.on_over = lambda reason, detail: hear("over", reason.value, detail)
    try:
        await transport.open()
    except NotRunnable as error:
        told.refused = str(error)
        return told
    arguments = transport.arguments(BODY)
    told.kind, told.arguments = type(arguments).__name__, plain(arguments)
    end = make_end(session, transport, server.connect())
    try:
        bots = await end.begin(arguments)
        transport.attach(Attachment(PipelineWorker(Pipeline([bots.input(), bots.output()]))))
        for step, *values in scenario.steps:
            match step:
                case "prepare_to_close":
                    transport.prepare_to_close(*values)
                case "bot_ends":
                    transport.bot_ends()
                case "close":
                    await transport.close()
                case _:
                    await end.step(step, *values)
            await _settle()
            told.connected.append(transport.connected)
        # Not what comes of clearing up.
        told.heard, told.at = list(heard), list(at)
    finally:
        await transport.close()
        await end.end()
    told.counts = [getattr(transport.counts, field) for field in transport.counts.__struct_fields__]
    told.left = await box.take(session.tenant, session.id, keep=True)
    told.more = end.more()
    return told


def _early(transport: SessionTransport) -> str:
    try:
        transport.arguments(BODY)
    except NotRunnable as error:
        return str(error)
    return ""


def plain(arguments: RunnerArguments) -> dict[str, Any]:
    """Return what of a bot's arguments is no object of somebody's."""
    fields = {name: getattr(arguments, name) for name in arguments.__dataclass_fields__}
    return {name: value for name, value in fields.items() if isinstance(value, str | int | float | dict | None)}


async def _settle() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    # In virtual time, what is due now is done now.
    await asyncio.sleep(0.001)


class SocketEnd(FarEnd):
    """A client on the media WebSocket, or a carrier: the edge of the api, and what comes through it."""

    def __init__(self, session: Session, transport: SessionTransport, edge: Broker) -> None:
        del transport
        self._edge = edge
        self._tokens = {"tenant": session.tenant, "session_id": session.id}
        self._carrier = session.transport if session.transport in CARRIERS else None
        self._sent = 0

    @override
    async def begin(self, arguments: RunnerArguments) -> BaseTransport:
        def params() -> FastAPIWebsocketParams:
            # Of a carrier, Pipecat finds out which it takes.
            serializer = None if self._carrier else ProtobufFrameSerializer()
            return FastAPIWebsocketParams(audio_in_enabled=True, audio_out_enabled=True, serializer=serializer)

        return await create_transport(arguments, dict.fromkeys(("websocket", *CARRIERS), params))

    @override
    async def step(self, name: str, *values: Any) -> None:
        match name:
            case "approach":
                if self._carrier:
                    await self._connect()
            case "arrive" if self._carrier:
                leg = Leg(call_id="call-1", stream_id="stream-1", caller=CALLER, called=NUMBER)
                for message in dialect_of(self._carrier).opening(leg):
                    await self._send(media_frames.encode(MediaKind.TEXT, self._sent, msgspec.json.encode(message)))
            case "arrive":
                await self._connect()
            case "leave":
                await self._send(media_frames.encode_close(self._sent, Close(code=1000, reason="")))
            case "wait":
                pass
            case _:
                raise ValueError(name)

    async def _connect(self) -> None:
        subject = subjects.SESSION_CMD.format(name="connect", **self._tokens)
        with contextlib.suppress(NoResponder):
            reply = await self._edge.request(subject, encode(ConnectMedia(connection_id=uuid7())), timeout_s=5)
            msgspec.json.decode(reply.data, type=MediaAccepted | MediaRefused)

    async def _send(self, frame: bytes) -> None:
        await self._edge.publish(subjects.SESSION_MEDIA.format(direction="in", **self._tokens), frame)
        self._sent += 1


class BrowserEnd(FarEnd):
    """A browser over SmallWebRTC; loopback is where it looks for a way."""

    def __init__(self, session: Session, transport: SessionTransport, edge: Broker) -> None:
        self._transport = transport
        self._edge = edge
        self._offer = subjects.SESSION_CMD.format(tenant=session.tenant, session_id=session.id, name="offer")
        self._caller = RtcCaller(self._exchange)
        self._answer: PeerAnswered | None = None

    @override
    async def begin(self, arguments: RunnerArguments) -> BaseTransport:
        assert isinstance(arguments, SmallWebRTCRunnerArguments)
        self._ours = arguments.webrtc_connection
        # As the bot's pipeline does when it begins.
        await self._ours.connect()
        return await create_transport(arguments, {"webrtc": TransportParams})

    @override
    async def step(self, name: str, *values: Any) -> None:
        match name:
            case "approach":
                with contextlib.suppress(NoResponder):
                    await self._exchange(await self._caller.offer())
            case "arrive" if self._answer is not None:
                await self._caller.pc.setRemoteDescription(RTCSessionDescription(self._answer.sdp, "answer"))
                if self._ours.pc.connectionState != "closed":
                    await self._caller.until(lambda: self._ours.pc.connectionState == "connected")
            case "leave":
                there = self._transport.connected
                await self._caller.hang_up()
                if there:
                    await self._caller.until(lambda: not self._transport.connected)
            case "arrive" | "wait":
                pass
            case _:
                raise ValueError(name)

    @override
    async def end(self) -> None:
        await self._caller.__aexit__(None, None, None)
        await self._ours.pc.close()

    async def _exchange(self, offer: dict[str, Any]) -> dict[str, Any]:
        request = OfferPeer(sdp=offer["sdp"], credential="of-the-browser", may_open=True)
        reply = await self._edge.request(self._offer, encode(request), timeout_s=_PATIENCE_S)
        answered = msgspec.json.decode(reply.data, type=PeerAnswered | PeerRefused)
        self._answer = answered if isinstance(answered, PeerAnswered) else None
        return {}


# What a bot hangs up with; Vobiz' is taken for one of Plivo.
_ENVIRONMENT: Final = {
    "twilio": ("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN"),
    "telnyx": ("TELNYX_API_KEY",),
    "plivo": ("PLIVO_AUTH_ID", "PLIVO_AUTH_TOKEN"),
    "vobiz": ("PLIVO_AUTH_ID", "PLIVO_AUTH_TOKEN"),
    "exotel": (),
}


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One transport, for what all of them have to keep.

    Attributes:
        kind: the class of Pipecat that its bots are called with.
        own: those of its fields that other transports' bots don't have, and which are no objects.
        info: what the api tells the session of the way.
        secrets: what the api lays down for the session's process.
        needs: what a session can't be run without, each with what is said then.
        package: without which there is no such transport; None: it is always there.
        end: makes the other end; None: it is a room.
    """

    kind: str
    own: dict[str, Any] = {}
    info: dict[str, str] = {}
    secrets: dict[str, str] = {}
    needs: dict[str, str] = {}
    package: str | None = None
    end: MakeFarEnd | None = None


_TOKEN: Final = "the token for the room was taken already, or is a day old"

CASES: Final[dict[str, Case]] = {
    "websocket": Case(kind="WebSocketRunnerArguments", own={"transport_type": "websocket"}, end=SocketEnd),
    **{
        name: Case(
            kind="WebSocketRunnerArguments",
            own={"transport_type": None},
            info={"from": CALLER, "to": NUMBER},
            secrets={f"env.{variable}": "the-key" for variable in _ENVIRONMENT[name]},
            end=SocketEnd,
        )
        for name in CARRIERS
    },
    "smallwebrtc": Case(kind="SmallWebRTCRunnerArguments", package="aiortc", end=BrowserEnd),
    "daily": Case(
        kind="DailyRunnerArguments",
        own={"room_url": "https://greenroom.daily.co/gr-1", "token": "the-token"},
        info={"room": "gr-1", "room_url": "https://greenroom.daily.co/gr-1"},
        secrets={"room_token": "the-token"},
        needs={"room_url": "the session has no room", "room_token": _TOKEN},
        package="daily",
    ),
    "livekit": Case(
        kind="LiveKitRunnerArguments",
        own={"room_name": "gr-1", "url": "wss://livekit.example", "token": "the-token"},
        info={"room": "gr-1", "url": "wss://livekit.example"},
        secrets={"room_token": "the-token"},
        needs={"room": "the session has no room", "url": "the session has no room", "room_token": _TOKEN},
        package="livekit",
    ),
}
