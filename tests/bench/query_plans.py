"""Plans of queries, as texts that only change when a plan does, and what no plan may do.

A plan is written as its nodes with tables, indices and conditions; without costs, times and row counts, values as `?`,
and partitions of one table as one. The product's statements are prepared, and after five executions the server may go
over to a plan that doesn't know the values: that one is written too, where it is another.
"""

import re
import statistics
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.bench.query_catalogue import LARGE, Query

# Five with the values, and more with what the server has decided for then.
_EXECUTIONS: Final = 8
# Of what is slow some are enough.
_ENOUGH_S: Final = 20.0
_PARTITION: Final = re.compile(r"\bsession_events_(?:default|\d{4}_\d{2})(_\w+)?")
_TYPE: Final = r"(?:::(?:timestamp with(?:out)? time zone|double precision|[a-z_]+)(?:\[\])?)"
_VALUE: Final = re.compile(rf"'(?:[^']|'')*'{_TYPE}?|\$\d+{_TYPE}?|(?<![\w.])\d+(?:\.\d+)?\b{_TYPE}?")
# What a partition or a second use of a table is called by the server alone.
_NUMBERED: Final = re.compile(r"\b([a-z][a-z_]*?)_\d+\b")
_CONDITIONS: Final = ("Index Cond", "Hash Cond", "Merge Cond", "Join Filter", "Filter", "Sort Key", "Group Key")
# Both keys of the events begin with the session: where no more is asked, it is by chance which is taken in which month.
_BY_SESSION: Final = re.compile(r"session_events_\*_(?:pkey|id_key)")
_SESSION_ONLY: Final = re.compile(r"\(session_id = (?:[^()]+|\(\w+\.\w+\)::text)\)")
_INDEX_SCANS: Final = frozenset({"Index Scan", "Index Only Scan", "Bitmap Index Scan"})

# Plans that read a large table, or an index of one, from one end to the other, and may; with the reason.
MAY_SCAN: Final = {
    "recorder.retention.store.select_open": "merges with the oldest sessions, as far as the deletions go",
}


class Tables(msgspec.Struct, frozen=True, kw_only=True):
    """What there is.

    Attributes:
        whole: indices that have all of a large table.
        empty: partitions that have nothing in them.
        alike: of indices that have the same rows, as far as a condition of theirs says which: the first by name.
    """

    whole: frozenset[str]
    empty: frozenset[str]
    alike: Mapping[str, str] = {}


class Looked(msgspec.Struct, frozen=True, kw_only=True):
    """A query, looked at.

    Attributes:
        query: which.
        plan: its plans as a text.
        scans: what of large tables it reads from one end to the other, by the plan that knows the values.
        generic_scans: the same, by the plan that doesn't.
    """

    query: Query
    plan: str
    scans: tuple[str, ...]
    generic_scans: tuple[str, ...]


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """How an execution went.

    Attributes:
        ms: how long it takes: the median of some, one after the other.
        rows: how many rows it gives.
        generic: whether the server has gone over to the plan that doesn't know the values.
    """

    ms: float
    rows: int
    generic: bool


async def look(connection: Any, query: Query, tables: Tables) -> Looked:
    """Explain a query, by the settings of the connection; `tables` is what there is."""
    async with _undone(connection, query):
        plans = [_root(await connection.fetchval(f"EXPLAIN (FORMAT JSON) {query.text}", *query.values))]
    # Before the others the product says that each is to be planned for its values.
    if not query.setup:
        plans.append(await _generic(connection, query))
    texts = dict.fromkeys(plan_text(plan, tables) for plan in plans)
    found = [tuple(sorted(set(scans(plan, tables)))) for plan in plans]
    return Looked(query=query, plan="\nWithout the values:\n".join(texts), scans=found[0], generic_scans=found[-1])


