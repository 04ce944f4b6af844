"""The receiver of spans that `greenroom up` brings: OTLP over HTTP in, OTLP's JSON in files out."""

import asyncio
import gzip
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.protobuf import json_format
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from greenroom.devtools import otlp
from greenroom.devtools.otlp import OtlpReceiver, TraceStore, read_trace
from tests.support.otlp_exports import OTHER, TRACE, export, span


def kept(folder: Path, trace: bytes = TRACE) -> list[dict[str, Any]]:
    """Return the spans of a trace file."""
    content = json.loads((folder / f"{trace.hex()}.json").read_text())
    return [each for group in content["resourceSpans"] for scope in group["scopeSpans"] for each in scope["spans"]]


def test_a_trace_is_a_file_in_otlp_json(tmp_path: Path) -> None:
    """Ids in hexadecimal, also those of links; enumerations as numbers; times as decimal text; attributes kept."""
    sent = span(2, parent=1, status=Status(code=Status.STATUS_CODE_ERROR, message="broken"))
    sent.links.add(trace_id=OTHER, span_id=(9).to_bytes(8))
    sent.attributes.add(key="session.id").value.string_value = "s1"
    sent.events.add(name="note", time_unix_nano=5)
    assert TraceStore(tmp_path).add(export(span(1), sent)) == 2
    first, second = kept(tmp_path)
    assert (first["traceId"], first["spanId"]) == (TRACE.hex(), "0000000000000001")
    assert "parentSpanId" not in first
    assert second == {
        "traceId": TRACE.hex(),
        "spanId": "0000000000000002",
        "parentSpanId": "0000000000000001",
        "name": "span 2",
        "kind": 2,
        "startTimeUnixNano": "1770091506000000002",
        "endTimeUnixNano": "1770091506100000002",
        "attributes": [{"key": "session.id", "value": {"stringValue": "s1"}}],
        "events": [{"name": "note", "timeUnixNano": "5"}],
        "links": [{"traceId": OTHER.hex(), "spanId": "0000000000000009"}],
        "status": {"code": 2, "message": "broken"},
    }
    group = read_trace(tmp_path / f"{TRACE.hex()}.json")[0]
    assert group["resource"] == {"attributes": [{"key": "service.name", "value": {"stringValue": "greenroom-api"}}]}
    assert group["scopeSpans"][0]["scope"] == {"name": "greenroom"}


def test_each_trace_has_a_file_of_its_own(tmp_path: Path) -> None:
    """One export may have spans of many."""
    TraceStore(tmp_path).add(export(span(1), span(2, trace=OTHER), span(3)))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{TRACE.hex()}.json", f"{OTHER.hex()}.json"]
    assert [each["name"] for each in kept(tmp_path)] == ["span 1", "span 3"]
    assert [each["name"] for each in kept(tmp_path, OTHER)] == ["span 2"]


def test_many_batches_become_one_trace(tmp_path: Path) -> None:
    """From several services, over a restart of the receiver, and of a trace that was put out of memory meanwhile."""
    store = TraceStore(tmp_path)
    for number in range(1, 6):
        store.add(export(span(number), service=f"greenroom-{number % 2}"))
    for number in range(300):
        store.add(export(span(1, trace=(1000 + number).to_bytes(16))))
    store.add(export(span(6)))
    TraceStore(tmp_path).add(export(span(7)))
    assert [each["name"] for each in kept(tmp_path)] == [f"span {number}" for number in range(1, 8)]
    assert not list(tmp_path.glob("*.tmp"))


def test_spans_without_ids_are_left_out(tmp_path: Path) -> None:
    """They belong to no trace; the others of the export are kept."""
    assert TraceStore(tmp_path).add(export(span(1), Span(name="lost"), Span(trace_id=TRACE, name="lost"))) == 1
    assert [each["name"] for each in kept(tmp_path)] == ["span 1"]


def test_a_trace_that_is_not_there_is_empty(tmp_path: Path) -> None:
    """No file, no spans."""
    assert read_trace(tmp_path / "none.json") == []


# ---------------------------------------------------------------------------- over HTTP


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncGenerator[OtlpReceiver]:
    """A receiver on a free port."""
    running = OtlpReceiver(TraceStore(tmp_path))
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def http(receiver: OtlpReceiver) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of it."""
    async with httpx.AsyncClient(base_url=receiver.url, timeout=5) as client:
        yield client


async def test_exports_come_over_http_plain_and_compressed(http: httpx.AsyncClient, tmp_path: Path) -> None:
    """One connection takes many of them; the answer is OTLP's."""
    for number in range(1, 4):
        response = await http.post("/v1/traces", content=export(span(number)).SerializeToString())
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/x-protobuf"
        ExportTraceServiceResponse.FromString(response.content)
    body = gzip.compress(export(span(4)).SerializeToString())
    response = await http.post("/v1/traces", content=body, headers={"Content-Encoding": "gzip"})
    assert response.status_code == 200
    assert len(kept(tmp_path)) == 4


