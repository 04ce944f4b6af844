"""What can wait does so while events wait to be stored, and not for ever."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from greenroom.common.clock import utcnow
from greenroom.common.consumer import Retry
from greenroom.common.errors import DatabaseUnavailable
from greenroom.common.messages import Event
from greenroom.common.metrics import Metrics
from greenroom.recorder import ingest, transcripts
from greenroom.recorder.events_first import LONGEST_S, EventsFirst
from greenroom.recorder.ingest import Incoming, Ingest
from greenroom.recorder.transcripts import Transcriber
from greenroom.recorder.usage import store as usage
from greenroom.recorder.usage.keeper import UsageKeeper
from tests.support.leaping_time import run_virtual
from tests.support.memory_broker import MemoryBroker, MemoryServer


class Away:
    """A store whose database is away."""

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Any]:
        """Begin nothing."""
        raise DatabaseUnavailable("away")
        yield


class Asked:
    """A pool that finds nothing, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.queries: list[str] = []

    async def fetch(self, query: str, *_: object) -> list[Any]:
        """Find nothing."""
        self.queries.append(query)
        return []


def test_it_waits_while_events_do() -> None:
    """Until they are stored, or for half a minute."""

    async def scenario() -> None:
        clock = asyncio.get_running_loop().time
        behind = True
        began = clock()
        waiting = asyncio.create_task(EventsFirst(lambda: behind).wait())
        await asyncio.sleep(LONGEST_S / 2)
        assert not waiting.done()
        behind = False
        await waiting
        assert clock() - began < LONGEST_S * 0.6
        behind, began = True, clock()
        await EventsFirst(lambda: behind).wait()
        assert LONGEST_S <= clock() - began < LONGEST_S * 1.1

    run_virtual(scenario())


def test_transcripts_and_usage_wait() -> None:
    """Nothing is asked for while events wait; then each does its round."""

    async def scenario() -> None:
        behind, pool = True, Asked()
        first = EventsFirst(lambda: behind)
        keeper = UsageKeeper(
            pool=pool, broker=MemoryBroker(MemoryServer()), metrics=Metrics(), interval_s=60.0, events_first=first
        )
        both = [
            asyncio.create_task(Transcriber(pool, Metrics(), events_first=first).run()),
            asyncio.create_task(keeper.run()),
        ]
        await asyncio.sleep(LONGEST_S / 2)
        late = {transcripts._SELECT_DUE, usage._DUE}
        assert not late.intersection(pool.queries)
        behind = False
        await asyncio.sleep(1.0)
        assert late.issubset(pool.queries)
        for task in both:
            task.cancel()
        await asyncio.gather(*both, return_exceptions=True)

    run_virtual(scenario())


async def test_a_full_batch_says_that_more_are_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it can't be stored; for a second, and not after a smaller one."""
    store: Any = Away()
    recorder = Ingest(
        broker=MemoryBroker(MemoryServer()), store=store, on_ended=lambda _: None, metrics=Metrics(), max_batch=2
    )
    event = Event(id="e", tenant="t", session_id="s", type="metrics", at=utcnow())
    batch = [Incoming(event=event, stream_seq=number) for number in (1, 2)]
    assert not recorder.behind
    with pytest.raises(Retry):
        await recorder.handle(batch[:1])
    assert not recorder.behind
    with pytest.raises(Retry):
        await recorder.handle(batch)
    assert recorder.behind
    monkeypatch.setattr(ingest, "BEHIND_S", 0.0)
    assert not recorder.behind
