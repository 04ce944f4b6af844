"""Which statements are looked at, with which values: all that the api and the recorder send to tables that grow.

The SQL is always the product's own, found by the name of its constant, or made by the product's own function. A test
compares the list with what stands in the services, so that a statement that is added there has to be added here.
"""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from types import ModuleType
from typing import Any, Final

import asyncpg
import msgspec

from greenroom.api import sql as api_sql
from greenroom.api.sql import SessionFilter
from greenroom.recorder.transcripts import ROUND_LIMIT
from greenroom.recorder.usage.lines import KINDS, TYPES
from tests.bench.query_data import AGENT, QUIET_TENANT, TENANT

# Tables whose size follows the number of calls.
LARGE: Final = frozenset(
    {
        "sessions",
        "session_events",
        "recordings",
        "usage",
        "usage_priced",
        "usage_days",
        "usage_days_due",
        "usage_between",
        "notices",
        "transcripts",
        "webhook_deliveries",
        "post_call_steps",
        "audit",
        "tombstones",
    }
)
_PACKAGES: Final = ("greenroom.api", "greenroom.recorder", "greenroom.common")
_SQL: Final = re.compile(r"\s*(WITH|SELECT|INSERT|UPDATE|DELETE)\b")
_TABLES: Final = re.compile(rf"\b({'|'.join(sorted(LARGE))})\b(?!')")

