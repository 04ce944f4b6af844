"""`greenroom tenants`, against the API."""

from typing import Any
from urllib.parse import quote

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from greenroom.devtools.client import ApiClient
from greenroom.devtools.state import connection


async def show(console: Console, *, suspended: bool) -> None:
    """Print all tenants, or those that are suspended."""
    rows: list[dict[str, Any]] = []
    async with ApiClient(connection()) as client:
        cursor: str | None = None
        while True:
            state = "suspended" if suspended else None
            page = await client.get("/v1/tenants", state=state, cursor=cursor, limit=500)
            rows += page["tenants"]
            cursor = page["next"]
            if cursor is None:
                break
    if not rows:
        console.print("no tenant is suspended" if suspended else "there is no tenant yet")
        return
    shown = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("tenant", "name", "state", "since", "note"):
        shown.add_column(column)
    for row in rows:
        state = "[yellow]suspended[/]" if row["state"] == "suspended" else row["state"]
        shown.add_row(
            escape(row["name"]), escape(row["display_name"]), state, row["state_since"][:19], escape(row["note"])
        )
    console.print(shown)


async def suspend(console: Console, name: str, note: str | None) -> None:
    """Let a tenant have no new sessions."""
    await _change(name, {"state": "suspended"} if note is None else {"state": "suspended", "note": note})
    console.print(f"{name} is suspended: its new sessions are refused, those it has go on", highlight=False)


async def resume(console: Console, name: str) -> None:
    """Let a tenant have new sessions again."""
    await _change(name, {"state": "active"})
    console.print(f"{name} is active", highlight=False)


async def _change(name: str, change: dict[str, Any]) -> None:
    async with ApiClient(connection()) as client:
        await client.patch(f"/v1/tenants/{quote(name, safe='')}", change)
