"""Traces, metrics and logs."""

import asyncio
import io
import json
import logging
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Literal

import pytest
import structlog
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from greenroom.common import telemetry
from greenroom.common.errors import StaleEpoch
from greenroom.common.log import bind_session, configure_logging
from greenroom.common.metrics import CONTENT_TYPE, Metrics
from greenroom.common.redaction import REDACTED_NAMES, ContentFilter
from greenroom.common.tracing import setup_tracing
from tests.support.otlp_stub import otlp_stub
from tests.support.spans import record_spans

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


# ---------------------------------------------------------------------------- context


def test_context_travels_in_headers() -> None:
    """A span made from the headers of a message is a child of the one that wrote them."""
    recorder = record_spans()
    with telemetry.span("sender"):
        headers = telemetry.inject({"Nats-Msg-Id": "1"})
    with telemetry.span("receiver", parent=telemetry.extract(headers)):
        pass
    receiver = recorder.one("receiver")
    assert headers["Nats-Msg-Id"] == "1"
    assert receiver.parent is not None
    assert receiver.parent.span_id == recorder.id_of("sender")


def test_header_names_have_any_case() -> None:
    """Brokers and proxies change the case of header names; the context is found all the same."""
    context = telemetry.span_context_of({"TraceParent": TRACEPARENT})
    assert context is not None
    assert format(context.trace_id, "032x") == TRACE_ID


@pytest.mark.parametrize("headers", [None, {}, {"traceparent": "nonsense"}, {"traceparent": ""}])
def test_no_context_is_no_error(headers: dict[str, str] | None) -> None:
    """Without usable headers a new trace begins, even inside another span."""
    recorder = record_spans()
    assert telemetry.span_context_of(headers) is None
    with telemetry.span("outer"), telemetry.span("fresh", parent=telemetry.extract(headers)):
        pass
    assert recorder.one("fresh").parent is None


def test_current_traceparent() -> None:
    """The current span is told as a traceparent inside of it, and as nothing outside."""
    record_spans()
    assert telemetry.current_traceparent() is None
    assert telemetry.current_trace_id() is None
    with telemetry.span("s"):
        traceparent, trace_id = telemetry.current_traceparent(), telemetry.current_trace_id()
    assert traceparent is not None
    assert traceparent.split("-")[1] == trace_id


# ---------------------------------------------------------------------------- spans


def test_session_spans_are_siblings() -> None:
    """Every stage of a session is a direct child of the span that asked for it, and bears the session's ids."""
    recorder = record_spans()
    with (
        telemetry.session_span("outer", session_id="1", tenant="acme", traceparent=TRACEPARENT),
        telemetry.session_span("inner", session_id="1", tenant="acme", traceparent=TRACEPARENT),
    ):
        pass
    for name in ("outer", "inner"):
        span = recorder.one(name)
        assert span.parent is not None
        assert format(span.parent.span_id, "016x") == "00f067aa0ba902b7"
        assert dict(span.attributes or {}) == {
            "session.id": "1",
            "gen_ai.conversation.id": "1",
            "greenroom.tenant": "acme",
        }


def test_session_span_without_traceparent_follows_the_current_span() -> None:
    """A session without a stored trace goes on in the trace of whoever handles it."""
    recorder = record_spans()
    with telemetry.span("current"), telemetry.session_span("stage", session_id="1", tenant="t"):
        pass
    stage = recorder.one("stage")
    assert stage.parent is not None
    assert stage.parent.span_id == recorder.id_of("current")


def test_message_span_follows_the_conventions() -> None:
    """A span on a message is named by operation and template, and carries the conventional attributes."""
    recorder = record_spans()
    template = "gr.v1.session.{tenant}.{session}.lifecycle"
    sender = telemetry.span_context_of({"traceparent": TRACEPARENT})
    with telemetry.message_span(
        "process",
        template,
        subject="gr.v1.session.a.1.lifecycle",
        consumer="recorder",
        stream_seq=7,
        links=[sender, None],
    ):
        pass
    span = recorder.one(f"process {template}")
    assert span.kind is SpanKind.CONSUMER
    assert [link.context for link in span.links] == [sender]
    assert dict(span.attributes or {}) == {
        "messaging.system": "nats",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.template": template,
        "messaging.destination.name": "gr.v1.session.a.1.lifecycle",
        "messaging.consumer.group.name": "recorder",
        "messaging.message.id": "7",
    }


