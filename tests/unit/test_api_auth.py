"""Keys and what is remembered of them."""

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from greenroom.api.auth import Caller, Keys
from greenroom.api.cache import Cache
from greenroom.api.store import ApiKey, Store
from greenroom.api.tickets import derive
from greenroom.common.errors import DatabaseUnavailable, KeyExpired, Unauthenticated

NOW = datetime(2026, 3, 2, tzinfo=UTC)
KEY = b"gr_0123456789abcdef"


class HandClock:
    """A clock that goes when told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        """Return the wall time."""
        return NOW + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        """Return the seconds."""
        return self.seconds

    async def sleep(self, delay_s: float) -> None:
        """Let time pass."""
        self.seconds += delay_s


class FakeStore:
    """Knows keys, counts questions, and may be away."""

    def __init__(self, *keys: ApiKey) -> None:
        self.keys = {key.sha256: key for key in keys}
        self.asked = 0
        self.away = False
        self.touched: dict[str, datetime] = {}

    async def api_key(self, sha256: str) -> ApiKey | None:
        """Look a key up."""
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise DatabaseUnavailable
        return self.keys.get(sha256)

    async def touch_api_keys(self, used: dict[str, datetime]) -> None:
        """Write down the last use."""
        if self.away:
            raise DatabaseUnavailable
        self.touched |= used


def stored(**fields: Any) -> ApiKey:
    """Return a key as it is stored."""
    digest = hashlib.sha256(KEY).hexdigest()
    values: dict[str, Any] = {"id": "k-1", "tenant": "t", "sha256": digest, "scopes": frozenset({"sessions:read"})}
    return ApiKey(**values | fields)


def make(*keys: ApiKey) -> tuple[Keys, FakeStore, HandClock]:
    """Return what is tested and what it stands on."""
    store, clock = FakeStore(*keys), HandClock()
    return Keys(cast("Store", store), clock=clock), store, clock


async def test_a_key_is_looked_up_once_in_a_while() -> None:
    """Within five seconds nobody asks again, however many requests come."""
    keys, store, clock = make(stored())
    callers = await asyncio.gather(*(keys.authenticate(b"Bearer " + KEY) for _ in range(10)))
    assert {caller.tenant for caller in callers} == {"t"}
    assert store.asked == 1
    clock.seconds = 4.9
    await keys.authenticate(b"bearer " + KEY)
    assert store.asked == 1
    clock.seconds = 5.1
    await keys.authenticate(b"Bearer " + KEY)
    assert store.asked == 2


async def test_a_new_key_works_after_a_second() -> None:
    """That a key is unknown is forgotten sooner than that it is known."""
    keys, store, clock = make()
    with pytest.raises(Unauthenticated):
        await keys.authenticate(b"Bearer " + KEY)
    store.keys[stored().sha256] = stored()
    clock.seconds = 1.1
    assert (await keys.authenticate(b"Bearer " + KEY)).key_id == "k-1"


async def test_a_known_key_works_while_the_database_is_away() -> None:
    """What was known stays known, for as long as nothing better can be found out; what was unknown doesn't."""
    keys, store, clock = make(stored())
    await keys.authenticate(b"Bearer " + KEY)
    store.away = True
    clock.seconds = 3600
    assert (await keys.authenticate(b"Bearer " + KEY)).tenant == "t"
    with pytest.raises(DatabaseUnavailable):
        await keys.authenticate(b"Bearer gr_another")


async def test_a_key_expires_even_while_it_is_remembered() -> None:
    """The date is looked at each time, and whoever comes too late is told so, not that the key is unknown."""
    keys, store, clock = make(stored(expires_at=NOW + timedelta(seconds=2)))
    clock.seconds = 1.9
    await keys.authenticate(b"Bearer " + KEY)
    store.away = True
    for clock.seconds in (2, 3600):
        with pytest.raises(KeyExpired, match="expired at 2026-03-02T00:00:02"):
            await keys.authenticate(b"Bearer " + KEY)


@pytest.mark.parametrize(
    "header", [None, b"", b"Bearer", b"Bearer x", b"Basic " + KEY, KEY, b"Bearergr_x", b"Bearer gr_" + b"x" * 300]
)
async def test_what_is_no_key_is_not_looked_up(header: bytes | None) -> None:
    """The database isn't asked about nonsense."""
    keys, store, _ = make(stored())
    with pytest.raises(Unauthenticated):
        await keys.authenticate(header)
    assert store.asked == 0


async def test_the_last_use_is_written_when_it_can_be() -> None:
    """What couldn't be written is written later, with the newest time."""
    keys, store, clock = make(stored())
    await keys.authenticate(b"Bearer " + KEY)
    store.away = True
    await keys.flush()
    clock.seconds = 2
    await keys.authenticate(b"Bearer " + KEY)
    store.away = False
    await keys.flush()
    assert store.touched == {"k-1": NOW + timedelta(seconds=2)}


@pytest.mark.parametrize(
    ("scopes", "may"),
    [({"sessions:read"}, True), ({"sessions:write"}, False), (set[str](), False), ({"admin"}, True), ({"*"}, True)],
)
def test_a_caller_may_what_its_scopes_say(scopes: set[str], *, may: bool) -> None:
    """A scope allows itself; `admin` and `*` allow all."""
    caller = Caller(tenant="t", key_id="k", scopes=frozenset(scopes), secret=KEY)
    assert caller.may("sessions:read") is may


def test_a_caller_can_be_shown() -> None:
    """The key isn't in it."""
    assert KEY.decode() not in repr(Caller(tenant="t", key_id="k", scopes=frozenset(), secret=KEY))


def test_a_ticket_belongs_to_a_key_and_a_session() -> None:
    """The same for the same, another for anything else, and nothing of the key in it."""
    ticket = derive(KEY, "s-1")
    assert ticket == derive(KEY, "s-1")
    assert len({ticket, derive(KEY, "s-2"), derive(b"gr_another", "s-1")}) == 3
    assert len(ticket) == 43


# ---------------------------------------------------------------------------- the cache


async def test_those_who_wait_share_one_answer_even_if_the_first_gives_up() -> None:
    """A cancelled lookup leaves nobody waiting for ever."""
    asked = asyncio.Event()

    async def load(_key: str) -> str | None:
        asked.set()
        await asyncio.sleep(60)
        return "never"

    cache: Cache[str, str] = Cache(load, ttl_s=5, absent_ttl_s=1)
    first = asyncio.create_task(cache.get("k"))
    await asked.wait()
    second = asyncio.create_task(cache.get("k"))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    with pytest.raises(DatabaseUnavailable):
        await second


async def test_a_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever tries many keys fills no memory."""
    monkeypatch.setattr("greenroom.api.cache._MAX_ENTRIES", 3)

    async def load(key: int) -> int | None:
        return key

    cache: Cache[int, int] = Cache(load, ttl_s=5, absent_ttl_s=1)
    for key in range(10):
        await cache.get(key)
    assert list(cache._entries) == [7, 8, 9]
