"""API keys, as the command makes them."""

import hashlib

import asyncpg
import pytest

from greenroom.common.errors import DatabaseUnavailable
from greenroom.devtools import keys


async def rows(dsn: str) -> list[asyncpg.Record]:
    """Return what the table holds."""
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetch("SELECT * FROM api_keys ORDER BY created_at")
    finally:
        await connection.close()


async def test_a_key_is_kept_as_its_digest_only(database: str) -> None:
    """What is in the table can't be used to get in: a digest, and ten characters to know it by."""
    token = await keys.create(database, tenant="acme", name="ci", scopes=("sessions:read",))
    assert token.startswith("gr_")
    assert len(token) == 46
    (row,) = await rows(database)
    assert row["sha256"] == hashlib.sha256(token.encode()).hexdigest()
    assert token not in str(dict(row))
    assert (row["prefix"], row["tenant"], row["name"], row["scopes"]) == (token[:10], "acme", "ci", ["sessions:read"])


async def test_keys_are_listed_newest_first(database: str) -> None:
    """Without the keys themselves."""
    tokens = [await keys.create(database, tenant="acme", name=name) for name in ("first", "second")]
    listed = await keys.listed(database)
    assert [key.name for key in listed] == ["second", "first"]
    assert [key.prefix for key in listed] == [tokens[1][:10], tokens[0][:10]]
    assert (listed[0].scopes, listed[0].last_used_at, listed[0].revoked) == (("*",), None, False)
    assert len({*tokens, *(key.id for key in listed)}) == 4


async def test_a_known_key_is_made_valid_again(database: str) -> None:
    """The development key of a checkout is the same after each start, and has one row."""
    for _ in range(2):
        await keys.ensure(database, "gr_development", tenant="default", name="development")
        assert [key.revoked for key in await keys.listed(database)] == [False]
        assert await keys.revoke(database, "gr_development") == 1
        assert [key.revoked for key in await keys.listed(database)] == [True]


async def test_a_key_is_revoked_by_its_beginning_or_whole(database: str) -> None:
    """As it is listed, shorter where that is clear, or as it was handed out; a second time there is nothing to do."""
    for cut in (10, 8, 46):
        token = await keys.create(database, tenant="acme", name="ci")
        other = await keys.create(database, tenant="acme", name="other")
        assert await keys.revoke(database, token[:cut]) == 1
        assert await keys.revoke(database, token[:cut]) == 0
        assert {key.prefix for key in await keys.listed(database) if not key.revoked} == {other[:10]}
        assert await keys.revoke(database, other) == 1


@pytest.mark.parametrize("beginning", ["", "g", "gr_", "x", "%", "gr_%"])
async def test_what_names_no_key_revokes_none(database: str, beginning: str) -> None:
    """A slip of the finger doesn't lock everybody out."""
    await keys.create(database, tenant="acme", name="ci")
    assert await keys.revoke(database, beginning) == 0
    assert [key.revoked for key in await keys.listed(database)] == [False]


async def test_without_the_table_the_advice_is_to_migrate(empty_database: str) -> None:
    """The error is one of the catalogue, not the driver's."""
    with pytest.raises(DatabaseUnavailable):
        await keys.create(empty_database, tenant="acme", name="ci")
