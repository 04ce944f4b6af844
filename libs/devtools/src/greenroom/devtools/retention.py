"""`greenroom erase` and `greenroom retention`, against the API."""

import asyncio
import time
from typing import Any, Final
from urllib.parse import quote

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from greenroom.common.errors import GreenroomError, SessionNotFound
from greenroom.devtools.client import ApiClient, ApiProblem
from greenroom.devtools.state import connection

# A session is sealed some seconds after its end; one that is told to end may finish its sentence.
ERASE_WITHIN_S: Final = 120.0
_LOOK_S: Final = 0.5


class NotErasedYet(GreenroomError):
    """The session is to be erased, and that isn't lost, but it wasn't done in time: does a recorder run?

    It waits for the session's end and for its recording to be sealed, for its use to be counted, for storage or the
    broker, or for a hold: the table `erasures` says which, in `waits_for`.
    """

    code = "not-erased-yet"
    status = 504
    title = "The session isn't erased yet"
    retryable = True


async def erase(console: Console, session_id: str, *, stop: bool, wait: bool) -> None:
    """Ask for a session to be erased; with `wait`, return once it is."""
    path = f"/v1/sessions/{session_id}"
    async with ApiClient(connection()) as client:
        await client.delete(f"{path}?stop=true" if stop else path)
        if not wait:
            console.print(f"{session_id} will be erased", highlight=False)
            return
        deadline = time.monotonic() + ERASE_WITHIN_S
        while not await _gone(client, path):
            if time.monotonic() > deadline:
                raise NotErasedYet(f"{session_id} is still there after {ERASE_WITHIN_S:g} s.")
            await asyncio.sleep(_LOOK_S)
    console.print(f"{session_id} is erased", highlight=False)


async def show(console: Console) -> None:
    """Print rules, holds, and how far deleting has come."""
    async with ApiClient(connection()) as client:
        kept = await client.get("/v1/retention")
    if kept["rules"]:
        console.print(_rules(kept["rules"]))
    else:
        console.print("no rules: everything is kept for ever")
    for hold in kept["holds"]:
        reason = f": {escape(hold['reason'])}" if hold["reason"] else ""
        console.print(f"[yellow]held[/] {_whose(hold)} since {hold['since']}{reason}", highlight=False)
    console.print(f"{kept['sessions_held']} sessions held by themselves, {kept['waiting']} deletions to be done")
    if run := kept["last_run"]:
        console.print(
            f"last run, due {run['due_at']}: {run['recordings']} recordings, events of {run['events']} sessions,"
            f" {run['sessions']} whole sessions deleted",
            highlight=False,
        )


async def put(console: Console, tenant: str, agent: str, days: dict[str, int | None]) -> None:
    """Make a rule, or replace it as a whole."""
    async with ApiClient(connection()) as client:
        rule = await client.put(rule_path(tenant, agent), days)
    console.print(_rules([rule]))


async def delete(console: Console, tenant: str, agent: str) -> None:
    """Delete a rule."""
    async with ApiClient(connection()) as client:
        await client.delete(rule_path(tenant, agent))
    console.print("the rule is deleted")


async def hold(console: Console, path: str, reason: str) -> None:
    """Hold what is at `path`."""
    async with ApiClient(connection()) as client:
        await client.put(f"{path}/hold", {"reason": reason})
    console.print("held")


async def lift(console: Console, path: str) -> None:
    """Lift the hold on what is at `path`."""
    async with ApiClient(connection()) as client:
        await client.delete(f"{path}/hold")
    console.print("the hold is lifted")


def rule_path(tenant: str, agent: str) -> str:
    """Return where the rule for a tenant's agent is."""
    return f"/v1/retention/{quote(tenant, safe='*')}/{quote(agent, safe='*')}"


async def _gone(client: ApiClient, path: str) -> bool:
    try:
        await client.get(path)
    except ApiProblem as problem:
        if problem.api_code == SessionNotFound.code:
            return True
        raise
    return False


def _rules(rules: list[dict[str, Any]]) -> Table:
    shown = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("sessions of", "recordings", "events", "sessions"):
        shown.add_column(column, no_wrap=True)
    for rule in rules:
        days = (rule["recordings_days"], rule["events_days"], rule["sessions_days"])
        shown.add_row(_whose(rule), *("for ever" if each is None else f"{each} days" for each in days))
    return shown


def _whose(row: dict[str, Any]) -> str:
    tenant = "each tenant" if row["tenant"] == "*" else escape(row["tenant"])
    return tenant if row["agent"] == "*" else f"{tenant}, agent {escape(row['agent'])}"