async def measure(connection: Any, query: Query) -> Measured:
    """Execute a query as the product's connections do, again and again; nothing stays of what it changes."""
    took: list[float] = []
    rows: Sequence[Any] = ()
    prepared = await connection.prepare(query.text)
    for _ in range(_EXECUTIONS):
        async with _undone(connection, query):
            began = time.perf_counter()
            rows = await prepared.fetch(*query.values)
            took.append(time.perf_counter() - began)
        if sum(took) > _ENOUGH_S:
            break
    generic = await connection.fetchval(
        "SELECT generic_plans > 0 FROM pg_prepared_statements WHERE name = $1", prepared.get_name()
    )
    return Measured(ms=statistics.median(took) * 1000, rows=len(rows), generic=generic)


async def tables_of(connection: Any) -> Tables:
    """Return what there is."""
    indices = await connection.fetch(
        "SELECT indexrelid::regclass::text AS name, indrelid::regclass::text AS table FROM pg_index "
        "WHERE indpred IS NULL"
    )
    empty = await connection.fetch(
        "SELECT relname AS name FROM pg_class WHERE relispartition AND relkind = 'r' AND pg_relation_size(oid) = 0"
    )
    alike = await connection.fetch(
        "SELECT indexrelid::regclass::text AS name, min(indexrelid::regclass::text) OVER "
        "(PARTITION BY indrelid, pg_get_expr(indpred, indrelid)) AS first FROM pg_index WHERE indpred IS NOT NULL"
    )
    return Tables(
        whole=frozenset(row["name"] for row in indices if _table(row["table"]) in LARGE),
        empty=frozenset(row["name"] for row in empty),
        alike={row["name"]: row["first"] for row in alike},
    )


def differences(looked: Sequence[Looked], folder: Path) -> dict[str, str]:
    """Return the queries whose plan isn't what stands in the folder, with what is wrong; files of none count, too."""
    found: dict[str, str] = {}
    for each in looked:
        file = folder / f"{each.query.name}.txt"
        if not file.exists():
            found[each.query.name] = "has no golden plan yet"
        elif file.read_text() != each.plan:
            found[each.query.name] = f"had this plan:\n{file.read_text()}\nand has this one:\n{each.plan}"
    known = {each.query.name for each in looked}
    found |= {file.stem: "isn't looked at any more" for file in folder.glob("*.txt") if file.stem not in known}
    return found


