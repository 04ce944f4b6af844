"""Waiting for a session: what is heard of may not be readable yet."""

import asyncio
from typing import override

from greenroom.api.waiters import LOOK_EVERY_S, Waiters
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import Session, State
from tests.support.ledgers import leased, request
from tests.support.memory_broker import MemoryBroker, MemoryServer


class _Behind(Ledger):
    """A ledger that is read as it was before, for some reads."""

    def __init__(self, broker: MemoryBroker, *, reads: int) -> None:
        super().__init__(broker)
        self.before: Entry | None = None
        self._reads = reads

    @override
    async def last(self, tenant: str, session_id: str) -> Entry | None:
        if self._reads:
            self._reads -= 1
            return self.before
        return await super().last(tenant, session_id)


async def test_a_write_that_is_heard_of_before_it_can_be_read_is_looked_for_again_soon() -> None:
    """The answer comes within milliseconds, not with the next regular look."""
    broker = MemoryServer().connect()
    ledger = _Behind(broker, reads=2)
    entry = ledger.before = await ledger.create(request())
    waiters, loop = Waiters(broker, ledger), asyncio.get_running_loop()

    def has_lease(session: Session) -> bool:
        return session.leased_at is not None

    async with waiters.watch(entry.session.tenant, entry.session.id, frozenset({State.LEASED})) as watch:
        began = loop.time()
        await ledger.advance(entry, leased())
        found = await waiters.wait(watch, entry, has_lease, 5.0)
    assert has_lease(found.session)
    assert loop.time() - began < LOOK_EVERY_S / 2
