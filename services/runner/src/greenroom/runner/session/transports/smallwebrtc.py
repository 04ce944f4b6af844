"""Browsers that speak with this process itself: SDP and candidates come over NATS, media over UDP of our own.

The bot is called with a connection that has no client yet, and its pipeline runs before the offer comes: `ready`
means that an offer will be answered at once. One client at a time; before it is there, another offer takes the place
of the one before (a page was reloaded), after that only whoever has connected may come again, with the connection's
id and what it was let in with.
"""

import asyncio
import contextlib
import contextvars
from collections.abc import Coroutine
from typing import Any, Final, override

import structlog
from aiortc import RTCIceCandidate
from aiortc.sdp import candidate_from_sdp
from pipecat.runner.types import SmallWebRTCRunnerArguments
from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection
from pipecat.transports.smallwebrtc.transport import SmallWebRTCInputTransport

from greenroom.common import subjects
from greenroom.common.broker import Broker, Message, Subscription
from greenroom.common.errors import GreenroomError, MediaAlreadyConnected, SessionEnded, TicketInvalid
from greenroom.common.ids import uuid7
from greenroom.common.lifecycle import Session
from greenroom.common.messages import decode, encode
from greenroom.common.peer_messages import (
    OfferPeer,
    PeerAnswered,
    PeerCandidate,
    PeerCandidates,
    PeerNotFound,
    PeerRefused,
    PeerReply,
    SdpInvalid,
)
from greenroom.runner.rtc import Network
from greenroom.runner.session.attach import Attachment
from greenroom.runner.session.transports import rtc_network
from greenroom.runner.session.transports.base import (
    CLOSE_NORMAL,
    NOT_OPEN,
    NotRunnable,
    OnConnected,
    OnDisconnected,
    SessionTransport,
)
from greenroom.runner.session.transports.rtc_connection import PeerConnection, PeerCounts

_log = structlog.get_logger()

CLOSE_ABNORMAL: Final = 1006
LOOK_EVERY_S: Final = 2.0
# A client that is there sends audio, or at least reports about ours every five seconds (RTCP). One that changes its
# network comes back within some seconds; ICE itself gives up after thirty. Browsers that are killed, or leave a page
# that doesn't close its connection, say nothing.
SILENT_LOOKS: Final = 5


