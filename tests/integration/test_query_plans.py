"""The plans of all queries on a small year of calls: none reads a table that grows from one end to the other."""

from tests.bench.queries import SMALL_GOLDEN, small
from tests.bench.query_plans import MAY_SCAN, differences, forbidden

_AGAIN = "If that is meant: make bench only=queries args=--golden, and look at what has changed."


async def test_each_query_has_an_index_to_go_by_and_its_golden_plan(database: str) -> None:
    """No plan has changed unnoticed, and none goes through a large table, or an index of one, without an excuse."""
    looked = await small(database)
    assert forbidden(looked) == {}
    assert differences(looked, SMALL_GOLDEN) == {}, _AGAIN
    assert MAY_SCAN.keys() <= {each.query.name for each in looked}, "an excuse for what isn't there"
