"""`greenroom limits`: list them with their use, set and delete them."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from greenroom.devtools.client import ApiClient
from greenroom.devtools.state import connection


async def show(console: Console) -> None:
    """Print the limits, and who uses how much of them."""
    async with ApiClient(connection()) as client:
        answer = await client.get("/v1/limits")
    if not answer["limits"]:
        console.print("no limits: as many sessions as there are slots")
        return
    console.print(table(answer["limits"]))
    if answer["problem"]:
        console.print("[red]no scheduler leads[/]: nobody knows how much of them is used")
    elif answer["applied_revision"] != answer["revision"]:
        console.print("[yellow]the scheduler goes by an older policy than the stored one[/]; ask again in two seconds")


async def put(console: Console, limit_id: str, wish: dict[str, Any]) -> None:
    """Make a limit, or replace it as a whole; fields that are None are left out."""
    async with ApiClient(connection()) as client:
        body = {name: value for name, value in wish.items() if value is not None}
        limit = await client.put(f"/v1/limits/{limit_id}", body)
    console.print(table([limit]))


async def delete(console: Console, limit_id: str) -> None:
    """Delete a limit."""
    async with ApiClient(connection()) as client:
        await client.delete(f"/v1/limits/{limit_id}")
    console.print(f"{limit_id} holds no longer", highlight=False)


def table(limits: list[dict[str, Any]]) -> Table:
    """Return limits for a terminal: a line each, and one for each key that uses it."""
    shown = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("limit", "counts by", "tenant", "key", "sessions", "starts", "beyond", "in use"):
        shown.add_column(column, no_wrap=True)
    for limit in limits:
        shown.add_row(
            limit["id"],
            limit["scope"],
            _each(limit["tenant"]),
            _each(limit["key"]),
            "–" if limit["max_sessions"] is None else str(limit["max_sessions"]),
            "–" if limit["max_starts_per_s"] is None else f"{limit['max_starts_per_s']:g}/s",
            limit["at_limit"],
            "",
        )
        for used in limit["usage"] or ():
            shown.add_row(
                "", "", escape(used["tenant"]), escape(used["key"]), "", "", "", _usage(limit, used), style="dim"
            )
    return shown


def _each(name: str) -> str:
    return "each" if name == "*" else escape(name)


def _usage(limit: dict[str, Any], used: dict[str, Any]) -> str:
    of = "" if limit["max_sessions"] is None else f"/{limit['max_sessions']}"
    waiting = f", {used['waiting']} waiting" if used["waiting"] else ""
    return f"{used['active']}{of}{waiting}"
