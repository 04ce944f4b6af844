"""Exports of spans as OpenTelemetry's exporters send them."""

from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

TRACE = bytes(range(16))
OTHER = bytes(range(16, 32))


def export(*spans: Span, service: str = "greenroom-api") -> ExportTraceServiceRequest:
    """Return an export of one service's spans."""
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.add(key="service.name").value.string_value = service
    scope = group.scope_spans.add()
    scope.scope.name = "greenroom"
    scope.spans.extend(spans)
    return request


def span(number: int, *, trace: bytes = TRACE, parent: int = 0, **fields: Any) -> Span:
    """Return a span."""
    return Span(
        trace_id=trace,
        span_id=number.to_bytes(8),
        parent_span_id=parent.to_bytes(8) if parent else b"",
        name=f"span {number}",
        kind=Span.SPAN_KIND_SERVER,
        start_time_unix_nano=1_770_091_506_000_000_000 + number,
        end_time_unix_nano=1_770_091_506_100_000_000 + number,
        **fields,
    )
