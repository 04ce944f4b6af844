"""A receiver of spans (OTLP over HTTP) for tests: keeps what it is sent."""

import http.server
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import msgspec
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue


class ReceivedSpan(msgspec.Struct, frozen=True, kw_only=True):
    """A span as it came over the wire; ids in hex, times in ns since 1970."""

    service: str
    instance: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: dict[str, object]
    events: list[tuple[str, dict[str, object]]]
    status_message: str


class OtlpStub:
    """What was received so far. `url` is the base URL for `OTEL_EXPORTER_OTLP_ENDPOINT`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._lock = threading.Lock()
        self._spans: list[ReceivedSpan] = []

    @property
    def spans(self) -> list[ReceivedSpan]:
        """All spans, in the order in which they came."""
        with self._lock:
            return list(self._spans)

    def add(self, body: bytes) -> None:
        """Take the body of one export request."""
        received = [
            ReceivedSpan(
                service=str(origin.get("service.name", "")),
                instance=str(origin.get("service.instance.id", "")),
                name=span.name,
                trace_id=span.trace_id.hex(),
                span_id=span.span_id.hex(),
                parent_id=span.parent_span_id.hex(),
                start_ns=span.start_time_unix_nano,
                end_ns=span.end_time_unix_nano,
                attributes={pair.key: _value(pair.value) for pair in span.attributes},
                events=[
                    (event.name, {pair.key: _value(pair.value) for pair in event.attributes}) for event in span.events
                ],
                status_message=span.status.message,
            )
            for group in ExportTraceServiceRequest.FromString(body).resource_spans
            for origin in [{pair.key: _value(pair.value) for pair in group.resource.attributes}]
            for scope in group.scope_spans
            for span in scope.spans
        ]
        with self._lock:
            self._spans += received

    def wait_for(self, count: int, timeout_s: float = 5.0) -> list[ReceivedSpan]:
        """Return the spans once there are `count`, or what there is after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while len(self.spans) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.spans


@contextmanager
def otlp_stub() -> Generator[OtlpStub]:
    """Run a receiver on a free port of 127.0.0.1."""
    stub: OtlpStub

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 5

        def do_POST(self) -> None:
            stub.add(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the name is the base class's
            """Stay silent."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        stub = OtlpStub(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield stub
        finally:
            server.shutdown()
            thread.join(timeout=5)


def _value(value: AnyValue) -> object:
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "int_value":
            return value.int_value
        case "double_value":
            return value.double_value
        case "bool_value":
            return value.bool_value
        case "array_value":
            return [_value(item) for item in value.array_value.values]
        case _:
            return None
