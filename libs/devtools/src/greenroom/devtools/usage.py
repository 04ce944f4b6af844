"""`greenroom usage`: what sessions used and what that costs, and how budgets stand."""

import sys
from datetime import UTC, datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from greenroom.devtools.client import ApiClient
from greenroom.devtools.state import connection


async def show(console: Console, *, as_json: bool, most: int, **query: str | None) -> None:
    """Print usage in groups, at most so many, and the budgets below it.

    Args:
        console: to print on.
        as_json: one line of JSON for each group, and nothing else.
        most: groups.
        query: of `GET /v1/usage`; None: as the API does it.
    """
    asked = {"from" if name == "since" else "to" if name == "until" else name: value for name, value in query.items()}
    async with ApiClient(connection()) as client:
        groups: list[dict[str, Any]] = []
        cursor: str | None = None
        while len(groups) < most:
            page = await client.get("/v1/usage", limit=min(most - len(groups), 500), cursor=cursor, **asked)
            groups += page["groups"]
            cursor = page["next"]
            if cursor is None:
                break
        if as_json:
            for group in groups:
                sys.stdout.write(msgspec.json.encode(group).decode() + "\n")
            return
        budgets = (await client.get("/v1/budgets"))["budgets"]
    if groups:
        console.print(table(groups, asked.get("group_by") or "day"))
    else:
        console.print("nothing was used")
    if cursor is not None:
        console.print(f"[yellow]only the first {most} groups[/]; --limit shows more")
    if any(group["unpriced"] for group in groups):
        console.print("[yellow]what has no price is in no cost[/]; `PUT /v1/prices` gives it one")
    for budget in budgets:
        console.print(_budget(budget), highlight=False)


def table(groups: list[dict[str, Any]], group_by: str) -> Table:
    """Return groups for a terminal: a line each with its cost, and one for all that is in it."""
    shown = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("tenant", group_by, "of"):
        shown.add_column(column, no_wrap=True)
    for column in ("used", "cost"):
        shown.add_column(column, no_wrap=True, justify="right")
    for group in groups:
        cost = ", ".join(f"{each['amount']} {each['currency']}" for each in group["cost"]) or "–"
        shown.add_row(escape(group["tenant"]), escape(group["key"]), "", f"{group['sessions']} sessions", cost)
        for line in (*group["lines"], *group["unpriced"]):
            of = escape(" ".join(part for part in (line["provider"], line["model"]) if part))
            price = f"{line['cost']} {line['currency']}" if "cost" in line else "no price"
            shown.add_row("", "", of, f"{line['quantity']} {line['unit']}", price, style="dim")
    return shown


def _budget(budget: dict[str, Any]) -> str:
    whose = budget["tenant"] if budget["agent"] == "*" else f"{budget['tenant']}, agent {budget['agent']}"
    amount = f"{budget['amount']} {budget['currency']} a {budget['period']}"
    if budget["spent"] is None:
        return f"budget {budget['id']} ({escape(whose)}): {amount}; no recorder has told yet how it stands"
    until = datetime.fromisoformat(budget["period_end"]).astimezone(UTC)
    state = "[red]spent[/]: " if budget["reached"] else ""
    return (
        f"budget {budget['id']} ({escape(whose)}): {state}{budget['spent']} of {amount}, until {until:%Y-%m-%d %H:%M}Z"
    )
