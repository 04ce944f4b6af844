"""Connections to PostgreSQL that end in odd ways."""

from collections.abc import AsyncGenerator

import pytest

from greenroom.common.errors import DatabaseUnavailable
from greenroom.recorder.database import Pool, close_pool, open_pool
from greenroom.recorder.store import Store
from tests.support.goodbyes import say_goodbye


@pytest.fixture
async def pool(database: str) -> AsyncGenerator[Pool]:
    """A pool with one connection, which has been used."""
    made = await open_pool(database, size=1)
    await Store(made).ping()
    yield made
    await close_pool(made, timeout_s=5)


async def test_a_goodbye_to_an_idle_connection(pool: Pool) -> None:
    """A server that has said that it ends is away for the one who asks next, and the one after has a new connection."""
    store = Store(pool)
    await say_goodbye(pool)
    with pytest.raises(DatabaseUnavailable):
        await store.ping()
    await store.ping()


async def begin(store: Store) -> set[str]:
    """Begin a batch."""
    async with store.transaction() as transaction:
        return (await transaction.look_up(["s"]))[1]


async def test_a_goodbye_before_a_transaction(pool: Pool) -> None:
    """The same for a batch: it can't begin, and does on the second try."""
    store = Store(pool)
    await say_goodbye(pool)
    with pytest.raises(DatabaseUnavailable):
        await begin(store)
    assert await begin(store) == set()


async def test_a_goodbye_before_a_query(pool: Pool) -> None:
    """The same for what asks for rows."""
    store = Store(pool)
    await say_goodbye(pool)
    with pytest.raises(DatabaseUnavailable):
        await store.sealed(["s"])
    assert await store.sealed(["s"]) == set()
