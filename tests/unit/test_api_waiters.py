"""Waiting for a session: what the broker says is stored is what is waited for."""

import asyncio

import pytest

from greenroom.api.waiters import LOOK_EVERY_S, Waiters
from greenroom.common import subjects
from greenroom.common.errors import LedgerConflict
from greenroom.common.ledger import Ledger
from greenroom.common.lifecycle import Session, State
from tests.support.leaping_time import run_virtual
from tests.support.ledgers import leased, request
from tests.support.memory_broker import MemoryServer

_LEASED = frozenset({State.LEASED})


def _has_lease(session: Session) -> bool:
    return session.leased_at is not None


def test_a_transition_is_heard_of_as_it_is_stored() -> None:
    """The answer needs no read of the ledger, and has the revision that the next write is made on."""

    async def scenario() -> None:
        server = MemoryServer()
        broker, blind = server.connect(), server.connect()
        ledger = Ledger(broker)
        entry = await ledger.create(request())
        blind.connected = False  # whoever reads now is told that it can't be
        waiters, loop = Waiters(broker, Ledger(blind)), asyncio.get_running_loop()
        async with waiters.watch(entry.session.tenant, entry.session.id, _LEASED) as watch:
            began = loop.time()
            moved = await ledger.advance(entry, leased())
            found = await waiters.wait(watch, entry, _has_lease, 5.0)
        assert found == moved
        assert loop.time() - began < LOOK_EVERY_S

    run_virtual(scenario())


def test_what_is_not_heard_of_is_looked_for() -> None:
    """A message that was lost costs a second, not the answer."""

    async def scenario() -> None:
        server = MemoryServer()
        broker, deaf = server.connect(), server.connect()
        ledger = Ledger(broker)
        entry = await ledger.create(request())
        waiters = Waiters(deaf, ledger)
        async with waiters.watch(entry.session.tenant, entry.session.id, _LEASED) as watch:
            deaf.connected = False
            moved = await ledger.advance(entry, leased())
            found = await waiters.wait(watch, entry, _has_lease, 5.0)
        assert found == moved

    run_virtual(scenario())


def test_a_write_that_is_refused_is_not_believed() -> None:
    """Others hear of it on the ledger's own subject; whoever waits doesn't."""

    async def scenario() -> None:
        broker = MemoryServer().connect()
        ledger = Ledger(broker)
        entry = await ledger.create(request())
        ended = await ledger.advance(entry, leased())
        waiters = Waiters(broker, ledger)
        async with waiters.watch(entry.session.tenant, entry.session.id, _LEASED) as watch:
            with pytest.raises(LedgerConflict):
                await ledger.advance(entry, leased())
            assert await watch.newer(ended.revision, 1.0) is None

    run_virtual(scenario())


def test_what_is_no_entry_is_passed_over() -> None:
    """Garbage, an entry without a sequence, and one that is older than what is known change nothing."""

    async def scenario() -> None:
        broker = MemoryServer().connect()
        ledger = Ledger(broker)
        entry = await ledger.create(request())
        tenant, session_id = entry.session.tenant, entry.session.id
        subject = subjects.SESSION_STORED.format(tenant=tenant, session_id=session_id)
        stored = await broker.last("SESSIONS", subjects.SESSION_LIFECYCLE.format(tenant=tenant, session_id=session_id))
        assert stored is not None
        waiters = Waiters(broker, ledger)
        async with waiters.watch(tenant, session_id, frozenset({State.REQUESTED})) as watch:
            await broker.publish(subject, b"{")
            await broker.publish(subject, stored.data)
            await broker.publish(subject, stored.data, {"Nats-Sequence": "x"})
            await broker.publish(subject, stored.data, {"Nats-Sequence": str(entry.revision)})
            assert await watch.newer(entry.revision, 1.0) is None

    run_virtual(scenario())
