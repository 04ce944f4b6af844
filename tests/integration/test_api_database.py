"""The api and a PostgreSQL that ends."""

import pytest

from greenroom.api.store import open_store
from greenroom.common.errors import DatabaseUnavailable
from tests.support.goodbyes import say_goodbye


async def test_a_goodbye_to_an_idle_connection(database: str) -> None:
    """A server that has said that it ends is away for the one who asks next, and the one after has a new connection."""
    store = await open_store(database)
    version = await store.schema_version()
    assert version is not None
    await say_goodbye(store._pool)
    with pytest.raises(DatabaseUnavailable):
        await store.schema_version()
    assert await store.schema_version() == version
    await store.close()
