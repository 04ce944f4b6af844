"""What the event of a command tells, and what it keeps to itself."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from greenroom.common.commands import (
    BargeIn,
    Call,
    Command,
    CommandDone,
    CommandRefused,
    CommandRequest,
    Configure,
    Dtmf,
    Inject,
    Interrupt,
    Mute,
    Say,
    Stop,
    Transfer,
    Whisper,
    kind_of,
)
from greenroom.runner.session.commands.auditing import audit

ROOT = Path(__file__).parents[2]


def told(command: Command, result: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the data of the event of a command that was carried out."""
    request = CommandRequest(id="1", by="key-1", at=datetime.now(UTC), command=command)
    return audit(request, CommandDone(id="1", result=result or {}), 1500)


@pytest.mark.parametrize(
    ("command", "data"),
    [
        (Say(text="Hello."), {"text": "Hello.", "interrupt": False, "remember": True}),
        (BargeIn(text="Stop."), {"text": "Stop."}),
        (Whisper(text="Psst."), {"text": "Psst."}),
        (Inject(text="x", run=False), {"text": "x", "role": "developer", "run": False, "interrupt": False}),
        (Interrupt(), {}),
        (Mute(side="bot"), {"side": "bot"}),
        (Transfer(target="+15550100"), {"target": "+15550100"}),
        (Dtmf(digits="4111#"), {"digits": 5}),
        (Stop(now=True), {"now": True}),
        (
            Configure(version=2, voice="anna", llm={"system_instruction": "Be rude."}, values={"pin": "1"}),
            {"version": 2, "voice": "anna", "llm": ["system_instruction"], "values": ["pin"]},
        ),
        (Call(function="f", arguments={"a": 1}), {"function": "f", "arguments": {"a": 1}}),
    ],
    ids=lambda value: kind_of(value) if not isinstance(value, dict) else "",
)
def test_what_was_done_is_told(command: Command, data: dict[str, Any]) -> None:
    """Conversation as such; of keys how many, of settings which ones."""
    common = {"id": "1", "command": kind_of(command), "by": "key-1", "at_ms": 1500, "outcome": "done"}
    assert told(command) == {**common, **data}


@pytest.mark.parametrize("keeps", [True, False])
def test_what_an_operator_is_told_is_kept_if_that_is_asked_for(keeps: bool) -> None:  # noqa: FBT001
    """Otherwise it is told as what the bot has spoken is, and nowhere else."""
    command = Transfer(target="+15550100", mode="warm", summary="Ada.", store_summary=keeps)
    event = told(command)
    assert (event["target"], event["mode"], event.get("summary")) == ("+15550100", "warm", "Ada." if keeps else None)


def test_what_a_function_returned_is_told_bounded() -> None:
    """Like the result of a tool: up to some kB, beyond that its size."""
    command = Call(function="f")
    assert told(command, {"returned": [1, 2]})["result"] == [1, 2]
    assert told(command, {"returned": "x" * 50_000})["result"] == {"truncated": True, "bytes": 50_002}


def test_a_refusal_is_told_with_its_code() -> None:
    """Who wanted what, and why it wasn't done."""
    request = CommandRequest(id="1", by="key-1", at=datetime.now(UTC), command=Say(text="Hello."))
    data = audit(request, CommandRefused(id="1", code="command-unsupported", detail="The bot has no voice."), 0)
    assert (data["outcome"], data["code"], data["text"]) == ("refused", "command-unsupported", "Hello.")


def test_the_page_has_every_command() -> None:
    """docs/commands.md names each of them in its table."""
    page = (ROOT / "docs" / "commands.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert not {f"`{kind.__struct_config__.tag}`" for kind in Command.__value__.__args__} - set(
        " ".join(rows).replace(",", " ").split()
    )
