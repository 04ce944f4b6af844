"""The main job: a spoken call from the request to what is kept of it."""

import io
import re
import wave
from array import array
from collections.abc import AsyncIterator

import msgspec
import pytest

from greenroom.common.ledger import Ledger
from greenroom.common.nats_broker import NatsBroker
from greenroom.devtools import call, demo, summary, trace
from greenroom.devtools.call import CallReport
from tests.support.api_world import eventually
from tests.support.stack import RunningStack, all_events, running_stack, wait_for_recording

pytestmark = [pytest.mark.alone, pytest.mark.asyncio(loop_scope="module")]

# The longest span is a turn; the longest turn of the script is the answer about opening hours.
_LONGEST_SPAN_MS = 20_000


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningStack]:
    """A stack for all tests of this module."""
    async with running_stack(tmp_path_factory.mktemp("demo")) as running:
        yield running


@pytest.fixture(scope="module")
async def report(stack: RunningStack) -> CallReport:
    """The scripted call of the demo."""
    async with stack.client() as client:
        return await call.place(client, demo.AGENT, call.spoken(demo.SCRIPT))


async def test_everything_the_demo_claims_is_true(stack: RunningStack, report: CallReport) -> None:
    """What `make demo` prints at its end is read back from the stores, and all of it holds."""
    kept = await summary.examine(report, stack.stack.state(), demo.EXPECTED)
    assert kept.problems == ()


async def test_the_transcript_says_what_the_caller_said(report: CallReport) -> None:
    """Each sentence of the caller was recognised word for word, in order."""
    heard = [_words(event.data["data"]["text"]) for event in report.of_type("user_spoke")]
    assert heard == [_words(text) for text in demo.SCRIPT]


async def test_both_channels_carry_speech_where_the_transcript_says_so(stack: RunningStack, report: CallReport) -> None:
    """In the recording the left channel is loud while the caller speaks, the right one while the bot does."""
    async with stack.client() as client:
        recording = await wait_for_recording(client, report.session["id"])
    with wave.open(io.BytesIO(recording)) as file:
        rate = file.getframerate()
        samples = array("h", file.readframes(file.getnframes()))
    for kind, channel in (("user_spoke", 0), ("agent_spoke", 1)):
        for event in report.of_type(kind):
            data = event.data["data"]
            assert _rms(samples[channel::2], rate, data["start_ms"], data["end_ms"]) > 300, (kind, data)


async def test_the_recording_is_as_long_as_the_call(stack: RunningStack, report: CallReport) -> None:
    """The recording's length differs from the call's by less than 2 %."""
    async with stack.client() as client:
        recording = await wait_for_recording(client, report.session["id"])
    with wave.open(io.BytesIO(recording)) as file:
        duration_s = file.getnframes() / file.getframerate()
    assert duration_s == pytest.approx(report.call.duration_s, rel=0.02)


async def test_the_barge_in_cut_the_bot_short(report: CallReport) -> None:
    """The bot's turn that the caller spoke into is marked as interrupted, and it is the only one."""
    interrupted = [event.data["data"]["interrupted"] for event in report.of_type("agent_spoke")]
    assert interrupted.count(True) == 1
    assert report.call.interruptions >= 1


async def test_stored_events_are_those_that_were_streamed(stack: RunningStack, report: CallReport) -> None:
    """PostgreSQL holds the same events in the same order as the server-sent stream showed them."""
    streamed = [event.id for event in report.events]
    async with stack.client() as client:
        # What is streamed is stored a quarter of a second later.
        stored = await eventually(
            lambda: all_events(client, report.session["id"]), lambda found: len(found) >= len(streamed)
        )
    assert [str(event["stream_seq"]) for event in stored][: len(streamed)] == streamed


async def test_the_whole_call_is_one_trace(stack: RunningStack, report: CallReport) -> None:
    """Every span that belongs to the session is in its trace and has a parent there; none is longer than a turn."""
    trace_id = report.session["trace_id"]
    spans = trace.load(stack.stack.traces_dir, trace_id)
    assert set(trace.services(spans)) >= {"api", "scheduler", "runner", "session", "recorder"}
    assert trace.orphans(spans) == []
    assert [span.name for span in spans if span.parent_id is None] == ["POST /v1/sessions"]
    assert [(span.name, span.duration_ms) for span in spans if span.duration_ms > _LONGEST_SPAN_MS] == []
    # Who looks at a session afterwards makes a trace of their own, which is the api's alone.
    others = [path.stem for path in stack.stack.traces_dir.glob("*.json") if path.stem != trace_id]
    assert {name for other in others for name in trace.services(trace.load(stack.stack.traces_dir, other))} <= {"api"}


async def test_what_was_said_and_what_opens_doors_is_nowhere_else(stack: RunningStack, report: CallReport) -> None:
    """No conversation in traces and logs; the key and the ticket in none of logs, traces, events and the ledger."""
    session_id = report.session["id"]
    ticket = report.media_url.rsplit("/", 1)[-1]
    traces = "".join(path.read_text() for path in stack.stack.traces_dir.glob("*.json"))
    log = stack.log.read_text()
    async with stack.client() as client:
        events = msgspec.json.encode(await all_events(client, session_id)).decode()
    broker = await NatsBroker.connect(stack.stack.nats_url, name="test")
    try:
        ledger = repr(await Ledger(broker).history("default", session_id))
    finally:
        await broker.close()
    assert session_id in log
    assert session_id in traces
    assert session_id in ledger
    assert "book a table" not in traces
    assert "book a table" not in log
    for secret in (stack.stack.api_key, ticket):
        for place in (traces, log, events, ledger):
            assert secret not in place


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def _rms(samples: array[int], rate: int, start_ms: float, end_ms: float) -> float:
    part = samples[round(start_ms * rate / 1000) : round(end_ms * rate / 1000)]
    return (sum(sample * sample for sample in part) / max(len(part), 1)) ** 0.5