def write(looked: Sequence[Looked], folder: Path) -> None:
    """Make these the golden plans."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.txt"):
        file.unlink()
    for each in looked:
        (folder / f"{each.query.name}.txt").write_text(each.plan)


def forbidden(looked: Sequence[Looked], generic: frozenset[str] = frozenset()) -> dict[str, tuple[str, ...]]:
    """Return the queries that read a large table from one end to the other, and mustn't.

    Args:
        looked: all of them.
        generic: those that the server executes without planning them for their values.
    """
    found = {each.query.name: each.generic_scans if each.query.name in generic else each.scans for each in looked}
    return {name: scans for name, scans in found.items() if scans and name not in MAY_SCAN}


@asynccontextmanager
async def _undone(connection: Any, query: Query) -> AsyncGenerator[None]:
    transaction = connection.transaction()
    await transaction.start()
    try:
        for statement in query.setup:
            await connection.execute(statement)
        yield
    finally:
        await transaction.rollback()


async def _generic(connection: Any, query: Query) -> dict[str, Any]:
    """Return the plan that doesn't know the values."""
    nothing = f"({', '.join(['NULL'] * len(query.values))})" if query.values else ""
    await connection.execute(f"PREPARE looked_at AS {query.text}")
    try:
        async with _undone(connection, query):
            await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
            return _root(await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE looked_at{nothing}"))
    finally:
        await connection.execute("DEALLOCATE looked_at")


def _root(explained: str) -> dict[str, Any]:
    return msgspec.json.decode(explained)[0]["Plan"]


def plan_text(plan: dict[str, Any], tables: Tables) -> str:
    """Return a plan, as EXPLAIN says it in JSON, as a text that is another one only if the plan is."""
    return "\n".join(_lines(_counted(_without_empty(plan, tables.empty), tables.alike), 0)) + "\n"


def _lines(node: dict[str, Any], depth: int) -> Iterator[str]:
    """Yield a node and what is below it, a line each; those of equal partitions come one after the other."""
    indent = "  " * depth
    title = ("Parallel " if node["Parallel Aware"] else "") + node["Node Type"]
    if node["Node Type"] == "ModifyTable":
        title = node["Operation"]
    for key, word in (
        ("Join Type", ""),
        ("Strategy", ""),
        ("Scan Direction", ""),
        ("Index Name", "using"),
        ("Relation Name", "on"),
    ):
        said = node.get(key)
        if said not in {None, "Forward", "Plain", "NoMovement"}:
            title += f" {word} {said}" if word else f" {said}"
    if "CTE Name" in node:
        title += f" {node['CTE Name']}"
    if "Function Name" in node:
        title += f" {node['Function Name']}"
    where = f"{node['Subplan Name']}: " if "Subplan Name" in node else ""
    line = _plain(where + title)
    if _SESSION_ONLY.fullmatch(node.get("Index Cond", "")):
        line = _BY_SESSION.sub("session_events_*_pkey", line)
    yield indent + line
    for name in _CONDITIONS:
        if name in node:
            said = node[name]
            yield f"{indent}    {name}: {_plain(', '.join(said) if isinstance(said, list) else said)}"
    blocks = dict.fromkeys(tuple(_lines(child, depth + 1)) for child in node.get("Plans", ()))
    for block in blocks:
        yield from block


def _without_empty(node: dict[str, Any], empty: frozenset[str]) -> dict[str, Any]:
    """Return a plan without what it does in partitions that have nothing in them, of months to come for example."""
    below = [_without_empty(child, empty) for child in node.get("Plans", ()) if child.get("Relation Name") not in empty]
    return {**node, "Plans": below}


def _counted(node: dict[str, Any], alike: Mapping[str, str]) -> dict[str, Any]:
    """Return a plan in which what is counted whole is read by the first of the indices that have just that.

    They cost the same, so that it is by chance which is taken.
    """
    below = [_counted(child, alike) for child in node.get("Plans", ())]
    if node["Node Type"] == "Aggregate" and node.get("Strategy") == "Plain":
        below = [
            {**child, "Index Name": alike.get(child["Index Name"], child["Index Name"])}
            if child["Node Type"] == "Index Only Scan" and "Index Cond" not in child
            else child
            for child in below
        ]
    return {**node, "Plans": below}


def _plain(text: str) -> str:
    text = _PARTITION.sub(
        lambda match: "session_events_*" + re.sub(r"^_session_id_(id|stream_seq)", r"_\1", match[1] or ""), text
    )
    return _VALUE.sub("?", _NUMBERED.sub(r"\1", text))


def scans(node: dict[str, Any], tables: Tables) -> Iterator[str]:
    """Yield what is read from one end to the other, though it belongs to a large table.

    An index that is read without a condition counts as that, unless it is a partial one: that has as many entries as
    there is left to do.
    """
    relation: str = node.get("Relation Name", "")
    if relation in tables.empty:
        return
    if node["Node Type"] == "Seq Scan" and _table(relation) in LARGE:
        yield f"reads {_table(relation)} as a whole"
    index: str = node.get("Index Name", "")
    if node["Node Type"] in _INDEX_SCANS and "Index Cond" not in node and index in tables.whole:
        yield f"reads the index {_plain(index)} as a whole"
    for child in node.get("Plans", ()):
        yield from scans(child, tables)


def _table(relation: str) -> str:
    """Return the table that something is, or is a partition of."""
    return "session_events" if relation.startswith("session_events") else relation
