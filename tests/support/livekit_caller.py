"""A participant of a LiveKit room with a voice and an ear, by LiveKit's own client library; and the server it needs.

Rooms with audio in them can't be had from a stub: these tests run where LIVEKIT_URL names a server.
"""

import asyncio
import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import pytest
from livekit import api, rtc

NEEDED: Final = ("LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET")
RATE: Final = 16_000
_FRAME: Final = RATE // 50
# Of 16 bit: what Opus makes of silence stays far below.
_LOUD: Final = 500
_PATIENCE_S: Final = 30.0

_missing: Final = [name for name in NEEDED if not os.environ.get(name)]
needs_livekit: Final = pytest.mark.skipif(
    bool(_missing), reason=f"needs a LiveKit server: {', '.join(_missing)} not set (docs/tests.md)"
)


async def room_names() -> list[str]:
    """Return the names of the rooms that the server has."""
    async with api.LiveKitAPI() as server:
        listed = await server.room.list_rooms(api.ListRoomsRequest())
    return [room.name for room in listed.rooms]


async def delete_room(name: str) -> None:
    """Delete a room: whoever is in it is put out."""
    async with api.LiveKitAPI() as server:
        await server.room.delete_room(api.DeleteRoomRequest(room=name))


def token(room: str, identity: str) -> str:
    """Return a token for a room, which is made when the first one joins."""
    return api.AccessToken().with_identity(identity).with_grants(api.VideoGrants(room_join=True, room=room)).to_jwt()


class LiveKitCaller:
    """A caller in a room.

    Args:
        url: of the server.
        token: of whom it is, for one room.
    """

    def __init__(self, url: str, token: str) -> None:
        self._url, self._token = url, token
        self.room = rtc.Room()
        self.heard = bytearray()
        self._source = rtc.AudioSource(RATE, 1)
        self._listening: set[asyncio.Task[None]] = set()
        self.room.on("track_subscribed", self._on_track)

    async def __aenter__(self) -> Self:
        await self.room.connect(self._url, self._token)
        track = rtc.LocalAudioTrack.create_audio_track("microphone", self._source)
        options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
        await self.room.local_participant.publish_track(track, options)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.leave()

    async def say(self, pcm: bytes) -> None:
        """Say PCM, 16 bit mono at 16 kHz, in real time; return when it was sent."""
        size = 2 * _FRAME
        for start in range(0, len(pcm), size):
            part = pcm[start : start + size].ljust(size, b"\0")
            await self._source.capture_frame(rtc.AudioFrame(part, RATE, 1, _FRAME))
        await self._source.wait_for_playout()

    async def until(self, happened: Callable[[], Any]) -> None:
        """Wait until something has happened."""
        async with asyncio.timeout(_PATIENCE_S):
            while not happened():
                await asyncio.sleep(0.02)

    async def until_heard(self, seconds: float) -> None:
        """Wait until that much sound has come."""
        await self.until(lambda: self.loud_s >= seconds)

    @property
    def loud_s(self) -> float:
        """How many seconds of what was heard aren't silence."""
        pcm = bytes(self.heard)
        samples = np.frombuffer(pcm[: len(pcm) // 320 * 320], dtype=np.int16).astype(np.int32).reshape(-1, 160)
        return float((np.abs(samples).max(axis=1) > _LOUD).sum() / 100) if len(samples) else 0.0

    async def leave(self) -> None:
        """Leave the room, as closing a page does."""
        await self.room.disconnect()
        for task in self._listening:
            task.cancel()
        await asyncio.gather(*self._listening, return_exceptions=True)
        self._listening.clear()
        await self._source.aclose()

    def _on_track(
        self, track: rtc.Track, _publication: rtc.RemoteTrackPublication, _participant: rtc.RemoteParticipant
    ) -> None:
        if track.kind == rtc.TrackKind.KIND_AUDIO:
            self._listening.add(asyncio.create_task(self._listen(track)))

    async def _listen(self, track: rtc.Track) -> None:
        stream = rtc.AudioStream(track, sample_rate=RATE, num_channels=1)
        try:
            async for event in stream:
                self.heard += event.frame.data.tobytes()
        finally:
            await stream.aclose()
