"""A stream in memory, a consumer of it, and a handler that does what the test says."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from greenroom.common import messages
from greenroom.common.broker import Message
from greenroom.common.consumer import Consumer, Drop
from greenroom.common.messages import Parked
from tests.support.memory_broker import MemoryServer

STREAM, NAME = "SESSIONS", "recorder-sessions"
SUBJECT = "gr.v1.session.acme.s1.event.note"
PARKED = "gr.v1.parked.SESSIONS"


class World:
    """A stream, a consumer of it, and what its handler was given: batches of texts, with their times.

    Args:
        consumer: what else the consumer is told, beside batches of ten.
    """

    def __init__(self, **consumer: Any) -> None:
        self.server = MemoryServer()
        self.broker = self.server.connect()
        self.outside = self.server.connect()
        self.batches: list[tuple[float, list[str]]] = []
        # What the handler does with a batch, beyond taking note of it.
        self.verdict: Callable[[Sequence[str]], None] = lambda _: None
        wishes: dict[str, Any] = {"max_batch": 10, "max_wait_s": 1.0, **consumer}
        self.consumer = Consumer(self.broker, STREAM, NAME, decode=decode, handle=self.handle, **wishes)

    async def handle(self, batch: Sequence[str]) -> None:
        """Handle one batch."""
        self.batches.append((asyncio.get_running_loop().time(), list(batch)))
        self.verdict(batch)

    async def publish(self, *texts: str | bytes) -> None:
        """Put messages into the stream."""
        for text in texts:
            data = text if isinstance(text, bytes) else text.encode()
            await self.outside.append(SUBJECT, data, headers={"Gr-Test": "1"})

    async def parked(self) -> list[Parked]:
        """Return what is parked."""
        held = self.server.stream("PARKED").on(PARKED)
        return [messages.decode(message.data, Parked) for message in held]

    @property
    def handled(self) -> Counter[str]:
        """How often each text was given to the handler."""
        return Counter(text for _, batch in self.batches for text in batch)

    @property
    def unsettled(self) -> int:
        """How many messages still wait for a verdict."""
        return len(self.server.consumers[STREAM, NAME]._again_at)


def decode(message: Message) -> str:
    """Return the text of a message."""
    if message.data == b"explode":
        raise ZeroDivisionError
    try:
        return message.data.decode()
    except UnicodeDecodeError as error:
        raise Drop(f"malformed: {error.reason}") from error


@asynccontextmanager
async def consuming(world: World) -> AsyncGenerator[asyncio.Task[None]]:
    """Run the consumer for the time of the block."""
    task = asyncio.create_task(world.consumer.run())
    try:
        yield task
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.wait({task})


def raising(error: Exception, *on: str, times: int = 10**9) -> Callable[[Sequence[str]], None]:
    """Return a verdict: raise `error` on batches with one of the texts (none named: on all), so many times."""
    left = times

    def verdict(batch: Sequence[str]) -> None:
        nonlocal left
        if left and (not on or set(on) & set(batch)):
            left -= 1
            raise error

    return verdict
