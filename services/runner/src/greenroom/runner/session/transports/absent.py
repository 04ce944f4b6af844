"""The transport of a session that can't have one here: the session runs into its end, with the reason."""

from typing import Any, override

import msgspec
from pipecat.runner.types import RunnerArguments

from greenroom.runner.session.attach import Attachment
from greenroom.runner.session.transports.base import NotRunnable, SessionTransport


class Nothing(msgspec.Struct):
    """No media, nothing to count."""


class AbsentTransport(SessionTransport):
    """Nobody comes, and no bot is called.

    Args:
        why: there is no other; may be shown to anybody.
    """

    def __init__(self, why: str) -> None:
        self._why = why

    @property
    @override
    def connected(self) -> bool:
        return False

    @property
    @override
    def counts(self) -> Nothing:
        return Nothing()

    @override
    async def open(self) -> None:
        raise NotRunnable(self._why)

    @override
    def arguments(self, body: dict[str, Any]) -> RunnerArguments:
        raise NotRunnable(self._why)

    @override
    def attach(self, attachment: Attachment) -> None:
        pass

    @override
    async def welcome(self) -> None:
        pass

    @override
    def prepare_to_close(self, code: int, reason: str) -> None:
        pass

    @override
    async def close(self) -> None:
        pass

    @override
    async def watch(self) -> None:
        pass
