"""What the broker may forget."""

from typing import cast

import pytest

from greenroom.common.errors import BrokerUnavailable
from greenroom.common.metrics import Metrics
from greenroom.recorder.purge import Purger
from greenroom.recorder.store import Purgeable, Store
from tests.support.memory_broker import MemoryBroker, MemoryServer

EVENT = "gr.v1.session.t.{}.event.spoke"


class MemoryStore:
    """What the purger needs of the database."""

    def __init__(self, *due: Purgeable) -> None:
        self.due = list(due)
        self.purged: list[str] = []

    async def purgeable(self, *, grace_s: float, limit: int) -> list[Purgeable]:
        """Return what is due."""
        assert grace_s == 5
        return self.due[:limit]

    async def mark_purged(self, purged: Purgeable) -> None:
        """Remember."""
        self.purged.append(purged.session_id)


def purger(broker: MemoryBroker, store: MemoryStore, *, settled_to: int | None) -> Purger:
    """Return a purger; with `settled_to` None the broker can't say what is dealt with."""

    async def settled() -> int:
        if settled_to is None:
            raise BrokerUnavailable("away")
        return settled_to

    return Purger(broker=broker, store=cast("Store", store), settled_to=settled, grace_s=5, metrics=Metrics())


async def test_only_what_is_stored() -> None:
    """A session is purged up to what is stored of it: what came since stays."""
    broker = MemoryServer().connect()
    stored = [await broker.append(EVENT.format("s"), b"{}") for _ in range(3)][-1]
    await broker.append(EVENT.format("s"), b"{}")
    await broker.append(EVENT.format("other"), b"{}")
    store = MemoryStore(Purgeable(session_id="s", tenant="t", stream_seq=stored))

    assert await purger(broker, store, settled_to=stored).purge() == 1
    assert store.purged == ["s"]
    assert await broker.count("SESSIONS", EVENT.format("s")) == 1
    assert await broker.count("SESSIONS", EVENT.format("other")) == 1


async def test_not_before_everything_is_dealt_with() -> None:
    """While a message before the last stored one waits to be delivered again, its session isn't purged."""
    broker = MemoryServer().connect()
    stored = [await broker.append(EVENT.format("s"), b"{}") for _ in range(3)][-1]
    store = MemoryStore(Purgeable(session_id="s", tenant="t", stream_seq=stored))
    assert await purger(broker, store, settled_to=stored - 1).purge() == 0
    assert await broker.count("SESSIONS", EVENT.format("s")) == 3


async def test_not_without_knowing() -> None:
    """While the broker can't say what is dealt with, nothing is purged."""
    store = MemoryStore(Purgeable(session_id="s", tenant="t", stream_seq=1))
    with pytest.raises(BrokerUnavailable):
        await purger(MemoryServer().connect(), store, settled_to=None).purge()
    assert store.purged == []
