"""A call's events as lines for a person."""

from typing import Any

import pytest

from greenroom.devtools.client import ServerEvent
from greenroom.devtools.transcript import conversation_line, event_line


def event(kind: str, **data: Any) -> ServerEvent:
    """Return an event as the API streams it: the envelope, with what happened in `data`."""
    envelope = {"id": "e1", "type": kind, "at": "2026-02-03T04:05:06.789Z", "data": data}
    return ServerEvent(id="7", type=kind, data=envelope)


@pytest.mark.parametrize(
    ("shown", "line"),
    [
        (event("user_spoke", text="a table for two", start_ms=0, end_ms=900), "  caller  a table for two"),
        (event("agent_spoke", text="For when?", interrupted=False), "     bot  For when?"),
        (event("agent_spoke", text="We have", interrupted=True), "     bot  We have  ⟵ interrupted"),
        (
            event("tool_called", name="transfer", arguments={"to": "sales", "now": True}),
            "    tool  transfer(to='sales', now=True)",
        ),
        (event("tool_called", name="hang_up", arguments=None), "    tool  hang_up()"),
        (event("node_transition", **{"from": "greeting", "to": "booking"}), "    step  greeting → booking"),
        (event("error", message="no speech service"), "   error  no speech service"),
        (event("error", code="tts-failed"), "   error  tts-failed"),
        (event("recording_saved", path="default/2026/02/x.wav"), "    kept  default/2026/02/x.wav"),
        (event("session.leased", runner_id="r1", epoch=1), "  leased  r1"),
        (event("session.ended", outcome="completed", reason="goodbye"), "   ended  completed goodbye"),
    ],
)
def test_a_conversation_reads_like_one(shown: ServerEvent, line: str) -> None:
    """Who, in a column of its own, and what was said or done."""
    rendered = conversation_line(shown)
    assert rendered is not None
    assert rendered.plain.rstrip() == line


@pytest.mark.parametrize("kind", ["metrics", "call_started", "node_entered", "crm.ticket_opened", "sessions"])
def test_what_is_no_part_of_the_conversation_is_left_out(kind: str) -> None:
    """It is for `greenroom tail`."""
    assert conversation_line(event(kind, value=1)) is None


def test_markup_in_what_was_said_is_text() -> None:
    """Nobody colours a terminal by speaking in brackets."""
    line = conversation_line(event("user_spoke", text="[red]stop[/red]"))
    assert line is not None
    assert "[red]stop[/red]" in line.plain


def test_a_tail_shows_any_event() -> None:
    """When, what, and its data; of an envelope without a time, too."""
    assert event_line(event("crm.ticket_opened", ticket=42, open=True)).plain == (
        "04:05:06.789 crm.ticket_opened        ticket=42, open=True"
    )
    bare = ServerEvent(id="1", type="session.ended", data={"outcome": "lost"})
    assert event_line(bare).plain.split() == ["session.ended", "outcome=lost"]
