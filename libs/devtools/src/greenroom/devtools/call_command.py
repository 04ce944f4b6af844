"""`greenroom call`: one call, shown as it happens."""

from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from greenroom.common.errors import MalformedJson
from greenroom.devtools import call, summary, transcript
from greenroom.devtools.client import ApiClient, ServerEvent
from greenroom.devtools.state import connection, state_dir


async def run(
    console: Console,
    agent: str,
    *,
    say: tuple[str, ...],
    wav: Path | None,
    mic: bool,
    out: Path | None,
    body: str | None,
    as_json: bool,
) -> int:
    """Hold the call and return the exit code: 0 when the session completed."""
    lines = call.from_wav(wav) if wav is not None else call.spoken(say)
    source = call.microphone() if mic else None

    def show(event: ServerEvent) -> None:
        if as_json:
            _print_json(console, {"id": event.id, "type": event.type, "data": event.data})
        elif line := transcript.conversation_line(event):
            console.print(line, soft_wrap=True, highlight=False)

    def begun(session: dict[str, Any], took_ms: float) -> None:
        if not as_json:
            console.print(f"[dim]session {session['id']} ready in {took_ms:.0f} ms[/]", highlight=False)

    async with ApiClient(connection()) as client:
        report = await call.place(
            client, agent, lines, body=_body(body), source=source, on_event=show, on_session=begun
        )
    path = out or state_dir() / "calls" / f"{report.session['id']}.wav"
    call.save(report, path)
    if as_json:
        _print_json(console, {"type": "result", **summary.session_of(report), "wav": str(path)})
    else:
        outcome, reason = report.session.get("outcome"), report.session.get("reason")
        console.print(f"[dim]{outcome} ({reason}) after {report.call.duration_s:.1f} s · {path}[/]", highlight=False)
    return 0 if report.session.get("outcome") == "completed" else 1


def _body(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise MalformedJson(f"--body: {error}") from error


def _print_json(console: Console, value: dict[str, Any]) -> None:
    console.print(msgspec.json.encode(value).decode(), soft_wrap=True, highlight=False, markup=False)
