"""Whoever listens in, and what flows while somebody does.

A listener holds a lease of some seconds and renews it. While one does, audio that is recorded anyway is also published
live, half a second behind; without any, a call pays for one comparison per chunk. A listener that may barge in sends
its voice on `tap.barge`: the bot falls silent, and the voice goes out in its place until none has come for a moment.
"""

import asyncio
import time
from typing import Any, Final

import msgspec
import structlog

from greenroom.common import media_frames, subjects
from greenroom.common.broker import Broker, Message, Subscription
from greenroom.common.commands import Listen, Listening
from greenroom.common.errors import BrokerUnavailable, GreenroomError
from greenroom.common.lifecycle import Session
from greenroom.common.media_frames import MalformedFrame
from greenroom.common.media_messages import MediaKind
from greenroom.common.messages import EventType, decode, encode
from greenroom.runner.session.audio import RATE, WIDTH
from greenroom.runner.session.clock import CallClock
from greenroom.runner.session.commands.muting import Muting, SupervisorAudioFrame
from greenroom.runner.session.commands.parts import Parts, hand
from greenroom.runner.session.emitter import Emitter
from greenroom.runner.session.listening.mix import Mix
from greenroom.runner.session.recording import Recorder

_log = structlog.get_logger()

MAX_LISTENERS: Final = 16
TICK_S: Final = 0.1
# Recorded audio is placed five times a second while somebody listens, and a resampler holds some back.
BEHIND: Final = RATE // 2
# A supervisor who pauses for longer has finished.
BARGE_PAUSE_S: Final = 1.0
MAX_BARGE_BYTES: Final = RATE * WIDTH // 2
# Half a minute of frames would wait here only if the pipeline stood still.
_MAX_PENDING: Final = 100


class _Listener(msgspec.Struct, kw_only=True):
    by: str
    barge_in: bool
    until_s: float


class Ears:
    """The listeners of one session."""

    def __init__(
        self,
        broker: Broker,
        session: Session,
        *,
        parts: Parts,
        muting: Muting,
        emitter: Emitter,
        recorder: Recorder,
        clock: CallClock,
    ) -> None:
        self._broker = broker
        tokens = {"tenant": session.tenant, "session_id": session.id}
        self._listen = subjects.SESSION_CMD.format(**tokens, name="listen")
        self._out = subjects.SESSION_TAP.format(**tokens, direction="listen")
        self._in = subjects.SESSION_TAP.format(**tokens, direction="barge")
        self._parts = parts
        self._muting = muting
        self._emitter = emitter
        self._recorder = recorder
        self._clock = clock
        self._mix = Mix()
        self._known: dict[str, _Listener] = {}
        self._sequence = 0
        self._barged_until_s = 0.0
        self._work: asyncio.Task[None] | None = None
        self._subscriptions: list[Subscription] = []
        # A call into which nobody may speak has no ear for it.
        self._hears_voices = False

    @property
    def listeners(self) -> int:
        """How many listen now."""
        return len(self._known)

    async def open(self) -> None:
        """Begin to take listeners."""
        self._subscriptions.append(await self._broker.serve(self._listen, self._on_listen))

    async def close(self) -> None:
        """Let all listeners go."""
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        self._subscriptions.clear()
        for listener_id in list(self._known):
            self._leave(listener_id, "session-ended")
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
        self._recorder.tap = None

    # ------------------------------------------------------------------------ who listens

    async def _on_listen(self, message: Message) -> bytes:
        asked = decode(message.data, Listen)
        if asked.over:
            self._leave(asked.listener_id, "left")
        elif asked.listener_id in self._known or len(self._known) < MAX_LISTENERS:
            self._hold(asked)
            if asked.barge_in and not self._hears_voices:
                self._hears_voices = True
                heard = await self._broker.subscribe(self._in, self._on_voice, max_pending=_MAX_PENDING)
                self._subscriptions.append(heard)
        return encode(Listening(listeners=self.listeners, rate=RATE))

    def _hold(self, asked: Listen) -> None:
        until_s = time.monotonic() + asked.lease_s
        known = self._known.get(asked.listener_id)
        if known is not None:
            known.until_s = until_s
            return
        self._known[asked.listener_id] = _Listener(by=asked.by, barge_in=asked.barge_in, until_s=until_s)
        self._tell(EventType.LISTENER_JOINED, asked.listener_id, self._known[asked.listener_id])
        if self._work is None or self._work.done():
            self._mix.begin(self._now())
            self._recorder.tap = self._mix.add
            self._work = asyncio.get_running_loop().create_task(self._publish(), name="listeners")

    def _leave(self, listener_id: str, why: str) -> None:
        listener = self._known.pop(listener_id, None)
        if listener is not None:
            self._tell(EventType.LISTENER_LEFT, listener_id, listener, why=why)

    def _tell(self, kind: EventType, listener_id: str, listener: _Listener, **more: Any) -> None:
        data = {"listener_id": listener_id, "by": listener.by, "barge_in": listener.barge_in}
        self._emitter.emit(kind, {**data, "at_ms": self._clock.now_ms(), **more})

    # ------------------------------------------------------------------------ what they hear

    async def _publish(self) -> None:
        try:
            while self._known:
                await asyncio.sleep(TICK_S)
                self._expire(time.monotonic())
                for window in self._mix.take(self._now() - BEHIND):
                    await self._send(window)
        finally:
            self._recorder.tap = None
            self._muting.give_way()

    async def _send(self, window: bytes) -> None:
        frame = media_frames.encode(MediaKind.BINARY, self._sequence, window)
        self._sequence += 1
        try:
            await self._broker.publish(self._out, frame)
        except BrokerUnavailable:
            # The listener sees the hole by the number.
            return

    def _expire(self, now_s: float) -> None:
        for listener_id, listener in list(self._known.items()):
            if listener.until_s < now_s:
                self._leave(listener_id, "gone")
        if self._muting.barged_in and now_s > self._barged_until_s:
            self._muting.give_way()

    def _now(self) -> int:
        return self._clock.sample(self._clock.monotonic_ns()) if self._clock.begun else 0

    # ------------------------------------------------------------------------ what they say

    async def _on_voice(self, message: Message) -> None:
        speakers = [(listener_id, known.by) for listener_id, known in self._known.items() if known.barge_in]
        if not speakers:
            return
        try:
            kind, _, pcm = media_frames.decode(message.data)
        except MalformedFrame:
            return
        if kind != MediaKind.BINARY or not 0 < len(pcm) <= MAX_BARGE_BYTES or len(pcm) % WIDTH:
            return
        try:
            output = self._parts.output
            if not self._muting.barged_in:
                self._muting.barge_in()
                await self._parts.interrupt()
                listeners = [{"listener_id": listener_id, "by": by} for listener_id, by in speakers]
                self._emitter.emit(EventType.LISTENER_SPOKE, {"listeners": listeners, "at_ms": self._clock.now_ms()})
        except GreenroomError as error:
            _log.warning("barge_in_not_possible", code=error.code)
            return
        self._barged_until_s = time.monotonic() + BARGE_PAUSE_S
        await hand(output, SupervisorAudioFrame(pcm, RATE, 1))
