"""Carries commands out on the pipeline of a live session."""

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import msgspec
from pipecat.frames.frames import LLMMessagesAppendFrame, OutputDTMFFrame, TTSSpeakFrame
from pipecat.processors.aggregators.llm_response_universal import LLMUserAggregator
from pipecat.services.tts_service import TTSService
from pipecat.transports.base_output import BaseOutputTransport

from greenroom.common import commands
from greenroom.common.commands import Command, SessionState
from greenroom.common.messages import EventType
from greenroom.runner.session.clock import CallClock
from greenroom.runner.session.commands.briefing import Briefing
from greenroom.runner.session.commands.configuring import Settings
from greenroom.runner.session.commands.exposed import Exposed
from greenroom.runner.session.commands.muting import Muting
from greenroom.runner.session.commands.parts import Parts, hand
from greenroom.runner.session.commands.standing import Standing
from greenroom.runner.session.commands.transferring import By, Transferring
from greenroom.runner.session.emitter import Emitter

type Result = dict[str, Any]


class Medium(Protocol):
    """The session's transport, as far as it is told of."""

    @property
    def connected(self) -> bool:
        """Whether a client is there now."""
        ...

    @property
    def counts(self) -> msgspec.Struct:
        """What happened to frames."""
        ...


class Acts:
    """What can be done.

    Args:
        parts: of the bot's pipelines.
        medium: the transport.
        emitter: takes `transfer_requested`.
        clock: the call's timeline.
        exposed: the bot's functions.
        stop: ends the session: at once or not, why.
        transferred: called once the caller was handed over, with who has taken the call.
        listeners: how many listen in.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        medium: Medium,
        emitter: Emitter,
        clock: CallClock,
        exposed: Exposed,
        stop: Callable[[bool, str | None], None],
        transferred: Callable[[By], None],
        listeners: Callable[[], int],
    ) -> None:
        self.muting: Final = Muting(parts)
        self.standing: Final = Standing()
        self._parts = parts
        self._medium = medium
        self._emitter = emitter
        self._clock = clock
        self._exposed = exposed
        self._settings = Settings(parts, exposed)
        self._stop = stop
        self._transferring = Transferring(transferred, Briefing(parts, self.muting))
        self._listeners = listeners
        self._by_kind: dict[type, Callable[[Any], Awaitable[Result]]] = {
            commands.Say: self._say,
            commands.BargeIn: self._barge_in,
            commands.Inject: self._inject,
            commands.Whisper: self._whisper,
            commands.Interrupt: self._interrupt,
            commands.Configure: self._settings.apply,
            commands.Mute: self._mute,
            commands.Unmute: self._unmute,
            commands.Transfer: self._transfer,
            commands.Dtmf: self._dtmf,
            commands.Snapshot: self._snapshot,
            commands.Stop: self._end,
            commands.Call: self._call,
        }

    async def do(self, command: Command) -> Result:
        """Carry a command out and return its result. Raises GreenroomErrors."""
        return await self._by_kind[type(command)](command)

    def give_up_operator(self) -> None:
        """See `Transferring.give_up`."""
        self._transferring.give_up()

    async def _say(self, command: commands.Say) -> Result:
        return await self._speak(command.text, interrupt=command.interrupt, remember=command.remember)

    async def _barge_in(self, command: commands.BargeIn) -> Result:
        return await self._speak(command.text, interrupt=True, remember=True)

    async def _speak(self, text: str, *, interrupt: bool, remember: bool) -> Result:
        voice = self._parts.one(TTSService, "no voice")
        if interrupt:
            await self._parts.interrupt()
        await self._parts.send(voice, TTSSpeakFrame(text, append_to_context=remember))
        return {"queued": True}

    async def _inject(self, command: commands.Inject) -> Result:
        message: Any = {"role": command.role, "content": command.text}
        frame = LLMMessagesAppendFrame(messages=[message], run_llm=command.run)
        if command.interrupt:
            turns = self._parts.one(LLMUserAggregator, "no model with a context of Pipecat's")
            await self._parts.interrupt()
            await self._parts.send(turns, frame)
        else:
            await hand(self._parts.context(run=command.run), frame)
        return {"queued": True}

    async def _whisper(self, command: commands.Whisper) -> Result:
        message: Any = {"role": "developer", "content": command.text}
        await hand(self._parts.context(run=False), LLMMessagesAppendFrame(messages=[message], run_llm=False))
        return {"queued": True}

    async def _interrupt(self, _: commands.Interrupt) -> Result:
        await self._parts.interrupt()
        return {}

    async def _mute(self, command: commands.Mute) -> Result:
        self.muting.mute(command.side)
        return {"muted": list(self.muting.sides)}

    async def _unmute(self, command: commands.Unmute) -> Result:
        self.muting.unmute(command.side)
        return {"muted": list(self.muting.sides)}

    async def _transfer(self, command: commands.Transfer) -> Result:
        outputs = self._parts.all(BaseOutputTransport)
        by = await self._transferring.transfer(self._medium, outputs, command)
        told = {"summary": command.summary} if command.store_summary and command.summary is not None else {}
        mode = {"mode": command.mode} if command.mode != "cold" else {}
        self._emitter.emit(EventType.TRANSFER_REQUESTED, {"target": command.target, "by": by, **mode, **told})
        return {"by": by}

    async def _dtmf(self, command: commands.Dtmf) -> Result:
        await hand(self._parts.output, OutputDTMFFrame.from_string(command.digits))
        return {"queued": len(command.digits)}

    async def _snapshot(self, _: commands.Snapshot) -> Result:
        standing = self.standing
        return msgspec.to_builtins(
            SessionState(
                connected=self._medium.connected,
                duration_ms=self._clock.now_ms(),
                node=standing.node,
                turns=standing.turns,
                muted=self.muting.sides,
                settings_version=self._settings.version,
                lines=tuple(standing.lines),
                media=msgspec.to_builtins(self._medium.counts),
                listeners=self._listeners(),
                functions=self._exposed.listed(),
            )
        )

    async def _end(self, command: commands.Stop) -> Result:
        self._stop(command.now, command.reason)
        return {}

    async def _call(self, command: commands.Call) -> Result:
        return {"returned": await self._exposed.call(command.function, command.arguments, command.timeout_s)}
