"""Events a second through the recorder, beside one COPY of the rows that it made into tables like its own.

The stream is filled first, as a hundred calls at a time would: transitions by the ledger, between them what session
processes tell. The rows are those of one recorder; COPY loads them as one statement, from a file in PostgreSQL's own
binary form, into `session_events` of another database of the same server: same partitions, keys, references, triggers.
"""

import asyncio
import statistics
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import asyncpg

from greenroom.common import messages, subjects
from greenroom.common.clock import utcnow
from greenroom.common.ids import uuid7
from greenroom.common.messages import Event, EventType
from greenroom.recorder.migrate import migrate
from tests.bench.recorder_place import Place, cpu_s
from tests.bench.report import Report

_SESSIONS: Final = 2000
_EVENTS_EACH: Final = 75
_TRANSITIONS: Final = 5
_AT_ONCE: Final = 100
_LOADED: Final = "loaded"
# One alone says little: a machine that shares its cores with others is by a third slower in one minute than in another.
_ROUNDS: Final = 5
_EXPECTED: Final = 0.5
# Events refer to sessions, which are there before.
_TABLES: Final = ("sessions", "session_events")
_COLUMNS: Final = """
SELECT attname FROM pg_attribute
WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
ORDER BY attnum
"""
_KINDS: Final[Sequence[tuple[str, dict[str, Any]]]] = (
    (
        EventType.USER_SPOKE,
        {"text": "Could you tell me when you open on Saturdays, please?", "from_s": 12.3, "to_s": 15},
    ),
    (EventType.METRICS, {"kind": "ttfb", "processor": "OpenAILLMService#0", "model": "gpt-4.1", "value_s": 0.412}),
    (
        EventType.METRICS,
        {"kind": "llm_usage", "processor": "OpenAILLMService#0", "model": "gpt-4.1", "in": 812, "out": 31},
    ),
    (EventType.TOOL_CALLED, {"name": "opening_hours", "arguments": {"day": "saturday"}, "result": {"open": "9-13"}}),
    (EventType.AGENT_SPOKE, {"text": "On Saturdays we are open from nine to one.", "from_s": 15.8, "to_s": 18.1}),
)


class _Round(NamedTuple):
    """Rows a second of both, what an event takes of the recorder's cores in seconds, and the first by the second."""

    stored: float
    copied: float
    event_s: float
    share: float


async def run(report: Report) -> None:
    """Measure both, one after the other, several times, each time in a place of its own."""
    total = _SESSIONS * (_EVENTS_EACH + _TRANSITIONS)
    report.step(f"{total} events of {_SESSIONS} sessions through the recorder, and by COPY: {_ROUNDS} times")
    rounds: list[_Round] = []
    for _ in range(_ROUNDS):
        async with Place.prepared() as place:
            rounds.append(await _once(place, total))
    stored, copied, event_s, shares = zip(*rounds, strict=True)
    share = statistics.median(shares)
    note = f"of COPY, beside it; {min(shares):.2f} to {max(shares):.2f}"
    report.add("recorder.events_per_s", statistics.median(stored), "/s", note="NATS to PostgreSQL, once, in order")
    report.add("recorder.copy_per_s", statistics.median(copied), "/s", note="the same rows, same tables, one COPY")
    report.add("recorder.events_of_copy", share, "×", note=note, expected="≥ 0.5", met=share >= _EXPECTED)
    report.add(
        "recorder.event_cpu_us",
        statistics.median(event_s) * 1e6,
        "µs",
        note="of the recorder's process, its start included",
    )


async def _once(place: Place, total: int) -> _Round:
    await _fill(place)
    async with place.recorder() as recorder:
        await place.settled()
        spent_s = cpu_s(recorder)
    connection = await asyncpg.connect(place.postgres.dsn)
    try:
        stored = await _stored_per_s(connection, at_least=total)
        copied = await _copied_per_s(connection, place)
    finally:
        await connection.close()
    return _Round(stored, copied, spent_s / total, stored / copied)


async def _fill(place: Place) -> None:
    turns = asyncio.Semaphore(_AT_ONCE)

    async def call() -> None:
        async with turns:
            await _one_call(place)

    await asyncio.gather(*(call() for _ in range(_SESSIONS)))


async def _one_call(place: Place) -> None:
    entry = await place.call()
    session = entry.session
    for seq in range(1, _EVENTS_EACH + 1):
        kind, data = _KINDS[seq % len(_KINDS)]
        event = Event(
            id=uuid7(),
            tenant=session.tenant,
            session_id=session.id,
            type=kind,
            at=utcnow(),
            seq=seq,
            epoch=1,
            source="session",
            data=data,
        )
        subject = subjects.SESSION_EVENT.format(tenant=session.tenant, session_id=session.id, type=kind)
        stored = await place.broker.append_soon(subject, messages.encode(event), msg_id=event.id)
        if seq % 5 == 0:
            await stored  # the others' turn
    await place.hang_up(entry)


async def _stored_per_s(connection: Any, *, at_least: int) -> float:
    """Return how many rows a second there were from the first transaction to the last one, which isn't counted."""
    row = await connection.fetchrow(
        "SELECT count(*) AS rows, count(*) FILTER (WHERE stored_at < latest) AS before, "
        "extract(epoch FROM max(latest) - min(stored_at))::float8 AS took_s "
        "FROM session_events, (SELECT max(stored_at) AS latest FROM session_events) AS newest"
    )
    if row["rows"] < at_least:
        raise RuntimeError(f"{row['rows']} rows are stored of {at_least} events")
    return row["before"] / row["took_s"]


async def _copied_per_s(connection: Any, place: Place) -> float:
    """Return how many rows a second COPY stores."""
    await connection.execute(f"CREATE DATABASE {_LOADED}")
    dsn = place.postgres.dsn_of(_LOADED)
    await migrate(dsn)
    target = await asyncpg.connect(dsn)
    try:
        took_s, rows = 0.0, 0
        for table in _TABLES:
            names = [row["attname"] for row in await connection.fetch(_COLUMNS, table)]
            file = place.folder / f"{table}.copy"
            # A table in parts can't be copied as such; names are the catalogue's.
            query = f"SELECT {', '.join(names)} FROM {table}"  # noqa: S608
            await connection.copy_from_query(query, output=file, format="binary")
            began = time.perf_counter()
            result = await target.copy_to_table(table, source=file, columns=names, format="binary")
            took_s, rows = time.perf_counter() - began, int(result.split()[-1])
        return rows / took_s
    finally:
        await target.close()
