"""What a session process inherits from the runner: settings and the bots that the zygote has imported."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from socket import socket
from typing import Any

from greenroom.runner.settings import RunnerSettings

# Pipecat's own convention: `async def bot(runner_args)`.
type Bot = Callable[[Any], Awaitable[None]]
type BotKey = tuple[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionContext:
    """Given to `process.run` in the child; what is in it was made before the fork.

    Attributes:
        runner_id: the runner this process belongs to.
        settings: of the runner; of these the broker's address, logs, traces and what concerns sessions are used.
        bots: by name and version, imported.
        version: of the runner, for the traces.
        rehearsed: those of the bots that may be run with nobody there.
        turn_detector: a connection of the process's own; see `turn_detector`.
    """

    runner_id: str
    settings: RunnerSettings
    bots: Mapping[BotKey, Bot]
    version: str = ""
    rehearsed: tuple[BotKey, ...] = ()
    turn_detector: socket | None = None
