"""What the contract suites of the broker share: names, and what they wait with."""

import asyncio
from collections.abc import Awaitable, Callable

from greenroom.common.broker import (
    Broker,
    Message,
    Reader,
)

LEDGER = "gr.v1.session.t.one.lifecycle"
OTHER = "gr.v1.session.t.two.lifecycle"
EVENT = "gr.v1.session.t.one.event.user_spoke"
ALL_LEDGERS = "gr.v1.session.*.*.lifecycle"
AUDIO = "gr.v1.session.t.one.audio.user"

type Connect = Callable[[], Awaitable[Broker]]


async def take(reader: Reader, count: int) -> list[Message]:
    """Return the next `count` messages of a reader."""
    taken: list[Message] = []
    async with asyncio.timeout(10):
        async for message in reader:
            taken.append(message)
            if len(taken) == count:
                break
    return taken


async def settle() -> None:
    """Give what must not happen the time to happen."""
    await asyncio.sleep(0.1)
