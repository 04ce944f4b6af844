"""How the queries of the api and the recorder do on a year of calls: a million sessions with fifty million events.

    queries.ms.{name}        the slowest ones: the median of eight executions, with warm caches
    queries.over_100ms       how many take longer than that

Every plan is compared with its golden file in `plans/full`, and none may read a large table from one end to the other
unless it is said why (`query_plans.MAY_SCAN`). The data is made in a server of its own, in a folder below `.greenroom`,
which takes 30 GB for a million sessions and is removed at the end. Options, for `make bench only=queries args=…`:

    --sessions=N     how many; plans are judged, and made golden, only for a million
    --golden         make what was found the golden files, those of the small year that tests look at included

Of the small year the planner would rightly read tables as a whole, and join them as a whole; so there it is told not to
where it can be helped. What it does all the same has no index to be done by, however large the tables get, and which
index it takes depends on little else than the statements and the indices.
"""

import shutil
import time
from pathlib import Path
from typing import Final

import asyncpg

from greenroom.devtools.embedded.postgres import EmbeddedPostgres
from greenroom.recorder.migrate import migrate
from tests.bench.query_catalogue import found_in
from tests.bench.query_data import EVENTS_EACH, generate
from tests.bench.query_plans import Looked, Measured, differences, forbidden, look, measure, tables_of, write
from tests.bench.report import Report

GOLDEN: Final = Path(__file__).parent / "plans" / "full"
SMALL_GOLDEN: Final = GOLDEN.with_name("small")
FULL: Final = 1_000_000
SMALL: Final = 2_000
# With these off, a small table is treated as a large one.
_AS_IF_LARGE: Final = ("enable_seqscan", "enable_hashjoin", "enable_mergejoin")
_FOLDER: Final = Path(".greenroom/bench-queries")
_BYTES_EACH: Final = 30_000
_SHOWN: Final = 15
_SLOW_MS: Final = 100.0
# None of these makes a difference to a plan. What is made here can be made again, so nothing of it is logged or synced.
_SETTINGS: Final = {
    "shared_buffers": "2GB",
    "maintenance_work_mem": "1GB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "64GB",
    "checkpoint_timeout": "1h",
    # It would look at the tables whenever it has time; they are looked at once, when all is there.
    "autovacuum": "off",
}
# So many rows of a table go into its statistics that they are the same in each run, as good as.
STATISTICS: Final = 1000


async def run(report: Report, *, sessions: int = FULL, golden: bool = False) -> None:
    """Make the data, look at all queries, and remove it; without room for it, say so."""
    folder = _FOLDER.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < sessions * _BYTES_EACH * 1.5:
        note = f"{sessions:,} sessions take {sessions * _BYTES_EACH >> 30} GiB, of {free >> 30} that are free"
        report.add("queries.room", 0, "", note=note, expected="1", met=False)
        return
    server = EmbeddedPostgres(folder, durable=False)
    try:
        await server.start()
        await _configure(server)
        await migrate(server.dsn)
        began = time.monotonic()
        report.step(f"{sessions:,} sessions with {EVENTS_EACH} events each")
        await generate(server.dsn, sessions, say=report.step, statistics=STATISTICS)
        report.add("queries.generated_s", time.monotonic() - began, "s", note=f"{sessions:,} sessions")
        looked, measured = await _look_at_all(server.dsn, report)
        if golden and sessions == FULL:
            write(looked, GOLDEN)
            await _make_small_golden(server)
    finally:
        await server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    _tell(report, measured)
    if sessions != FULL:
        return
    wrong = forbidden(looked, frozenset(name for name, each in measured.items() if each.generic))
    changed = differences(looked, GOLDEN)
    for name, what in [*((name, ", ".join(scans)) for name, scans in wrong.items()), *changed.items()]:
        report.console.print(f"{name} {what}", highlight=False, markup=False)
    report.add("queries.scans", len(wrong), "queries", expected="0", met=not wrong)
    report.add("queries.changed_plans", len(changed), "queries", expected="0", met=not changed)


async def small(dsn: str) -> list[Looked]:
    """Make a small year in a database with the current schema, and return all queries with their plans."""
    await generate(dsn, SMALL, say=lambda _step: None, statistics=STATISTICS)
    queries = await found_in(dsn)
    connection = await asyncpg.connect(dsn)
    try:
        for name in _AS_IF_LARGE:
            await connection.execute(f"SET {name} = off")
        tables = await tables_of(connection)
        looked: list[Looked] = []
        for query in queries:
            # Words are found by an index that can be read in no other way.
            await connection.execute(f"SET enable_bitmapscan = {'on' if '@@' in query.text else 'off'}")
            looked.append(await look(connection, query, tables))
        return looked
    finally:
        await connection.close()


async def _make_small_golden(server: EmbeddedPostgres) -> None:
    connection = await asyncpg.connect(server.dsn)
    try:
        await connection.execute("CREATE DATABASE small")
    finally:
        await connection.close()
    await migrate(server.dsn_of("small"))
    write(await small(server.dsn_of("small")), SMALL_GOLDEN)


async def _configure(server: EmbeddedPostgres) -> None:
    connection = await asyncpg.connect(server.dsn)
    try:
        for name, value in _SETTINGS.items():
            await connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    finally:
        await connection.close()
    await server.restart()


async def _look_at_all(dsn: str, report: Report) -> tuple[list[Looked], dict[str, Measured]]:
    queries = await found_in(dsn)
    connection = await asyncpg.connect(dsn)
    try:
        tables = await tables_of(connection)
        report.step(f"plans of {len(queries)} queries")
        # All plans first: executing leaves dead rows behind, even of what is undone.
        looked = [await look(connection, query, tables) for query in queries]
        report.step(f"executions of {len(queries)} queries")
        return looked, {query.name: await measure(connection, query) for query in queries}
    finally:
        await connection.close()


def _tell(report: Report, measured: dict[str, Measured]) -> None:
    slowest = sorted(measured, key=lambda name: -measured[name].ms)
    for name in slowest[:_SHOWN]:
        each = measured[name]
        note = f"{each.rows} rows{', planned without its values' * each.generic}"
        report.add(f"queries.ms.{name}", each.ms, "ms", note=note)
    slow = sum(each.ms > _SLOW_MS for each in measured.values())
    report.add("queries.over_100ms", slow, "queries", note=f"of {len(measured)}")
