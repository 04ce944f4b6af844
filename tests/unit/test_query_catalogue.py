"""The list of queries whose plans are looked at, how plans are written, and what no plan may do."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from tests.bench.query_catalogue import LEFT_OUT, Query, Sample, catalogue, statements, unlisted
from tests.bench.query_plans import Looked, Tables, differences, forbidden, plan_text, scans, write

_AT: Final = datetime(2026, 3, 2, tzinfo=UTC)
SAMPLE: Final = Sample(
    now=_AT, session="s", requested_at=_AT, recent="s", live="s", many=["s"], endpoint="e", delivery="d"
)
TABLES: Final = Tables(whole=frozenset({"sessions_pkey"}), empty=frozenset({"session_events_2027_01"}))


def test_every_statement_on_a_table_that_grows_is_looked_at() -> None:
    """A statement of the api or the recorder that isn't in the list, nor left out with a reason, fails this."""
    assert unlisted(catalogue(SAMPLE)) == []


def test_a_statement_that_is_not_listed_is_missed() -> None:
    """The search through the services finds each statement by itself: without the list, all of it is missing."""
    missed = unlisted([])
    assert "api.sql.EVENTS" in missed
    assert "recorder.retention.store._SELECT_ENDED" in missed
    assert not {"api.sql.API_KEY", *LEFT_OUT} & set(missed)


def test_what_is_left_out_is_there() -> None:
    """No excuse outlives its statement."""
    assert LEFT_OUT.keys() <= {name for name, _ in statements()}


def test_names_of_queries_are_unique() -> None:
    """Each has a golden file of its own."""
    names = [query.name for query in catalogue(SAMPLE)]
    assert len(names) == len(set(names))


def node(kind: str, **said: Any) -> dict[str, Any]:
    """Return a node of a plan, as EXPLAIN says it; `Plans` below."""
    return {"Node Type": kind, "Parallel Aware": False} | {name.replace("_", " "): said[name] for name in said}


def test_a_plan_says_nothing_that_another_day_would_change() -> None:
    """Partitions are one table, empty ones aren't there, and values are all the same."""
    months = [
        node(
            "Index Scan",
            Relation_Name=f"session_events_2026_{month:02}",
            Index_Name=f"session_events_2026_{month:02}_session_id_id_key",
            Index_Cond=f"((session_id = '0192f0c1-{month}'::text) AND (stream_seq > 17))",
            Filter=f"(at < '2026-{month:02}-01 00:00:00+00'::timestamp with time zone)",
        )
        for month in (1, 2)
    ]
    empty = node("Seq Scan", Relation_Name="session_events_2027_01")
    root = node("Limit", Plans=[node("Append", Plans=[*months, empty])])
    assert plan_text(root, TABLES).splitlines() == [
        "Limit",
        "  Append",
        "    Index Scan using session_events_*_id_key on session_events_*",
        "        Index Cond: ((session_id = ?) AND (stream_seq > ?))",
        "        Filter: (at < ?)",
    ]


def test_what_is_counted_whole_is_read_by_any_index_that_has_just_that() -> None:
    """Which of them it is isn't told; with a condition, or in an order, it is."""
    tables = Tables(whole=frozenset(), empty=frozenset(), alike={"a_pending": "a_pending", "b_pending": "a_pending"})

    def read(above: str, **said: Any) -> str:
        below = [node("Index Only Scan", Relation_Name="deliveries", Index_Name="b_pending", **said)]
        return plan_text(node(above, Strategy="Plain", Plans=below), tables).splitlines()[1]

    assert read("Aggregate") == "  Index Only Scan using a_pending on deliveries"
    assert read("Aggregate", Index_Cond="(at < 1)") == "  Index Only Scan using b_pending on deliveries"
    assert read("Limit") == "  Index Only Scan using b_pending on deliveries"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (node("Seq Scan", Relation_Name="sessions"), {"reads sessions as a whole"}),
        (node("Seq Scan", Relation_Name="session_events_2026_03"), {"reads session_events as a whole"}),
        (node("Seq Scan", Relation_Name="session_events_2027_01"), set()),
        (node("Seq Scan", Relation_Name="webhook_endpoints"), set()),
        (
            node("Index Only Scan", Relation_Name="sessions", Index_Name="sessions_pkey"),
            {"reads the index sessions_pkey as a whole"},
        ),
        (node("Index Scan", Relation_Name="sessions", Index_Name="sessions_to_seal"), set()),
        (node("Index Scan", Relation_Name="sessions", Index_Name="sessions_pkey", Index_Cond="(id = $1)"), set()),
    ],
)
def test_what_goes_through_a_large_table_is_noticed(found: dict[str, Any], said: set[str]) -> None:
    """However deep in the plan: whole tables and whole indices, unless they are small, empty or partial."""
    assert set(scans(node("Limit", Plans=[node("Nested Loop", Plans=[found])]), TABLES)) == said


def looked(name: str, plan: str, *found: str) -> Looked:
    """Return a query that was looked at."""
    query = Query(name=name, of="m.C", text="SELECT 1", values=())
    return Looked(query=query, plan=plan, scans=found, generic_scans=("reads all",))


def test_a_plan_that_is_not_the_golden_one_is_told(tmp_path: Path) -> None:
    """So are a query without a golden file, and a file whose query isn't there any more."""
    write([looked("same", "a\n"), looked("changed", "b\n"), looked("gone", "c\n")], tmp_path)
    found = differences([looked("same", "a\n"), looked("changed", "d\n"), looked("new", "e\n")], tmp_path)
    assert found.keys() == {"changed", "new", "gone"}
    assert "b\n" in found["changed"]
    assert "d\n" in found["changed"]


def test_the_plan_that_the_server_goes_by_is_judged() -> None:
    """Without values where it has gone over to that, else with them."""
    both = [looked("with", "a\n"), looked("without", "a\n"), looked("bad", "a\n", "reads sessions as a whole")]
    assert forbidden(both, frozenset({"without"})) == {
        "without": ("reads all",),
        "bad": ("reads sessions as a whole",),
    }