@pytest.mark.parametrize(
    ("error", "code"), [(StaleEpoch("epoch 3 of alice"), "stale-epoch"), (ValueError("alice said no"), "ValueError")]
)
def test_failed_span_has_a_code_and_no_text(error: Exception, code: str) -> None:
    """An error marks its span by code or class; its text, which may hold what was said, isn't in the span."""
    recorder = record_spans()
    with pytest.raises(type(error)), telemetry.span("s"):
        raise error
    span = recorder.one("s")
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, code)
    assert "alice" not in span.to_json()


async def test_cancelled_span_is_no_error() -> None:
    """Being cancelled is told by an attribute, not as a failure."""
    recorder = record_spans()

    async def wait() -> None:
        with telemetry.span("s"):
            await asyncio.sleep(60)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    span = recorder.one("s")
    assert span.status.status_code is StatusCode.UNSET
    assert (span.attributes or {})["greenroom.canceled"] is True


def test_tracing_is_set_up_once() -> None:
    """A second set-up in a process is refused instead of being ignored."""
    record_spans()
    with pytest.raises(RuntimeError, match="set up already"):
        setup_tracing("s", "i", None)


# ---------------------------------------------------------------------------- content

CONTENT: dict[str, AttributeValue] = {
    "transcript": "my card is 4711",
    "text": "4711",
    "input": '[{"role":"user","content":"4711"}]',
    "output": "4711",
    "gen_ai.system_instructions": "never say 4711",
    "tool.arguments": ("4711",),
    "caller.pii.name": "4711",
    "invented.by.a.bot": "4711 " * 100,
}
HARMLESS: dict[str, AttributeValue] = {
    "gen_ai.output.type": "speech",
    "gen_ai.usage.input_tokens": 12,
    "is_final": True,
    "db.query.text": "SELECT " + "x, " * 200,
    "session.id": "1",
}


def filtered(*, keep_content: bool) -> str:
    """Return a span with content everywhere, as JSON, after the filter."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(ContentFilter(exporter, keep_content=keep_content)))
    with provider.get_tracer("t").start_as_current_span("stt", context=Context()) as span:
        span.set_attributes({**CONTENT, **HARMLESS})
        span.record_exception(ValueError("4711 isn't a card"))
        span.set_status(Status(StatusCode.ERROR, "4711 isn't a card"))
    (exported,) = exporter.get_finished_spans()
    return exported.to_json()


def test_content_does_not_leave_the_process() -> None:
    """What was said is removed from attributes, events and status; the names of what was removed stay."""
    text = filtered(keep_content=False)
    assert "4711" not in text
    span = json.loads(text)
    attributes = span["attributes"]
    assert set(attributes.pop(REDACTED_NAMES)) == set(CONTENT)
    assert attributes == HARMLESS
    assert span["status"] == {"status_code": "ERROR"}
    assert span["events"][0]["attributes"]["exception.type"] == "ValueError"


def test_content_is_kept_under_pii_names_when_switched_on() -> None:
    """Kept content has a `pii` segment in its name, so that a collector can strip it by rule."""
    attributes = json.loads(filtered(keep_content=True))["attributes"]
    assert attributes["pii.transcript"] == "my card is 4711"
    assert attributes["gen_ai.pii.system_instructions"] == "never say 4711"
    assert attributes["caller.pii.name"] == "4711"
    assert not [name for name, value in attributes.items() if "4711" in str(value) and "pii" not in name.split(".")]


# ---------------------------------------------------------------------------- export

# Runs as a process of its own: the parent stands for a zygote (one thread, no provider), its children for sessions.
ZYGOTE = """
    import os, sys, threading
    from greenroom.common import telemetry, tracing, tracing_rehearsal

    tracing_rehearsal.rehearse()
    assert threading.active_count() == 1
    children = []
    for number in range(3):
        pid = os.fork()
        if pid == 0:
            traces = tracing.setup_tracing("greenroom-session", f"child-{number}", sys.argv[1])
            session = {"session_id": str(number), "tenant": "t", "traceparent": sys.argv[2]}
            for _ in range(20):
                with telemetry.session_span("turn", **session) as span:
                    span.set_attribute("transcript", "my card is 4711")
            os._exit(0 if traces.shutdown() else 3)
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert codes == [0, 0, 0], codes
"""

ALONE = """
    import asyncio, sys, time
    from greenroom.common import log, telemetry, tracing

    log.configure_logging("s", form="json")
    traces = tracing.setup_tracing("s", "i", sys.argv[1])
    for _ in range(5):
        with telemetry.span("s"):
            pass
        time.sleep(float(sys.argv[2]))

    async def end():
        async with asyncio.timeout(5):
            beats = 0
            flush = asyncio.create_task(traces.shutdown_async(0.3))
            while not flush.done():
                beats += 1
                await asyncio.sleep(0.01)
            print(beats, await flush)

    began = time.monotonic()
    asyncio.run(end())
    print(round(time.monotonic() - began, 1))