BOMB = gzip.compress(bytes(otlp._MAX_BODY_BYTES + 1))
WHOLE = gzip.compress(export(span(1)).SerializeToString())


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"this is no protobuf", "identity"),
        (b"this is no gzip", "gzip"),
        (WHOLE[:-9], "gzip"),
        (WHOLE[:12] + bytes([WHOLE[12] ^ 0xFF]) + WHOLE[13:], "gzip"),
        (BOMB, "gzip"),
    ],
    ids=["not protobuf", "not gzip", "cut off", "damaged", "bomb"],
)
async def test_what_is_malformed_is_refused_and_the_next_one_taken(
    http: httpx.AsyncClient, tmp_path: Path, body: bytes, encoding: str
) -> None:
    """On the same connection: an exporter that makes a mistake isn't cut off."""
    assert (await http.post("/v1/metrics", content=body)).status_code == 404
    response = await http.post("/v1/traces", content=body, headers={"Content-Encoding": encoding})
    assert response.status_code == 400
    assert not list(tmp_path.glob("*.json"))
    assert (await http.post("/v1/traces", content=export(span(1)).SerializeToString())).status_code == 200
    assert len(kept(tmp_path)) == 1


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /v1/traces HTTP/1.1\r\nContent-Length: many\r\n\r\n", b"411"),
        (b"POST /v1/traces HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"411"),
        (b"POST /v1/traces HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"411"),
        (b"POST /v1/traces HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", b"413"),
        (b"x" * 100_000 + b"\r\n\r\n", b""),
        (b"half a request", b""),
    ],
    ids=["not a number", "negative", "chunked", "too large", "endless head", "cut off"],
)
async def test_odd_requests_end_their_connection_only(receiver: OtlpReceiver, head: bytes, status: bytes) -> None:
    """Nothing is left of it, and others are served."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(receiver.url.rsplit(":", 1)[1]))
    writer.write(head)
    writer.write_eof()
    async with asyncio.timeout(5):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 " + status if status else b"")
    assert bool(answer) == bool(status)
    writer.close()
    async with asyncio.timeout(5):
        while receiver._writers:
            await asyncio.sleep(0.01)
    async with httpx.AsyncClient(base_url=receiver.url, timeout=5) as http:
        assert (await http.post("/v1/traces", content=b"")).status_code == 200


async def test_the_exporter_of_the_services_is_understood(receiver: OtlpReceiver, tmp_path: Path) -> None:
    """What OpenTelemetry's SDK sends ends up in one file that says the same as the spans did."""
    exporter = OTLPSpanExporter(endpoint=f"{receiver.url}/v1/traces", timeout=5)
    provider = TracerProvider(resource=Resource({"service.name": "greenroom-api"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("greenroom")

    def work() -> None:
        with tracer.start_as_current_span("outer"), tracer.start_as_current_span("inner"):
            pass

    await asyncio.to_thread(work)
    await asyncio.to_thread(provider.shutdown)
    (path,) = tmp_path.glob("*.json")
    content = json.loads(path.read_text())
    spans = {each["name"]: each for group in content["resourceSpans"] for each in group["scopeSpans"][0]["spans"]}
    assert spans["inner"]["parentSpanId"] == spans["outer"]["spanId"]
    assert path.stem == spans["inner"]["traceId"] == spans["outer"]["traceId"]


async def test_stopping_cuts_connections(receiver: OtlpReceiver, http: httpx.AsyncClient) -> None:
    """Nobody waits for an exporter that keeps its connection open."""
    await http.post("/v1/traces", content=b"")
    async with asyncio.timeout(2):
        await receiver.stop()
        with pytest.raises(httpx.HTTPError):
            await http.post("/v1/traces", content=b"")


def test_files_are_read_by_protobufs_own_mapping_but_for_ids(tmp_path: Path) -> None:
    """Every field has the name and the shape that the protocol gives it."""
    TraceStore(tmp_path).add(export(span(1), span(2, parent=1)))
    content = json.loads((tmp_path / f"{TRACE.hex()}.json").read_text())
    for group in content["resourceSpans"]:
        for each in group["scopeSpans"][0]["spans"]:
            for name in ("traceId", "spanId", "parentSpanId"):
                each.pop(name, None)
    parsed = json_format.ParseDict(content, ExportTraceServiceRequest())
    assert [each.name for group in parsed.resource_spans for each in group.scope_spans[0].spans] == ["span 1", "span 2"]
