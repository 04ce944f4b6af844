"""Changes settings of a bot's services while it runs, by Pipecat's own settings-update frames.

The version is the caller's: one that isn't higher than the last one comes too late and changes nothing. The answer
comes when the services have applied it; one that is busy speaking does so behind its sentence. What was taken is
written down (`greenroom.common.desired`), and the session's next process begins with it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from pipecat.frames.frames import (
    LLMUpdateSettingsFrame,
    ServiceUpdateSettingsFrame,
    STTUpdateSettingsFrame,
    TTSUpdateSettingsFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.ai_service import AIService
from pipecat.services.settings import ServiceSettings

from greenroom.common import desired
from greenroom.common.command_errors import CommandNotDone, CommandUnsupported, SessionNotLive
from greenroom.common.commands import Configure, Scalar
from greenroom.common.desired import Desired
from greenroom.runner.session.commands.exposed import Exposed
from greenroom.runner.session.commands.parts import SERVICES, Parts
from greenroom.runner.session.pipelines import first

_FRAMES: Final[dict[str, type[ServiceUpdateSettingsFrame[Any]]]] = {
    "llm": LLMUpdateSettingsFrame,
    "tts": TTSUpdateSettingsFrame,
    "stt": STTUpdateSettingsFrame,
}
# What the bot's own function for `mode` and `values` is called.
OWN: Final = "configure"
# A sentence may be spoken first.
APPLY_S: Final = 15.0
_OWN_S: Final = 5.0
_KNOWN_S: Final = 5.0


class Settings:
    """The settings of one session's services.

    `version` is that of the last change which was applied; 0 before the first.

    Args:
        parts: of the bot's pipelines.
        exposed: the bot's functions.
        keep: writes down what is desired from now on; returns whether it could.
        restored: set when `restore` was called, if it had to be; no change comes before.
    """

    def __init__(
        self, parts: Parts, exposed: Exposed, *, keep: Callable[[Desired], Awaitable[bool]], restored: asyncio.Event
    ) -> None:
        self.version = 0
        self._desired = Desired()
        self._parts = parts
        self._exposed = exposed
        self._keep = keep
        self._restored = restored
        # One change at a time: the last one to come in is the last one applied.
        self._turn = asyncio.Lock()

    async def apply(self, wanted: Configure, by: str) -> dict[str, Any]:
        """Apply a change that was sent with the key `by`; all of it is checked before any of it is done.

        The same version with the same content is the same change: it is applied already.

        Raises:
            SessionNotLive: it isn't known yet what the session had before.
            SettingsVersionStale: a later one is applied, or about to be.
            SettingsLocked: it changes what is held.
            CommandUnsupported: the bot has no such service or setting, or takes no mode or values.
            CommandNotDone: a value is of another kind than the present one; or all together is too much to be kept.
            FunctionFailed, FunctionArgumentsInvalid: the bot's own `configure` didn't take mode and values.
        """
        await first(self._restored.wait(), timeout_s=_KNOWN_S)
        if not self._restored.is_set():
            raise SessionNotLive("The settings that it had before can't be read yet.")
        async with self._turn:
            if desired.repeats(self._desired, wanted) and self.version == wanted.version:
                return {"version": self.version, "applied": True, "services": []}
            after = desired.merged(self._desired, wanted, by)
            result = await self._change(wanted)
            self._desired = after
            return {**result, "kept": await self._keep(after)}

    async def restore(self, known: Desired) -> dict[str, Any]:
        """Apply what was desired of the session's last process. Raises as `apply`; later changes go on from there."""
        async with self._turn:
            self._desired = known
            return await self._change(desired.as_change(known))

    async def _change(self, wanted: Configure) -> dict[str, Any]:
        frames = [
            (service, _FRAMES[kind](delta=delta, service=service))
            for kind, values in desired.by_kind(wanted).items()
            for service, delta in self._deltas(kind, values)
        ]
        own = {"mode": wanted.mode, "values": wanted.values} if wanted.mode or wanted.values else None
        if own is not None and OWN not in self._exposed:
            raise CommandUnsupported(f"The bot exposes no function {OWN!r} that takes `mode` and `values`.")
        if not frames and own is None:
            raise CommandNotDone("It names nothing to change.")
        if own is not None:
            await self._exposed.call(OWN, own, _OWN_S)
        self.version = wanted.version
        applied = await _applied(frames)
        return {"version": self.version, "applied": applied, "services": sorted({part.name for part, _ in frames})}

    def _deltas(self, kind: str, values: Mapping[str, Scalar]) -> list[tuple[AIService, ServiceSettings]]:
        services = self._parts.all(SERVICES[kind])
        if not services:
            raise CommandUnsupported(f"The bot has no {kind} service.")
        return [(service, _delta(service, kind, values)) for service in services]


def _delta(service: AIService, kind: str, values: Mapping[str, Scalar]) -> ServiceSettings:
    present = service.settings
    delta = type(present).from_mapping(values)
    if unknown := delta.extra.keys() - present.extra.keys():
        raise CommandUnsupported(f"The bot's {kind} has no setting {', '.join(sorted(unknown))}.")
    now = present.given_fields()
    for name, value in delta.given_fields().items():
        if not _alike(now.get(name), value):
            raise CommandNotDone(f"{kind}.{name} is of another kind.")
    return delta


def _alike(now: object, value: object) -> bool:
    """Tell whether a value may take the place of another one: what a service doesn't say can't be checked."""
    if now is None or value is None:
        return True
    kinds = (bool, (int, float), str)
    return all(isinstance(now, kind) == isinstance(value, kind) for kind in kinds[:1]) and any(
        isinstance(now, kind) and isinstance(value, kind) for kind in kinds
    )


async def _applied(frames: list[tuple[AIService, ServiceUpdateSettingsFrame[Any]]]) -> bool:
    """Send the frames; return whether all were applied in time (if not, they will be when the service comes to it)."""
    waits: list[asyncio.Event] = []
    for service, frame in frames:
        done = asyncio.Event()
        waits.append(done)
        await service.queue_frame(frame, FrameDirection.DOWNSTREAM, _told(done))
    try:
        async with asyncio.timeout(APPLY_S):
            for done in waits:
                await done.wait()
    except TimeoutError:
        return False
    return True


def _told(done: asyncio.Event) -> Callable[[FrameProcessor, Any, FrameDirection], Awaitable[None]]:
    async def tell(_processor: FrameProcessor, _frame: Any, _direction: FrameDirection) -> None:
        done.set()

    return tell
