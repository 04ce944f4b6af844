"""A call's events as lines for a person."""

from typing import Any, Final, cast

from rich.text import Text

from greenroom.common.transcript import LABELS, Heard, heard
from greenroom.devtools.client import ServerEvent

_NAME_WIDTH: Final = 8
# What is told beside the conversation itself; everything else is for `greenroom tail`.
_ASIDES: Final = {
    "tool_called": ("tool", "yellow"),
    "node_transition": ("step", "dim"),
    "error": ("error", "red"),
    "recording_saved": ("kept", "dim"),
}


def conversation_line(event: ServerEvent) -> Text | None:
    """Return the line for an event of a conversation, or None for an event that isn't part of it."""
    data = _payload(event)
    if (said := heard(event.type, data)) is not None:
        return _spoken(said)
    match event.type:
        case kind if kind in _ASIDES:
            name, colour = _ASIDES[kind]
            return _line(name, colour, _aside(kind, data), style=colour)
        case kind if kind.startswith("session."):
            return _line(kind.removeprefix("session."), "dim", _transition(data), style="dim")
        case _:
            return None


def event_line(event: ServerEvent) -> Text:
    """Return any event as one line: when, what, and its data."""
    at = str(event.data.get("at", ""))[11:23]
    line = Text(f"{at:12} ", style="dim")
    line.append(f"{event.type:24} ", style=_colour(event.type))
    details = ", ".join(f"{name}={value}" for name, value in _payload(event).items())
    return line.append(details)


def _colour(kind: str) -> str:
    if kind.startswith("session."):
        return "magenta"
    return {"user_spoke": "cyan", "agent_spoke": "green", "error": "red"}.get(kind, "white")


def _payload(event: ServerEvent) -> dict[str, Any]:
    return cast("dict[str, Any]", event.data.get("data", event.data))


def _spoken(said: Heard) -> Text:
    line = _line(LABELS[said.speaker], "cyan" if said.speaker == "user" else "green", said.text)
    if said.interrupted:
        line.append("  ⟵ interrupted", style="yellow")
    return line


def _line(name: str, colour: str, text: str, *, style: str = "") -> Text:
    return Text(f"{name:>{_NAME_WIDTH}}  ", style=f"bold {colour}").append(text, style=style)


def _aside(kind: str, data: dict[str, Any]) -> str:
    match kind:
        case "tool_called":
            given: dict[str, Any] = data.get("arguments") or {}
            arguments = ", ".join(f"{name}={value!r}" for name, value in given.items())
            return f"{data.get('name')}({arguments})"
        case "node_transition":
            return f"{data.get('from')} → {data.get('to')}"
        case "recording_saved":
            return str(data.get("path", "recording"))
        case _:
            return str(data.get("message") or data.get("code") or data)


def _transition(data: dict[str, Any]) -> str:
    known = {name: data.get(name) for name in ("runner_id", "outcome", "reason") if data.get(name)}
    return " ".join(str(value) for value in known.values())
