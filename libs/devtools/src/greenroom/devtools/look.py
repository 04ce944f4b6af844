"""`greenroom sessions`, `tail` and `trace`: what happened, and what is happening."""

from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from greenroom.common.errors import SessionNotFound
from greenroom.devtools import trace as traces
from greenroom.devtools import transcript
from greenroom.devtools.client import ApiClient
from greenroom.devtools.state import connection, read_state, state_dir

_OUTCOME_COLOURS = {"completed": "green", "failed": "red", "lost": "red", "expired": "yellow", "canceled": "yellow"}


async def sessions(console: Console, *, state: str | None, agent: str | None, limit: int) -> None:
    """Print a table of sessions."""
    async with ApiClient(connection()) as client:
        page = await client.get("/v1/sessions", state=state, agent=agent, limit=limit)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("session", "agent", "state", "outcome", "requested", "took"):
        table.add_column(column, no_wrap=True)
    for session in page["sessions"]:
        outcome = session.get("outcome") or ""
        reason = f" ({session['reason']})" if session.get("reason") else ""
        table.add_row(
            session["id"],
            session["agent"],
            session["state"],
            f"[{_OUTCOME_COLOURS.get(outcome, 'white')}]{outcome}[/]{reason}" if outcome else "",
            str(session["requested_at"])[:19].replace("T", " "),
            _took(session),
        )
    console.print(table if page["sessions"] else "no sessions yet: `greenroom call frontdesk` places one")


async def tail(console: Console, session_id: str | None, *, as_json: bool) -> None:
    """Print a session's events as they come, from its first to its last."""
    async with ApiClient(connection()) as client:
        chosen = session_id or (await _newest(client))["id"]
        async for event in client.events(chosen):
            if as_json:
                console.print(msgspec.json.encode(event).decode(), soft_wrap=True, highlight=False, markup=False)
            else:
                console.print(transcript.event_line(event), soft_wrap=True, highlight=False)


async def trace(console: Console, session_id: str | None) -> None:
    """Print a session's trace."""
    async with ApiClient(connection()) as client:
        session = await client.get(f"/v1/sessions/{session_id}") if session_id else await _newest(client)
    trace_id = session.get("trace_id")
    state = read_state(state_dir())
    folder = Path(state.traces_dir) if state else state_dir() / "traces"
    spans = traces.load(folder, trace_id) if trace_id else []
    if not spans:
        console.print(f"Trace {trace_id} isn't kept in {folder}: look in the collector that the spans go to.")
        return
    traces.waterfall(spans, console)


async def _newest(client: ApiClient) -> dict[str, Any]:
    page = await client.get("/v1/sessions", limit=1)
    if not page["sessions"]:
        raise SessionNotFound("there are no sessions yet")
    return page["sessions"][0]


def _took(session: dict[str, Any]) -> str:
    if not session.get("ended_at"):
        return ""
    began = datetime.fromisoformat(session["requested_at"])
    return f"{(datetime.fromisoformat(session['ended_at']) - began).total_seconds():.1f} s"
