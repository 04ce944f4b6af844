"""`greenroom why`: what was decided about a session and what happened to it, in order, also a week later."""

from datetime import datetime
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.text import Text

from greenroom.devtools.client import ApiClient
from greenroom.devtools.state import connection

_DECISION: Final = "scheduler.decision"
_LIFECYCLE: Final = "session."
_PAGE: Final = 1000
# Below the text of a decision.
_INDENT: Final = " " * 38
# What a transition says beside its name; all else is for `greenroom tail`.
_TOLD: Final = ("runner_id", "epoch", "cold", "agent_version", "outcome", "reason", "by", "detail", "retry_after_s")
# Decisions that are bad news for whoever waits.
_COLOURS: Final = {
    "lease": "green",
    "wait": "yellow",
    "refuse": "red",
    "expire": "red",
    "give_up": "red",
    "lost": "red",
}


async def why(console: Console, session_id: str, *, as_json: bool) -> None:
    """Print the decisions about a session among its transitions."""
    async with ApiClient(connection()) as client:
        session = await client.get(f"/v1/sessions/{session_id}")
        events = await told(client, session_id)
    if as_json:
        for event in events:
            console.print(msgspec.json.encode(event).decode(), soft_wrap=True, highlight=False, markup=False)
        return
    for line in story(session, events):
        console.print(line, soft_wrap=True, highlight=False)


async def told(client: ApiClient, session_id: str) -> list[dict[str, Any]]:
    """Return the stored decisions and transitions of a session, in the order in which they were stored."""
    found: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None:
        page = await client.get(f"/v1/sessions/{session_id}/events", after=after, limit=_PAGE)
        found += [event for event in page["events"] if _tells(event["type"])]
        after = page["next"]
    return found


def story(session: dict[str, Any], events: list[dict[str, Any]]) -> list[Text]:
    """Return lines for a person."""
    lines = [_headline(session)]
    if not events:
        lines.append(Text("nothing is stored of it yet", style="dim"))
        return lines
    began = datetime.fromisoformat(events[0]["at"])
    for event in events:
        since_s = (datetime.fromisoformat(event["at"]) - began).total_seconds()
        line = Text(f"{event['at'][11:23]:12} {since_s:+10.3f} s  ", style="dim")
        lines += _decision(line, event["data"]) if event["type"] == _DECISION else [_transition(line, event)]
    if session.get("queue"):
        queue = session["queue"]
        place = f"{queue['position']} of {queue['of']}: " if queue.get("position") else ""
        lines.append(Text(f"now it waits, {place}{queue['reason']}", style="yellow"))
    return lines


def _headline(session: dict[str, Any]) -> Text:
    line = Text(f"{session['id']}  {session['agent']} in {session['pool']}: ", style="bold")
    line.append(session["outcome"] or session["state"])
    if session["reason"]:
        line.append(f" ({session['reason']})")
    return line


def _tells(kind: str) -> bool:
    return kind == _DECISION or kind.startswith(_LIFECYCLE)


def _transition(line: Text, event: dict[str, Any]) -> Text:
    line.append(f"{event['type'].removeprefix(_LIFECYCLE):10} ", style="bold magenta")
    data = event["data"]
    facts = [f"{name}={data[name]}" for name in _TOLD if data.get(name) not in {None, False, ""}]
    return line.append(" ".join(facts), style="magenta")


def _decision(line: Text, data: dict[str, Any]) -> list[Text]:
    """Return what was decided, and below it what it was decided from."""
    decision = str(data.get("decision", "decision"))
    colour = _COLOURS.get(decision, "cyan")
    line.append(f"{decision:10} ", style=f"bold {colour}")
    line.append(str(data.get("text") or data.get("reason", "")), style=colour)
    # PostgreSQL keeps no order of members.
    facts = {"reason": data.get("reason"), **dict(sorted(data.get("inputs", {}).items()))}
    if data.get("policy_revision"):
        facts["policy"] = data["policy_revision"]
    inputs = " ".join(f"{name}={value}" for name, value in facts.items() if value is not None)
    return [line, Text(_INDENT + inputs, style="dim")] if inputs else [line]