class SmallWebRTCTransport(SessionTransport):
    """A peer connection of this process.

    Args:
        session: whose it is.
        broker: brings offers.
        on_connected: see `base`.
        on_disconnected: see `base`.
        network: where calls are taken.
    """

    def __init__(
        self,
        session: Session,
        broker: Broker,
        on_connected: OnConnected,
        on_disconnected: OnDisconnected,
        network: Network,
    ) -> None:
        self._session = session
        self._broker = broker
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._network = network
        self._connection: PeerConnection | None = None
        # The bot's: what the connection does on its own is the bot's doing.
        self._context = contextvars.copy_context()
        self._closing = False
        self._lost = False
        # Of whoever made the connection that there is.
        self._credential: str | None = None
        self._one_at_a_time = asyncio.Lock()
        self._subscriptions: list[Subscription] = []

    @property
    @override
    def connected(self) -> bool:
        return self._connection is not None and self._connection.alive

    @property
    @override
    def counts(self) -> PeerCounts:
        return self._connection.counts if self._connection is not None else PeerCounts()

    @override
    async def open(self) -> None:
        rtc_network.use(self._network, asyncio.get_running_loop())
        self._connection = PeerConnection(self._on_there, self._on_over)
        self._subscriptions = [
            await self._broker.serve(self._command("offer"), self._on_offer),
            await self._broker.serve(self._command("ice"), self._on_candidates),
        ]

    @override
    def arguments(self, body: dict[str, Any]) -> SmallWebRTCRunnerArguments:
        if self._connection is None:
            raise NotRunnable(NOT_OPEN)
        self._context = contextvars.copy_context()
        return SmallWebRTCRunnerArguments(webrtc_connection=self._connection, body=body, session_id=self._session.id)

    @override
    def attach(self, attachment: Attachment) -> None:
        # Pipecat's transports hear of their client through the connection, which is ours. What their bots are told
        # of it, they are told once: a client that has found a new way is no new client, to be greeted again.
        for transport in attachment.inputs:
            if isinstance(transport, SmallWebRTCInputTransport):
                _tell_once(transport)

    @override
    async def welcome(self) -> None:
        if self._connection is not None:
            await self._connection.welcome()

    @override
    def prepare_to_close(self, code: int, reason: str) -> None:
        self._closing = True
        if self._connection is not None:
            self._connection.farewell = (code, reason)

    @override
    async def close(self) -> None:
        self._closing = True
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        self._subscriptions.clear()
        if self._connection is not None:
            await self._connection.disconnect()

    @override
    async def watch(self) -> None:
        packets = silent = 0
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            connection = self._connection
            if connection is None or not connection.alive:
                continue
            before, packets = packets, await connection.count()
            silent = silent + 1 if packets == before else 0
            if silent >= SILENT_LOOKS:
                self._lost = True
                await self._as_the_bot(connection.disconnect())

    # ------------------------------------------------------------------------ what is asked for

    async def _on_offer(self, message: Message) -> bytes:
        return encode(await self._reply(self._offer(decode(message.data, OfferPeer))))

    async def _on_candidates(self, message: Message) -> bytes:
        return encode(await self._reply(self._add(decode(message.data, PeerCandidates))))

    async def _reply(self, work: Coroutine[Any, Any, PeerAnswered]) -> PeerReply:
        async with self._one_at_a_time:
            try:
                return await self._as_the_bot(work)
            except GreenroomError as error:
                return PeerRefused(code=error.code, detail=error.detail)

    async def _offer(self, request: OfferPeer) -> PeerAnswered:
        connection = self._open_connection()
        again = connection.counts.offers > 0 and request.pc_id == connection.pc_id
        self._authorize(request, again=again)
        if connection.there and not again:
            raise MediaAlreadyConnected
        if not connection.there:
            connection.request_data = request.request_data
        sdp = await connection.take(request.sdp, restart=request.restart)
        self._credential = request.credential
        _log.info("offer_answered", again=again, restart=request.restart)
        return PeerAnswered(pc_id=connection.pc_id, sdp=self._network.advertise(sdp))

    async def _add(self, request: PeerCandidates) -> PeerAnswered:
        connection = self._open_connection()
        if connection.counts.offers == 0 or request.pc_id != connection.pc_id:
            raise PeerNotFound
        self._authorize(request, again=True)
        for candidate in [_candidate(given) for given in request.candidates]:
            try:
                await connection.pc.addIceCandidate(candidate)
            except ValueError as error:
                raise SdpInvalid("A candidate belongs to no media section.") from error
        return PeerAnswered(pc_id=connection.pc_id)

    def _open_connection(self) -> PeerConnection:
        if self._connection is None or self._closing or self._connection.over:
            raise SessionEnded
        return self._connection

    def _authorize(self, request: OfferPeer | PeerCandidates, *, again: bool) -> None:
        if not (request.may_open or (again and request.credential == self._credential)):
            raise TicketInvalid

    def _as_the_bot[T](self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run it in the bot's context: what a connection sets off, it does in the context in which it was made."""
        return asyncio.get_running_loop().create_task(work, context=self._context.copy())

    # ------------------------------------------------------------------------ what happens

    def _on_there(self) -> None:
        self._on_connected(uuid7())

    def _on_over(self, by_us: bool, clean: bool) -> None:  # noqa: FBT001 a callback
        if by_us and not self._lost:
            code, reason = (self._connection and self._connection.farewell) or (CLOSE_NORMAL, "")
            self._on_disconnected("bot", code, reason)
        else:
            self._on_disconnected("client", CLOSE_NORMAL if clean and not self._lost else CLOSE_ABNORMAL, "")

    def _command(self, name: str) -> str:
        return subjects.SESSION_CMD.format(tenant=self._session.tenant, session_id=self._session.id, name=name)


def _tell_once(transport: SmallWebRTCInputTransport) -> None:
    callbacks = transport._client._callbacks  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    tell = callbacks.on_client_connected
    told = False

    async def once(connection: SmallWebRTCConnection) -> None:
        nonlocal told
        if not told:
            told = True
            await tell(connection)

    callbacks.on_client_connected = once


def _candidate(given: PeerCandidate) -> RTCIceCandidate | None:
    """Return a candidate; None ends them.

    Raises:
        SdpInvalid: it isn't written as candidates are.
    """
    text = given.candidate.removeprefix("a=").removeprefix("candidate:")
    if not text:
        return None
    candidate = None
    with contextlib.suppress(ValueError, AssertionError, IndexError):
        candidate = candidate_from_sdp(text)
    if candidate is None or (given.sdp_mid is None and given.sdp_mline_index is None):
        raise SdpInvalid("A candidate can't be read, or belongs to no media section.")
    candidate.sdpMid = given.sdp_mid
    candidate.sdpMLineIndex = given.sdp_mline_index
    return candidate
