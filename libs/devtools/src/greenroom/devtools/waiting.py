"""`greenroom queue`: which sessions wait, in which order, and for what."""

from typing import Any, Final

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from greenroom.devtools.client import ApiClient
from greenroom.devtools.state import connection

_PAGE: Final = 500


async def queue(console: Console, *, pool: str | None, everybody: bool, limit: int, as_json: bool) -> None:
    """Print the first `limit` waiting sessions."""
    async with ApiClient(connection()) as client:
        total, waiting = await first(client, limit, pool=pool, tenant="*" if everybody else None)
    if as_json:
        for each in waiting:
            console.print(msgspec.json.encode(each).decode(), soft_wrap=True, highlight=False, markup=False)
        return
    console.print(table(waiting) if waiting else "nobody waits")
    if total > len(waiting):
        console.print(f"[dim]and {total - len(waiting)} more[/]")


async def first(client: ApiClient, limit: int, **filters: str | None) -> tuple[int, list[dict[str, Any]]]:
    """Return how many wait, and up to `limit` of them in the order of the queue."""
    waiting: list[dict[str, Any]] = []
    total, offset = 0, 0
    while True:
        page = await client.get("/v1/queue", offset=offset, limit=min(limit - len(waiting), _PAGE), **filters)
        total = page["total"]
        waiting += page["waiting"]
        if page["next"] is None or len(waiting) >= limit:
            return total, waiting
        offset = page["next"]


def table(waiting: list[dict[str, Any]]) -> Table:
    """Return waiting sessions for a terminal."""
    shown = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("session", "tenant", "agent", "pool", "class", "since", "expected", "why"):
        shown.add_column(column, no_wrap=column != "why")
    for each in waiting:
        expected = each["expected_s"]
        shown.add_row(
            each["session_id"],
            each["tenant"],
            escape(each["agent"]),
            each["pool"],
            each["priority"],
            each["requested_at"][11:19],
            "–" if expected is None else f"~{expected:.0f} s",
            escape(each["text"]),
        )
    return shown
