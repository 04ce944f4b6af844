"""Spans made inside the test process: its one tracer provider can be set once only, so all tests share it."""

import functools

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


class SpanRecorder:
    """Finished spans since the recorder was asked for."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """The spans, in the order in which they ended."""
        return self._exporter.get_finished_spans()

    def one(self, name: str) -> ReadableSpan:
        """Return the only span of that name."""
        (found,) = [span for span in self.spans if span.name == name]
        return found

    def id_of(self, name: str) -> int:
        """Return the span id of the only span of that name."""
        context = self.one(name).get_span_context()
        assert context is not None
        return context.span_id


def record_spans() -> SpanRecorder:
    """Return the recorder, emptied."""
    exporter = _exporter()
    exporter.clear()
    return SpanRecorder(exporter)


@functools.cache
def _exporter() -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter
