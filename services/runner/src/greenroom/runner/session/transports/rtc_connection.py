"""Pipecat's peer connection, there before its client: the bot is called with it, and its offer comes later.

    waiting ──offer──▶ offered ──ICE and DTLS──▶ there ──welcome──▶ told ──closed──▶ over
                 ▲         │ offer anew, or failed │                  │
                 └─────────┘                       └── restart ◀──────┘

Everything Pipecat's transport hears of the connection comes through its events. Here they are held back until they
mean what a bot takes them for: `connected` until the session knows that the user is there, `closed` and `failed` of
tries that came to nothing for ever.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, override

import msgspec
from aiortc.rtcdatachannel import RTCDataChannel
from aiortc.sdp import SessionDescription
from pipecat.transports.smallwebrtc.connection import SIGNALLING_TYPE, SmallWebRTCConnection
from pipecat.transports.smallwebrtc.transport import RawAudioTrack

from greenroom.common.peer_messages import SdpInvalid

# What is still to be sent when a connection is closed, e.g. why, has so long to get out.
_GOODBYE_S: Final = 0.2
_GOODBYE_STEP_S: Final = 0.01


class PeerCounts(msgspec.Struct, kw_only=True):
    """What happened to the connection, for the call's last event. Packets are those of RTP."""

    received: int = 0
    sent: int = 0
    # By the gaps in what we received, and by what the client reported.
    lost: int = 0
    lost_there: int = 0
    # The client's last word on the way there and back.
    round_trip_ms: float | None = None
    offers: int = 0
    restarts: int = 0


class PeerConnection(SmallWebRTCConnection):
    """A connection that may be waited with.

    Args:
        on_there: called once, when the client is there.
        on_over: called once, when it isn't any more: whether we closed, and whether it was as it should be.

    Attributes:
        request_data: what the client said with its first offer; unchecked.
        counts: kept up to date by `count`.
    """

    def __init__(self, on_there: Callable[[], None], on_over: Callable[[bool, bool], None]) -> None:
        super().__init__()
        self.request_data: Any = None
        self.counts = PeerCounts()
        # What the client is told when we close.
        self.farewell: tuple[int, str] | None = None
        self.there = self.over = False
        self._on_there = on_there
        self._on_over = on_over
        self._told = self._failed = self._leaving = False
        self._voice: RawAudioTrack | None = None

    @property
    def alive(self) -> bool:
        """Whether the client is there, and the connection hasn't come down."""
        return self.there and not self.over

    async def take(self, sdp: str, *, restart: bool) -> str:
        """Take an offer and return the answer; for a client that isn't there yet, any offer is a beginning.

        Args:
            sdp: the offer.
            restart: the client has begun a new connection in place of the one it had.

        Raises:
            SdpInvalid: nothing can be made of it; a connection that is there goes on.
        """
        ufrag = _ice_user(sdp)
        restart = restart or not self.there or ufrag != self._remote_ice_user()
        if self.there:
            self.counts.restarts += restart
        self._failed = False
        try:
            if self.counts.offers == 0:
                await self.initialize(sdp, "offer")
            else:
                await self.renegotiate(sdp, "offer", restart_pc=restart)
        except Exception as error:
            # aiortc has no error of its own for what it can't read: whatever its parsers run into comes out.
            raise SdpInvalid(f"It can't be answered: {type(error).__name__}.") from error
        finally:
            self.counts.offers += 1
        answer = self.get_answer()
        if answer is None:
            raise SdpInvalid("There is no answer to it.")
        return str(answer["sdp"])

    async def welcome(self) -> None:
        """Let the bot know that the client is there."""
        self._told = True
        await super()._call_event_handler("connected")

    async def count(self) -> int:
        """Bring `counts` up to date, and return how many packets of any kind have come."""
        pc: Any = self.pc
        found: list[Any] = list((await pc.getStats()).values())
        counts = self.counts
        packets = lost = sent = 0
        for stats in found:
            match stats.type:
                case "inbound-rtp":
                    lost += max(stats.packetsLost, 0)
                    counts.received = max(counts.received, stats.packetsReceived)
                case "outbound-rtp":
                    sent += stats.packetsSent
                case "remote-inbound-rtp":
                    counts.lost_there = max(stats.packetsLost, 0)
                    if stats.roundTripTime is not None:
                        counts.round_trip_ms = round(stats.roundTripTime * 1000, 1)
                case "transport":
                    packets += stats.packetsReceived
                case _:
                    pass
        counts.lost, counts.sent = max(counts.lost, lost), max(counts.sent, sent)
        return packets

    @override
    def replace_audio_track(self, track: RawAudioTrack) -> None:
        """Send a track; what the one before was in the middle of saying, this one says.

        Whoever wrote it waits until it is said: on a connection that was closed, for ever.
        """
        before, self._voice = self._voice, track
        if before is not None:
            queues: list[Any] = [before, track]
            unsaid, said_next = (queue._chunk_queue for queue in queues)  # noqa: SLF001
            said_next.extend(unsaid)
            unsaid.clear()
        super().replace_audio_track(track)

    @override
    async def disconnect(self) -> None:
        """Close, and say why over the data channel if there is one."""
        if self._leaving or self.over:
            return
        self._leaving = True
        code, reason = self.farewell or (1000, "")
        self.send_app_message(
            {"type": SIGNALLING_TYPE, "message": {"type": "peerLeft", "code": code, "reason": reason}}
        )
        await self._flush()
        await self._close()

    @override
    async def _call_event_handler(self, event_name: str, *args: Any, **kwargs: Any) -> None:
        match event_name:
            case "connected" if not self.there:
                if self.farewell is not None:
                    # Its offer was taken in time, but the session ends: whoever comes now hasn't come.
                    return
                self.there = True
                self._on_there()
                return
            case "connected" if not self._told:
                return
            case "failed":
                self._failed = True
            case "closed" if self.alive:
                self.over = True
                await self.count()
                self._on_over(self._leaving, not self._failed)
            case _:
                pass
        if self.there or event_name not in {"closed", "failed", "disconnected"}:
            await super()._call_event_handler(event_name, *args, **kwargs)

    async def _flush(self) -> None:
        channel: RTCDataChannel | None = self._data_channel
        if channel is None or channel.readyState != "open":
            return
        for _ in range(round(_GOODBYE_S / _GOODBYE_STEP_S)):
            await asyncio.sleep(_GOODBYE_STEP_S)
            if channel.bufferedAmount == 0:
                return

    def _remote_ice_user(self) -> str:
        # There is one: an offer was answered before.
        return _ice_user(self.pc.remoteDescription.sdp)


def _ice_user(sdp: str) -> str:
    """Return by which name the client checks this connection: another one begins ICE anew (RFC 8839).

    Raises:
        SdpInvalid: it can't be read.
    """
    try:
        media = SessionDescription.parse(sdp).media
    except Exception as error:
        # As above: there is no error of its own for this.
        raise SdpInvalid(f"It can't be read: {type(error).__name__}.") from error
    ufrag = media[0].ice.usernameFragment if media and media[0].ice is not None else None
    if ufrag is None:
        raise SdpInvalid("It has no media, or no ice-ufrag.")
    return ufrag
