"""Changes settings of a bot's services while it runs, by Pipecat's own settings-update frames.

The version is the caller's: one that isn't higher than the applied one comes too late and changes nothing. The answer
comes when the services have applied it; one that is busy speaking does so behind its sentence.
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

from greenroom.common.command_errors import CommandNotDone, CommandUnsupported, SettingsVersionStale
from greenroom.common.commands import Configure, Scalar
from greenroom.runner.session.commands.exposed import Exposed
from greenroom.runner.session.commands.parts import SERVICES, Parts

# Names of settings that are short for one of a kind of service.
_SHORT: Final = {"voice": ("tts",), "model": ("llm",), "language": ("tts", "stt")}
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


class Settings:
    """The settings of one session's services.

    `version` is that of the last change; 0 before the first.
    """

    def __init__(self, parts: Parts, exposed: Exposed) -> None:
        self.version = 0
        self._parts = parts
        self._exposed = exposed
        # One change at a time: the last one to come in is the last one applied.
        self._turn = asyncio.Lock()

    async def apply(self, wanted: Configure) -> dict[str, Any]:
        """Apply a change; all of it is checked before any of it is done.

        Raises:
            SettingsVersionStale: a later one is applied, or about to be.
            CommandUnsupported: the bot has no such service or setting, or takes no mode or values.
            CommandNotDone: a value is of another kind than the present one.
            FunctionFailed, FunctionArgumentsInvalid: the bot's own `configure` didn't take mode and values.
        """
        async with self._turn:
            if wanted.version <= self.version:
                raise SettingsVersionStale(f"Version {self.version} is applied.")
            frames = [
                (service, _FRAMES[kind](delta=delta, service=service))
                for kind, values in _by_kind(wanted).items()
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


def _by_kind(wanted: Configure) -> dict[str, dict[str, Scalar]]:
    """Return what is to be set, by kind of service."""
    found: dict[str, dict[str, Scalar]] = {kind: dict(getattr(wanted, kind)) for kind in SERVICES}
    for name, kinds in _SHORT.items():
        value: str | None = getattr(wanted, name)
        if value is not None:
            for kind in kinds:
                found[kind][name] = value
    return {kind: values for kind, values in found.items() if values}


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
