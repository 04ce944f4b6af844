"""Keeps the vigil over one call: tells it what happens, and does what follows.

What passes often (audio) is counted elsewhere and looked at once a second, and when something may come due; what is
rare (speech begins or ends, a heartbeat of the pipeline has come through) is told as it happens.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog
from pipecat.frames.frames import (
    BotSpeakingFrame,
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    Frame,
    HeartbeatFrame,
    TranscriptionFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.observers.base_observer import FramePushed

from greenroom.common.lifecycle import Limits, Outcome
from greenroom.common.messages import EventType
from greenroom.common.reasons import Reason
from greenroom.runner.control import Pong
from greenroom.runner.session.attach import Attachment
from greenroom.runner.session.channel import Channel
from greenroom.runner.session.emitter import Emitter
from greenroom.runner.session.ending import Ending
from greenroom.runner.session.notices import CALL_ENDING_SOON, tell_bot
from greenroom.runner.session.observer import Route
from greenroom.runner.session.pipelines import Pipelines
from greenroom.runner.session.recording import Recorder
from greenroom.runner.session.stacks import task_stacks
from greenroom.runner.session.vigil import EndingSoon, Over, Stalled, Vigil, notice_s

_log = structlog.get_logger()

_PONG_S: Final = 1.0
# While the broker is away; and between two looks at most where a limit is that short.
_SOON_S: Final = 0.25
# A timer may be early.
_LEAST_S: Final = 0.01
# Pipecat's own heartbeats are one a second; every second one is enough to see that things move.
_HEARTBEAT_S: Final = 2.0

_USER_BEGINS: Final = (VADUserStartedSpeakingFrame, UserStartedSpeakingFrame)
_USER_ENDS: Final = (VADUserStoppedSpeakingFrame, UserStoppedSpeakingFrame, TranscriptionFrame)


class Watchkeeper:
    """See the module.

    Args:
        limits: of the session.
        emitter: takes the events.
        ending: is given the verdict.
        recorder: counts the audio of both sides.
        pipelines: of the bot.
        channel: to the runner, which wants to hear each second that the loop turns.
        cut_off: whether the broker, by which media may come, is away.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        emitter: Emitter,
        ending: Ending,
        recorder: Recorder,
        pipelines: Pipelines,
        channel: Channel,
        cut_off: Callable[[], bool],
    ) -> None:
        self.vigil = Vigil(limits)
        self._emitter = emitter
        self._ending = ending
        self._recorder = recorder
        self._pipelines = pipelines
        self._channel = channel
        self._cut_off = cut_off
        # What begins between two looks may be over before the next one.
        shortest_s = min((limit for limit in _limits_of(limits) if limit > 0), default=_PONG_S)
        self._look_every_s = min(max(shortest_s, _SOON_S), _PONG_S)
        self._woken = asyncio.Event()
        self._heard = self._sounded = 0
        # A bot with background sounds sends audio all the time: then only speech says that something moves.
        self._mixes = False
        self._rejoin = limits.rejoin_timeout_s > 0
        self._came = False
        self._notices: set[asyncio.Task[None]] = set()

    def ready(self) -> None:
        """The pipeline runs."""
        self.vigil.ready(time.monotonic())

    def came_back(self) -> bool:
        """Somebody is there; return whether somebody was before."""
        again, self._came = self._came, True
        self.vigil.connected(time.monotonic())
        self._woken.set()
        return again

    def waits(self) -> bool:
        """Nobody is there, but somebody may come back; return whether that is waited for."""
        self.vigil.left(time.monotonic())
        self._woken.set()
        return self._rejoin

    def moves(self) -> None:
        """The bot goes to another room, where nobody is yet."""
        self.vigil.moves(time.monotonic())
        self._woken.set()

    def follow(self, attachment: Attachment, routes: Mapping[type[Frame], Route]) -> dict[type[Frame], Route]:
        """Return the routes of the pipeline that holds the transport, with what we have to see there too."""
        params = attachment.worker.params
        if not params.enable_heartbeats:
            params.enable_heartbeats, params.heartbeats_period_secs = True, _HEARTBEAT_S
        self._mixes = attachment.mixes

        def moved(push: FramePushed) -> None:
            if push.source in attachment.outputs:
                self.vigil.moved(time.monotonic())

        ours: dict[type[Frame], Callable[[FramePushed], None]] = {
            HeartbeatFrame: moved,
            BotSpeakingFrame: lambda _: self.vigil.moved(time.monotonic()),
            BotStartedSpeakingFrame: self._bot_begins,
            BotStoppedSpeakingFrame: lambda _: self.vigil.speaks("bot", time.monotonic(), begins=False),
            **dict.fromkeys(_USER_BEGINS, lambda _: self.vigil.speaks("user", time.monotonic(), begins=True)),
            **dict.fromkeys(_USER_ENDS, lambda _: self.vigil.speaks("user", time.monotonic(), begins=False)),
        }
        return {**routes, **{kind: _both(see, routes.get(kind)) for kind, see in ours.items()}}

    async def run(self) -> None:
        """Look, and tell the runner how late the loop was, until canceled."""
        lag_s = 0.0
        pong_at = time.monotonic() + _PONG_S
        while True:
            now = time.monotonic()
            due = max(min(pong_at, self._due(now)), now + _LEAST_S)
            self._woken.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(due - now):
                    await self._woken.wait()
            now = time.monotonic()
            lag_s = max(lag_s, now - due)
            self._look()
            if now >= pong_at:
                await self._channel.send(Pong(loop_lag_ms=round(lag_s * 1000, 2)))
                lag_s, pong_at = 0.0, now + _PONG_S

    def _due(self, now: float) -> float:
        """Return when to look again."""
        if self._ending.begun.is_set():
            return math.inf
        return min(now + (_SOON_S if self._cut_off() else self._look_every_s), self.vigil.due(now))

    def _bot_begins(self, _: FramePushed) -> None:
        now = time.monotonic()
        self.vigil.sounded(now)
        self.vigil.speaks("bot", now, begins=True)

    def _look(self) -> None:
        if self._ending.begun.is_set():
            return
        now = time.monotonic()
        user, bot = self._recorder.user, self._recorder.bot
        if user.frames != self._heard:
            self.vigil.heard(user.taken_s, user.since_s)
        if bot.frames != self._sounded and not self._mixes:
            self.vigil.sounded(bot.taken_s)
        self._heard, self._sounded = user.frames, bot.frames
        if self._cut_off():
            self.vigil.excused(now)
        for finding in self.vigil.look(now):
            match finding:
                case EndingSoon():
                    self._tell(finding)
                case Stalled():
                    _log.warning("call_stalled", wait=finding.wait.value, for_s=finding.for_s)
                    self._emitter.emit(EventType.CALL_STALLED, {"kind": finding.wait.value, "for_s": finding.for_s})
                case Over():
                    self._end(finding)
                    return

    def _tell(self, finding: EndingSoon) -> None:
        data = {"seconds_left": finding.seconds_left}
        _log.info("call_ending_soon", **data)
        self._emitter.emit(EventType.CALL_ENDING_SOON, data)
        telling = asyncio.create_task(
            tell_bot(tuple(self._pipelines.attachments), CALL_ENDING_SOON, data), name="ending-soon"
        )
        self._notices.add(telling)
        telling.add_done_callback(self._notices.discard)

    def _end(self, finding: Over) -> None:
        reason = finding.reason
        _log.warning("call_over", reason=reason.value, detail=finding.detail)
        if reason is Reason.NO_PROGRESS:
            text = task_stacks()
            self._emitter.emit(EventType.STACK_DUMP, {"cause": reason.value, "text": text})
        self._ending.decide(Outcome(reason.outcome or Outcome.FAILED), reason.value, finding.detail)
        if reason is Reason.NO_PROGRESS:
            # Nothing comes through, so an EndFrame wouldn't either.
            self._ending.hurry.set()


def _limits_of(limits: Limits) -> tuple[float, ...]:
    return (
        limits.first_audio_timeout_s,
        limits.no_progress_timeout_s,
        limits.silence_timeout_s,
        limits.rejoin_timeout_s,
        notice_s(limits),
    )


def _both(see: Callable[[FramePushed], None], route: Route | None) -> Route:
    if route is None:
        return see

    def routed(push: FramePushed) -> Awaitable[None] | None:
        see(push)
        return route(push)

    return routed