# Statements on large tables that aren't looked at, each with the reason.
LEFT_OUT: Final = {
    "recorder.transaction._UPSERT_SESSIONS": "adds rows that it is given; a conflict is found by the primary key",
    "recorder.transaction._INSERT_EVENTS": "adds rows that it is given; a conflict is found by a key",
    "recorder.store._UPSERT_RECORDING": "adds a row that it is given; a conflict is found by the primary key",
    "recorder.transaction._REMIND": "adds a row for each session that it is given; they are found by the primary key",
    "recorder.usage.store._LIVE": "is about the calls that run now, which are few, and their new events, by keys",
    "recorder.retention.store._BURY": "adds rows that it is given; a conflict is found by the primary key",
    "recorder.post_call.store._QUEUED": "adds rows that it is given; a conflict is found by the primary key",
    "recorder.post_call.store._BEGIN": "adds a row that it is given; a conflict is found by the primary key",
    "recorder.webhooks.notices._STORE": "adds a row that it is given; a conflict is found by the primary key",
    "common.audit._INSERT": "adds a row that it is given",
    "api.retention_store._LAST_RUN": "reads a table with a row for each day, whose columns are called like others",
    "recorder.retention.store._INSERT_RUN": "adds a row to that table",
    "api.webhook_endpoints._ADD_TEST": "adds a row that it is given",
    "api.daily_rooms._TAKEN": "is about a tenant's sessions that run now, which are few, by tenant and state",
}


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """A statement with the values of one case.

    Attributes:
        name: of its golden file: where the statement is, and which case.
        of: where its constant is, in the same words; several cases share one.
        text: the SQL.
        values: its parameters.
        setup: statements that the product sends before it, in the same transaction.
    """

    name: str
    of: str
    text: str
    values: tuple[Any, ...]
    setup: tuple[str, ...] = ()


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to ask for.

    Attributes:
        now: of the database.
        session: an ended one of the busy tenant, of the middle of the year.
        requested_at: when that was requested.
        recent: an ended one of it of the last days.
        live: a live one.
        many: ids of a hundred ended ones, from the whole year.
        endpoint: of the busy tenant.
        delivery: one of its.
    """

    now: datetime
    session: str
    requested_at: datetime
    recent: str
    live: str
    many: list[str]
    endpoint: str
    delivery: str


async def sample(connection: Any) -> Sample:
    """Return what queries of this database can ask for."""
    middle = await connection.fetchrow(
        "SELECT id, requested_at FROM sessions WHERE tenant = $1 AND requested_at < now() - interval '180 days' "
        "ORDER BY requested_at DESC, id DESC LIMIT 1",
        TENANT,
    )
    delivery = await connection.fetchrow(
        "SELECT id, endpoint_id, session_id FROM webhook_deliveries WHERE endpoint_id = $1 AND state = 'delivered' "
        "ORDER BY created_at, id LIMIT 1",
        f"endpoint-{TENANT}-1",
    )
    return Sample(
        now=await connection.fetchval("SELECT now()"),
        session=middle["id"],
        requested_at=middle["requested_at"],
        recent=delivery["session_id"],
        live=await connection.fetchval("SELECT id FROM sessions WHERE state = 'ready' ORDER BY id LIMIT 1"),
        many=[
            row["id"]
            for row in await connection.fetch(
                "SELECT id FROM (SELECT id, row_number() OVER (ORDER BY id) AS n, count(*) OVER () AS all FROM sessions"
                " WHERE sealed_at IS NOT NULL) AS counted WHERE n % (counted.all / 100) = 0 ORDER BY id LIMIT 100"
            )
        ],
        endpoint=delivery["endpoint_id"],
        delivery=delivery["id"],
    )


def catalogue(found: Sample) -> list[Query]:
    """Return all statements with values to be looked at."""
    return [*_listings(found), *_api(found), *_usage(found), *_recorder(found), *_housekeeping(found)]


def unlisted(queries: list[Query]) -> list[str]:
    """Return the statements of the services on large tables that are neither among `queries` nor left out."""
    known = {query.of for query in queries} | LEFT_OUT.keys()
    return sorted(name for name, text in statements() if _TABLES.search(text) and name not in known)


def statements() -> Iterator[tuple[str, str]]:
    """Yield every constant of the services that is SQL, by where it is."""
    for package in map(importlib.import_module, _PACKAGES):
        for module in map(importlib.import_module, _modules(package)):
            for name, value in vars(module).items():
                if isinstance(value, str) and _SQL.match(value):
                    yield f"{module.__name__.removeprefix('greenroom.')}.{name}", value


def _modules(package: ModuleType) -> Iterator[str]:
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not found.name.endswith(".__main__"):
            yield found.name


def _query(of: str, *values: Any, case: str = "", setup: tuple[str, ...] = (), **made: str) -> Query:
    """Return a statement by where its constant is; `made` fills what the product fills in."""
    module, _, constant = of.rpartition(".")
    text: str = getattr(importlib.import_module(f"greenroom.{module}"), constant)
    name = f"{module}.{constant.removeprefix('_').lower()}{'.' * bool(case)}{case}"
    return Query(name=name, of=of, text=text.format(**made) if made else text, values=values, setup=setup)


def _listings(found: Sample) -> Iterator[Query]:
    behind = (found.requested_at, found.session)
    week = found.requested_at - timedelta(days=7)
    for tenant, whose in ((TENANT, "busy"), (QUIET_TENANT, "quiet")):
        for case, wanted in (
            ("all", SessionFilter()),
            ("state", SessionFilter(state="ended")),
            ("live", SessionFilter(state="ready")),
            ("agent", SessionFilter(agent=AGENT)),
            ("outcome", SessionFilter(outcome="failed")),
            ("agent-outcome", SessionFilter(agent=AGENT, outcome="lost")),
            ("week", SessionFilter(since=week, until=found.requested_at)),
            ("week-agent", SessionFilter(since=week, until=found.requested_at, agent=AGENT)),
            ("behind", SessionFilter(before=behind)),
            ("state-behind", SessionFilter(state="ended", before=behind)),
            ("agent-behind", SessionFilter(agent=AGENT, before=behind)),
            ("outcome-behind", SessionFilter(outcome="failed", before=behind)),
        ):
            text, values = api_sql.sessions(tenant, wanted, 101)
            yield Query(name=f"api.sql.sessions.{whose}.{case}", of="api.sql.sessions", text=text, values=tuple(values))


def _api(found: Sample) -> Iterator[Query]:
    yield _query("api.sql.SESSION", TENANT, found.session)
    yield _query("api.sql.SESSION_COUNTS", TENANT)
    yield _query("api.sql.EVENTS", found.session, 0, 500)
    yield _query("api.sql.RECORDING", found.session)
    yield _query("api.post_call._OF_SESSION", found.session, TENANT)
    shelves = "api.reading.shelves."
    setup = (_query(f"{shelves}_PLAN_EACH").text,)
    anything = (None, None, None, None, None, 21)
    week = (found.requested_at - timedelta(days=7), found.requested_at)
    for case, values in (
        ("rare", (TENANT, "lighthouse", *anything)),
        ("frequent", (TENANT, "monday morning", *anything)),
        ("frequent-quiet", (QUIET_TENANT, "monday morning", *anything)),
        ("agent", (TENANT, "friday", AGENT, *anything[1:])),
        ("week", (TENANT, "friday", None, *week, None, None, 21)),
        ("behind", (TENANT, "friday", None, None, None, found.requested_at, found.session, 21)),
    ):
        yield _query(f"{shelves}_SEARCH", *values, case=case, setup=setup)
    day = (found.requested_at - timedelta(days=1), found.requested_at)
    yield _query(f"{shelves}_EXPORT", TENANT, *day, None, day[0], "", 500, case="day")
    yield _query(f"{shelves}_EXPORT", TENANT, *day, AGENT, *(day[0], found.session), 500, case="agent-behind")
    kept = "api.retention_store."
    yield _query(f"{kept}_BEGUN", found.session)
    yield _query(f"{kept}_HELD", found.session, TENANT, AGENT)
    yield _query(f"{kept}_REQUESTED", found.session)
    hooks = "api.webhook_endpoints."
    for case, values in (
        ("all", (None, None, None, None)),
        ("dead", ("dead", None, None, None)),
        ("pending", ("pending", None, None, None)),
        ("session", (None, found.recent, None, None)),
        ("behind", (None, None, found.now - timedelta(days=10), found.delivery)),
    ):
        yield _query(f"{hooks}_DELIVERIES", found.endpoint, *values, 51, case=case)
    yield _query(f"{hooks}_ONE_DELIVERY", found.endpoint, found.delivery)
    yield _query(f"{hooks}_REPLAY", found.endpoint, found.delivery)


def _usage(found: Sample) -> Iterator[Query]:
    keys: dict[str, str] = importlib.import_module("greenroom.api.billing.usage")._KEYS
    day, month = timedelta(days=1), timedelta(days=30)
    used = "api.billing.usage."
    for group, key in keys.items():
        values = (found.requested_at - day, found.requested_at, TENANT, None, None, "UTC", None, None, 101, None)
        of = f"{used}_SESSIONS" if group == "session" else f"{used}_GROUPS"
        yield _query(of, *values, case=f"day-by-{group}", key=key)
    for case, group, zone in (("", "day", "UTC"), ("-unit", "unit", "UTC"), ("-day-elsewhere", "day", "Asia/Kolkata")):
        everyone = (found.now - month, found.now, None, None, None, zone, None, None, 101, None)
        yield _query(f"{used}_GROUPS", *everyone, case=f"everyones-month-by{case or '-day'}", key=keys[group])
    one = (found.requested_at - month, found.now, TENANT, None, None, "UTC", None, None, 101, found.session)
    yield _query(f"{used}_SESSIONS", *one, case="one-session", key=keys["session"])


def _recorder(found: Sample) -> Iterator[Query]:
    store = "recorder.store."
    for name in ("_SELECT_ERASED", "_SELECT_FOR_AUDIO", "_SELECT_SEALED"):
        yield _query(f"{store}{name}", found.many)
    yield _query("recorder.transaction._SELECT_KNOWN", found.many)
    yield _query("recorder.transaction._REVIVE", found.many, found.many[:10])
    yield _query(f"{store}_SELECT_UNSEALED", [found.live], 100)
    yield _query(f"{store}_MARK_SEALED", found.session)
    yield _query(f"{store}_MARK_ALL_SEALED", found.many)
    yield _query(f"{store}_SELECT_UNHEARD", 10.0, 100)
    yield _query(f"{store}_SELECT_PURGEABLE", 30.0, 1000)
    yield _query(f"{store}_MARK_PURGED", found.session, 1)
    spoken = "recorder.transcripts."
    types = importlib.import_module("greenroom.recorder.transcripts")._TYPES
    yield _query(f"{spoken}_SELECT_DUE", ROUND_LIMIT)
    yield _query(f"{spoken}_LOCK", found.many)
    yield _query(f"{spoken}_SELECT_EVENTS", found.many, types)
    yield _query(f"{spoken}_DELETE", found.many)
    yield _query(f"{spoken}_MARK", found.many)
    yield _query("recorder.reconcile._SELECT_REVISIONS", found.many)
    yield _query("recorder.reconcile._SELECT_OPEN", 2000)
    used = "recorder.usage.store."
    yield _query(f"{used}_MARK", found.many)
    yield _query(f"{used}_DUE", 1.0, 100)
    yield _query(f"{used}_SESSIONS", found.many)
    yield _query(f"{used}_EVENTS", found.many, TYPES, KINDS)
    yield _query(f"{used}_FORGET", found.many)
    since = found.now - timedelta(days=found.now.day - 1)
    yield _query(f"{used}_SPENT", [TENANT, QUIET_TENANT], ["*", AGENT], [since] * 2, [found.now] * 2, ["EUR"] * 2)
    for name, values in (
        ("_DUE", (60.0, 600.0, 200)),
        ("_TAKE", (TENANT, found.requested_at.date())),
        ("_FORGET", (TENANT, found.requested_at.date())),
        # Of which there are no sums yet.
        ("_ADD_UP", (TENANT, found.now.date())),
    ):
        yield _query(f"recorder.usage.days.{name}", *values)
    calls = "recorder.post_call.store."
    yield _query(f"{calls}_NEXT_SEALED", 60.0)
    yield _query(f"{calls}_NOTE", found.session, "summary", "done", None, None, 1)
    yield _query(f"{calls}_CALL", found.session, TENANT)
    yield _query(f"{calls}_LINES", found.session)
    hooks = "recorder.webhooks.store."
    yield _query(f"{hooks}_TAKE", [found.endpoint], [1], 4, 64, False, 30.0)  # noqa: FBT003 a value of the statement
    yield _query(f"{hooks}_NOTE_ATTEMPT", found.delivery, "delivered", 200, "")
    yield _query(f"{hooks}_NEXT_IN_LANE", found.endpoint, found.live)
    yield _query(f"{hooks}_EXPIRE", 60.0, 500)
    week, month = timedelta(days=7).total_seconds(), timedelta(days=30).total_seconds()
    yield _query(f"{hooks}_FORGET", week, month, 1000)
    yield _query(f"{hooks}_FORGET_ENDPOINTS")
    yield _query(f"{hooks}_COUNT_PENDING")
    yield _query(f"{hooks}_FORGET_NOTICES", month)


def _housekeeping(found: Sample) -> Iterator[Query]:
    kept = "recorder.retention.store."
    yield _query(f"{kept}_SELECT_ENDED", found.requested_at, found.now - timedelta(days=400), "", 1000, case="first")
    yield _query(f"{kept}_SELECT_ENDED", found.now, found.requested_at, found.session, 1000, case="behind")
    yield _query(f"{kept}_SELECT_OPEN", 100)
    yield _query(f"{kept}_BEGIN", found.many, ["recording"] * len(found.many))
    yield _query(f"{kept}_SELECT_UNCOUNTED", found.many)
    yield _query(f"{kept}_DELETE_SESSION", found.session)
    yield _query(f"{kept}_DELETE_RECORDING", found.session)
    yield _query(f"{kept}_DELETE_WISHES", found.session)
    yield _query(f"{kept}_SELECT_BURIED", 30)
    yield _query(f"{kept}_COUNT_DELETIONS", "retention", found.now - timedelta(days=1))
    statement: Any = importlib.import_module(f"greenroom.{kept}"[:-1])._statement
    for table in ("session_events", "transcripts", "usage", "webhook_deliveries", "post_call_steps", "recordings"):
        # Of a session that is erased as a whole, whichever table it is in.
        of = f"{kept}_statement"
        yield Query(name=f"{kept}erase.{table}", of=of, text=statement(table), values=(found.session,))


async def found_in(dsn: str) -> list[Query]:
    """Return the catalogue with values of a database."""
    connection = await asyncpg.connect(dsn)
    try:
        return catalogue(await sample(connection))
    finally:
        await connection.close()
