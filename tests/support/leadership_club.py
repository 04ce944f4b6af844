"""Several that want to lead, on brokers in memory that can be cut off, hang and be slow."""

import asyncio
from collections.abc import Mapping
from typing import Any

from greenroom.common import subjects
from greenroom.common.leadership import Leadership
from tests.support.leaping_time import LoopClock
from tests.support.memory_broker import MemoryBroker, MemoryServer

NAME = "scheduler"
SUBJECT = subjects.LEADER.format(name=NAME)


class Member:
    """One that takes part, and what it noted while it led."""

    def __init__(self, broker: MemoryBroker, holder: str, leaders: list[tuple[float, str, str]]) -> None:
        self.broker = broker
        self.leadership = Leadership(broker, NAME, holder, clock=LoopClock())
        self.task = asyncio.create_task(self.leadership.run(self.lead))
        self._leaders = leaders

    async def lead(self) -> None:
        """Lead until canceled."""
        self._note("begins")
        try:
            await asyncio.Event().wait()
        finally:
            self._note("ends")

    def crash(self) -> None:
        """Vanish: nothing more is written, whatever the end of the task would like to."""
        self.broker.connected = False
        self.task.cancel()

    async def leave(self) -> None:
        """End in order."""
        self.task.cancel()
        await asyncio.wait({self.task})

    def _note(self, what: str) -> None:
        self._leaders.append((asyncio.get_running_loop().time(), self.leadership.holder, what))


class Club:
    """Several that take part, each on a connection of its own."""

    def __init__(self, *holders: str) -> None:
        self.server = MemoryServer()
        self.notes: list[tuple[float, str, str]] = []
        self.members = {holder: self.join(holder) for holder in holders}

    def join(self, holder: str, broker: MemoryBroker | None = None) -> Member:
        """Add one."""
        return Member(broker or self.server.connect(), holder, self.notes)

    @property
    def leading(self) -> list[str]:
        """Who leads now, or believes to."""
        return [holder for holder, member in self.members.items() if member.leadership.leading]

    async def leader(self, *, other_than: str = "", within_s: float = 10.0) -> Member:
        """Wait for the one who leads."""
        async with asyncio.timeout(within_s):
            while not [holder for holder in self.leading if holder != other_than]:
                await asyncio.sleep(0.01)
        return self.members[next(holder for holder in self.leading if holder != other_than)]

    def times(self, holder: str, what: str) -> list[float]:
        """Return when one began or ended to lead."""
        return [at for at, who, noted in self.notes if (who, noted) == (holder, what)]


class Hanging(MemoryBroker):
    """A connection that doesn't know that it is cut off: what is sent gets no answer, for longer than was asked for."""

    async def append(
        self,
        subject: str,
        data: bytes,
        *,
        msg_id: str | None = None,
        expected_last: int | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 12.0,
    ) -> int:
        """See `Broker.append`."""
        if not self.connected:
            await asyncio.sleep(timeout_s + 5)
        return await super().append(
            subject, data, msg_id=msg_id, expected_last=expected_last, headers=headers, timeout_s=timeout_s
        )


class Slow(MemoryBroker):
    """A connection on which answers take a while, `answer_s`."""

    def __init__(self, server: MemoryServer, answer_s: float) -> None:
        super().__init__(server)
        self._answer_s = answer_s

    async def append(self, *args: Any, **options: Any) -> int:
        """See `Broker.append`."""
        sequence = await super().append(*args, **options)
        await asyncio.sleep(self._answer_s)
        return sequence
