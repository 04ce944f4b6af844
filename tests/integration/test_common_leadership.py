"""Leadership on NATS: one leads, and another one takes over."""

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest

from greenroom.common import topology_admin
from greenroom.common.leadership import Leadership
from greenroom.common.nats_broker import NatsBroker
from greenroom.devtools.embedded.nats import EmbeddedNats


class Member:
    """One that takes part, on a connection of its own."""

    def __init__(self, broker: NatsBroker, holder: str) -> None:
        self.broker = broker
        self.leadership = Leadership(broker, "scheduler", holder)
        self.led = 0
        self.canceled = 0
        self.task = asyncio.create_task(self.leadership.run(self._lead))

    @classmethod
    async def join(cls, url: str, holder: str) -> "Member":
        """Return a new one."""
        return cls(await NatsBroker.connect(url, name=holder), holder)

    async def crash(self) -> None:
        """Vanish without a word: the connection is gone before the task hears of it."""
        await self.broker.close()
        await self.leave()

    async def leave(self) -> None:
        """End in order."""
        self.task.cancel()
        await asyncio.wait({self.task})

    async def _lead(self) -> None:
        self.led += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.canceled += 1


@pytest.fixture
async def members(nats_url: str) -> AsyncGenerator[list[Member]]:
    """Three that take part."""
    admin = await NatsBroker.connect(nats_url, name="admin")
    await topology_admin.apply(admin)
    await admin.close()
    joined = [await Member.join(nats_url, holder) for holder in "abc"]
    yield joined
    for member in joined:
        await member.leave()
        await member.broker.close()


async def leader_of(members: list[Member], within_s: float) -> Member:
    """Wait until somebody leads."""
    async with asyncio.timeout(within_s):
        while not (leading := [member for member in members if member.leadership.leading]):
            await asyncio.sleep(0.01)
    assert len(leading) == 1
    return leading[0]


async def test_a_crashed_leader_is_followed_within_3_5_seconds(members: list[Member]) -> None:
    """One of three leads; when it is gone without a word, one of the other two does."""
    first = await leader_of(members, 1.0)
    await asyncio.sleep(0.5)
    assert [member.led for member in members].count(1) == 1
    others = [member for member in members if member is not first]
    died = time.monotonic()
    await first.crash()
    second = await leader_of(others, 4.0)
    assert time.monotonic() - died <= 3.5
    assert second.leadership.term == first.leadership.term + 1


async def test_a_leader_that_leaves_is_followed_at_once(members: list[Member]) -> None:
    """Its last message says that it goes."""
    first = await leader_of(members, 1.0)
    left = time.monotonic()
    await first.leave()
    assert first.canceled == 1
    await leader_of([member for member in members if member is not first], 1.0)
    assert time.monotonic() - left <= 0.6


async def test_who_leads_stops_when_the_server_dies(own_nats: EmbeddedNats) -> None:
    """Within 3 s its work is canceled; with the server back it leads anew, in a new term."""
    admin = await NatsBroker.connect(own_nats.url, name="admin")
    await topology_admin.apply(admin)
    member = Member(admin, "a")
    await leader_of([member], 1.0)
    await asyncio.sleep(1.1)
    killed = time.monotonic()
    await own_nats.kill()
    async with asyncio.timeout(4):
        while member.leadership.leading:
            await asyncio.sleep(0.01)
    assert time.monotonic() - killed <= 3.1
    assert member.canceled == 1
    await own_nats.start()
    await leader_of([member], 2.0)
    assert member.leadership.term == 2
    await member.leave()
    await admin.close()