"""


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_forked_children_lose_no_span() -> None:
    """Each forked session process exports all of its spans once before it ends by `_exit`, without content."""
    with otlp_stub() as receiver:
        run(ZYGOTE, receiver.url, TRACEPARENT)
        spans = receiver.spans
    assert len(spans) == len({span.span_id for span in spans}) == 60
    assert {span.instance for span in spans} == {"child-0", "child-1", "child-2"}
    assert {(span.trace_id, span.parent_id) for span in spans} == {(TRACE_ID, "00f067aa0ba902b7")}
    assert not [span for span in spans if "4711" in str(span.attributes)]


def test_spans_are_seen_while_the_process_lives() -> None:
    """Spans arrive within a second or so, not only when the process ends."""
    with otlp_stub() as receiver:
        script = """
            import sys
            from greenroom.common import telemetry, tracing, tracing_rehearsal
            tracing.setup_tracing("s", "i", sys.argv[1])
            with telemetry.span("early"):
                pass
            sys.stdin.read()
        """
        command = [sys.executable, "-c", textwrap.dedent(script), receiver.url]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            seen = receiver.wait_for(1)
            alive = process.poll() is None
            process.communicate(timeout=10)
    assert [span.name for span in seen] == ["early"]
    assert alive


def test_a_missing_receiver_costs_nothing() -> None:
    """With nobody at the endpoint there is one warning, the flush keeps its deadline and the loop goes on turning."""
    finished = run(ALONE, "http://127.0.0.1:9", "0.3")
    (beats, flushed), (took_s,) = (line.split() for line in finished.stdout.splitlines())
    records = [json.loads(line) for line in finished.stderr.splitlines()]
    assert [record["level"] for record in records] == ["warning"]
    assert flushed == "False"
    assert float(took_s) < 1.0
    assert int(beats) > 5


# ---------------------------------------------------------------------------- metrics


def test_metrics_have_exemplars() -> None:
    """What is counted inside a trace points at that trace; outside of one it is counted all the same."""
    record_spans()
    metrics = Metrics()
    refusals = metrics.counter("refusals", "Refused starts", ["reason"])
    latency = metrics.histogram("start_seconds", "Start of a session")
    slots = metrics.gauge("slots", "Slots", ["state"])
    slots.set(3, state="free")
    refusals.inc(reason="draining")
    with telemetry.span("s"):
        trace_id = telemetry.current_trace_id()
        refusals.inc(reason="draining")
        latency.observe(0.003)
    text = metrics.render().decode()
    assert refusals.value(reason="draining") == 2
    assert f'greenroom_refusals_total{{reason="draining"}} 2.0 # {{trace_id="{trace_id}"}} 1.0' in text
    assert f'greenroom_start_seconds_bucket{{le="0.005"}} 1.0 # {{trace_id="{trace_id}"}} 0.003' in text
    assert 'greenroom_slots{state="free"} 3.0' in text
    assert text.endswith("# EOF\n")
    assert CONTENT_TYPE.startswith("application/openmetrics-text")


def test_metrics_are_apart() -> None:
    """Two sets of metrics in one process may have the same names."""
    for _ in range(2):
        Metrics().counter("starts", "Starts").inc()


# ---------------------------------------------------------------------------- logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where a test logs to; what was configured before comes back after it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_log_is_json_with_trace_and_session(stream: io.StringIO) -> None:
    """A record off a terminal is one JSON object with service, level, time, the trace and the session."""
    record_spans()
    configure_logging("api", form="auto", instance_id="i", stream=stream)
    with telemetry.span("s"), bind_session("42", "acme"):
        trace_id = telemetry.current_trace_id()
        structlog.get_logger("greenroom.x").info("session_started", slots=3)
    structlog.get_logger("greenroom.x").debug("too_quiet")
    (record,) = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert record.pop("at").endswith("Z")
    assert len(record.pop("span_id")) == 16
    assert record == {
        "event": "session_started",
        "level": "info",
        "logger": "greenroom.x",
        "service": "api",
        "instance": "i",
        "session_id": "42",
        "tenant": "acme",
        "slots": 3,
        "trace_id": trace_id,
    }


def test_foreign_records_look_alike(stream: io.StringIO) -> None:
    """A record of another library has the same form, with its extra fields."""
    configure_logging("api", form="json", stream=stream)
    logging.getLogger("another.library").warning("port %s", 80, extra={"color": "red"})
    record = json.loads(stream.getvalue())
    assert (record["event"], record["color"], record["service"], record["level"]) == (
        "port 80",
        "red",
        "api",
        "warning",
    )


@pytest.mark.parametrize("name", ["httpx", "httpx2", "httpcore2.connection", "urllib3"])
def test_a_record_per_request_is_not_written(stream: io.StringIO, name: str) -> None:
    """HTTP clients are heard from warnings on, whatever the level."""
    configure_logging("api", level="debug", form="json", stream=stream)
    logging.getLogger(name).info("HTTP Request: %s", "GET")
    assert stream.getvalue() == ""
    logging.getLogger(name).warning("odd")
    assert json.loads(stream.getvalue())["event"] == "odd"


def test_secrets_are_masked_in_logs(stream: io.StringIO) -> None:
    """Fields that are secrets by name are masked, nested ones too, without changing the caller's objects."""
    configure_logging("api", form="json", stream=stream)
    headers = {"Authorization": "Bearer 4711", "accept": "*/*"}
    structlog.get_logger().info("request", headers=headers, ticket="4711", token="")
    assert "4711" not in stream.getvalue()
    assert json.loads(stream.getvalue())["headers"] == {"Authorization": "***", "accept": "*/*"}
    assert headers["Authorization"] == "Bearer 4711"


@pytest.mark.parametrize("form", ["json", "console"])
def test_tracebacks_do_not_show_variables(stream: io.StringIO, form: Literal["json", "console"]) -> None:
    """A traceback shows where it happened, not what the variables held; odd values are shown by `repr`."""
    configure_logging("api", form=form, stream=stream)
    hidden = "47" + "11"
    try:
        raise LookupError(len(hidden))
    except LookupError:
        structlog.get_logger().exception("lookup_failed", odd=object)
    assert "LookupError: 4" in stream.getvalue()
    assert "4711" not in stream.getvalue()
    assert "class 'object'" in stream.getvalue()


def test_console_form_is_for_people(stream: io.StringIO) -> None:
    """On request the log is lines for a terminal, without colours where the stream isn't one."""
    configure_logging("api", form="console", stream=stream)
    structlog.get_logger().info("session_started", session_id="42")
    line = stream.getvalue()
    assert "session_started" in line
    assert "session_id=42" in line
    assert "\x1b" not in line
