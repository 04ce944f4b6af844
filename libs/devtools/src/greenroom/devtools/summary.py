"""What was kept of a call, and whether all of it is true: read back from the stores, not from what was sent."""

import wave
from array import array
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console

from greenroom.devtools import database, trace
from greenroom.devtools.call import CallReport
from greenroom.devtools.state import UpState

# The recording may differ from the call by this share of its length.
_LENGTH_TOLERANCE: Final = 0.02
# A channel carries speech when its loudest tenth of a second has this root mean square (16 bit samples).
_SPEECH_RMS: Final = 500
_EXPECTED_SERVICES: Final = frozenset({"api", "scheduler", "runner", "session", "recorder"})


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What the stores hold of one session, and what is wrong with it."""

    lines: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What a scripted call must have come to."""

    caller_sentences: int
    tool_calls: int
    barge_ins: int
    reason: str


async def examine(report: CallReport, state: UpState, expected: Expected) -> Kept:
    """Compare what was kept with what was expected.

    Raises:
        OSError, DatabaseUnavailable: a store can't be read.
    """
    problems: list[str] = []
    session = report.session
    lines = [
        ("session", _session_line(report, problems, expected)),
        ("heard", _heard_line(report, problems, expected)),
        ("events", await _events_line(state, str(session["id"]), problems)),
        ("recording", await _recording_line(state, report, problems)),
        ("trace", _trace_line(Path(state.traces_dir), str(session.get("trace_id", "")), problems)),
    ]
    return Kept(lines=tuple(lines), problems=tuple(problems))


def show(console: Console, kept: Kept) -> None:
    """Print it."""
    console.print()
    for name, text in kept.lines:
        console.print(f"[bold]{name:<10}[/] {text}", highlight=False, soft_wrap=True)
    for problem in kept.problems:
        console.print(f"[bold red]not true[/]   {problem}", highlight=False, soft_wrap=True)


def _session_line(report: CallReport, problems: list[str], expected: Expected) -> str:
    session = report.session
    outcome, reason = session.get("outcome"), session.get("reason")
    if (outcome, reason) != ("completed", expected.reason):
        problems.append(f"the session ended {outcome} ({reason}), not completed ({expected.reason})")
    return (
        f"{session['id']}  {outcome} ({reason}) in {report.call.duration_s:.1f} s"
        f"      request → ready {report.request_to_ready_ms:.0f} ms"
    )


def _heard_line(report: CallReport, problems: list[str], expected: Expected) -> str:
    heard, turns = len(report.of_type("user_spoke")), report.of_type("agent_spoke")
    tools = len(report.of_type("tool_called"))
    cut = sum(1 for event in turns if event.data.get("data", {}).get("interrupted"))
    for name, actual, wanted in (
        ("caller sentences were heard", heard, expected.caller_sentences),
        ("tool calls", tools, expected.tool_calls),
        ("barge-ins", cut, expected.barge_ins),
    ):
        if actual != wanted:
            problems.append(f"{actual} {name}, not {wanted}")
    return (
        f"{heard} of {expected.caller_sentences} caller sentences · {len(turns)} bot turns"
        f" · {_count(tools, 'tool call')} · {_count(cut, 'barge-in')}"
    )


async def _events_line(state: UpState, session_id: str, problems: list[str]) -> str:
    query = "SELECT type, source, seq FROM session_events WHERE session_id = $1 ORDER BY stream_seq"
    rows = await database.fetch(state.database_url, query, session_id)
    numbers = [row["seq"] for row in rows if row["source"] == "session"]
    missing = sorted(set(range(1, max(numbers, default=0) + 1)) - set(numbers))
    if missing or len(numbers) != len(set(numbers)):
        problems.append(f"of the session's events {missing or 'none'} are missing, {len(numbers)} are stored")
    types = [row["type"] for row in rows]
    if "call_completed" not in types:
        problems.append("the session's last event, call_completed, isn't stored")
    return f"{len(rows)} stored, {'none missing' if not missing else f'{len(missing)} missing'}"


async def _recording_line(state: UpState, report: CallReport, problems: list[str]) -> str:
    query = "SELECT path, duration_s, gaps FROM recordings WHERE session_id = $1"
    row = next(iter(await database.fetch(state.database_url, query, str(report.session["id"]))), None)
    if row is None:
        problems.append("there is no recording")
        return "none"
    path = Path(state.recordings_dir) / row["path"]
    if path.suffix != ".wav" or not path.is_file():
        # As the environment wants it: in another format, encrypted or in a bucket.
        return f"{row['path']}   {row['duration_s']:.1f} s"
    with wave.open(str(path)) as file:
        channels, duration_s = file.getnchannels(), file.getnframes() / file.getframerate()
        loud = [_loudest(file, channel) > _SPEECH_RMS for channel in range(channels)]
    call_s = report.call.duration_s
    if abs(duration_s - call_s) > max(_LENGTH_TOLERANCE * call_s, 0.5):
        problems.append(f"the recording has {duration_s:.1f} s, the call {call_s:.1f} s")
    if channels != 2 or not all(loud):  # noqa: PLR2004 - caller and bot
        problems.append(f"{channels} channels, speech on {loud}")
    gaps = msgspec.json.decode(row["gaps"]) if isinstance(row["gaps"], str) else row["gaps"]
    if gaps:
        problems.append(f"the recording has {len(gaps)} gaps")
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"{shown}   {duration_s:.1f} s, {channels} channels, {'no gaps' if not gaps else _count(len(gaps), 'gap')}"


def _loudest(file: wave.Wave_read, channel: int) -> float:
    """Return the root mean square of a channel's loudest tenth of a second."""
    file.rewind()
    block, loudest = file.getframerate() // 10, 0.0
    while pcm := file.readframes(block):
        samples = array("h", pcm)[channel :: file.getnchannels()]
        loudest = max(loudest, (sum(sample * sample for sample in samples) / max(len(samples), 1)) ** 0.5)
    return loudest


def _trace_line(folder: Path, trace_id: str, problems: list[str]) -> str:
    spans = trace.load(folder, trace_id) if trace_id else []
    services = trace.services(spans)
    if missing := _EXPECTED_SERVICES - set(services):
        problems.append(f"no span of {', '.join(sorted(missing))} in the trace")
    if lost := trace.orphans(spans):
        problems.append(f"{len(lost)} spans have no parent, for example {lost[0].name} of {lost[0].service}")
    return f"{trace_id}  {len(spans)} spans over {', '.join(services)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def session_of(report: CallReport) -> dict[str, Any]:
    """Return the call as JSON for programs."""
    return {
        "session": report.session,
        "request_to_ready_ms": round(report.request_to_ready_ms, 1),
        "call": {
            "duration_s": round(report.call.duration_s, 2),
            "lines_said": report.call.lines_said,
            "barge_ins": report.call.barge_ins,
            "interruptions": report.call.interruptions,
            "close_code": report.call.close_code,
            "close_reason": report.call.close_reason,
        },
    }
