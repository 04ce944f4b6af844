"""API keys, as the command makes them."""

import hashlib
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from greenroom.common.errors import DatabaseUnavailable
from greenroom.devtools import keys
from tests.support.shell import command


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


_NOW = datetime(2027, 1, 30, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("90d", _NOW + timedelta(days=90)),
        ("12h", _NOW + timedelta(hours=12)),
        ("30m", _NOW + timedelta(minutes=30)),
        # Still good on that day, in UTC.
        ("2027-01-31", datetime(2027, 2, 1, tzinfo=UTC)),
        ("2027-01-30", datetime(2027, 1, 31, tzinfo=UTC)),
        ("2027-01-31T08:30", datetime(2027, 1, 31, 8, 30, tzinfo=UTC)),
        ("2027-01-31T08:30+02:00", datetime(2027, 1, 31, 6, 30, tzinfo=UTC)),
    ],
)
def test_an_expiry_is_a_span_or_a_date(text: str, at: datetime) -> None:
    """Whichever is easier to say."""
    assert keys.expiry(text, _NOW) == at


@pytest.mark.parametrize(
    "text", ["", "d", "1y", "-1d", "0d", "2027-01-29", "2027-01-30T12:00", "soon", "9" * 12 + "d", "9999-12-31"]
)
def test_what_is_no_expiry_is_refused(text: str) -> None:
    """A key that is dead from the beginning helps nobody."""
    with pytest.raises(ValueError, match=r"is neither a span|is over"):
        keys.expiry(text, _NOW)


async def test_a_key_may_have_an_end(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is kept, listed and shown; one that is over is marked, and one without an end isn't."""
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("COLUMNS", "200")
    for name, *expires in (("for-good",), ("for-a-day", "--expires", "1d")):
        assert (await command("keys", "create", name, *expires)).exit_code == 0
    over = datetime(2020, 1, 31, 12, tzinfo=UTC)
    await keys.create(database, tenant="acme", name="over", expires_at=over)
    listed = {key.name: (key.expires_at is not None, key.expired) for key in await keys.listed(database)}
    assert listed == {"for-good": (False, False), "for-a-day": (True, False), "over": (True, True)}
    shown = (await command("keys", "list")).output
    assert shown.count("expired") == 1
    assert over.isoformat() in shown
    refused = await command("keys", "create", "x", "--expires", "2000-01-01")
    assert refused.exit_code == 2
    assert "is over" in refused.stderr
    assert len(await keys.listed(database)) == 3


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
