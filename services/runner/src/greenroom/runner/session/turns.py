"""A span for each turn, directly below the session, and the bot's services below the turn.

Pipecat would put all turns below one `conversation` span that is open for the whole call: it is exported at the
end only, and never if the process is killed. So its own turn tracing is switched off, and the context that its
services look for their parent in is set from here.
"""

from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import Span
from pipecat.pipeline.worker import PipelineWorker
from pipecat.utils.tracing.tracing_context import TracingContext

from greenroom.common.telemetry import Attributes


class TurnSpans:
    """The spans of the turns of one session.

    Args:
        parent: the context of the session's root span.
        session_id: names the conversation.
    """

    def __init__(self, parent: Context, session_id: str) -> None:
        self._parent = parent
        self._session_id = session_id
        self._tracer = trace.get_tracer("greenroom")
        self._span: Span | None = None
        self._contexts: list[TracingContext] = []

    def trace(self, worker: PipelineWorker) -> None:
        """Turn tracing on for a worker that isn't set up yet, whatever it was told at its construction."""
        context = TracingContext()
        context.set_conversation_context(trace.get_current_span(self._parent).get_span_context(), self._session_id)
        self._contexts.append(context)
        enable_tracing(worker, context)

    def started(self, number: int) -> None:
        """A turn begins; one that is still open ends."""
        self.ended(interrupted=False)
        self._span = self._tracer.start_span("turn", context=self._parent, attributes={"turn.number": number})
        for context in self._contexts:
            context.set_turn_context(self._span.get_span_context())

    def latency(self, seconds: float) -> None:
        """The bot answered `seconds` after the caller had stopped."""
        if self._span is not None:
            self._span.set_attribute("turn.user_bot_latency_seconds", seconds)

    def ended(self, *, interrupted: bool) -> None:
        """The turn that is open, if any, is over."""
        if self._span is None:
            return
        self._span.set_attribute("turn.was_interrupted", interrupted)
        self._span.end()
        self._span = None
        for context in self._contexts:
            context.set_turn_context(None)


def enable_tracing(worker: PipelineWorker, context: TracingContext) -> None:
    """Make a worker trace its services below what `context` says, and nothing by itself.

    Works through private attributes, which the worker reads when it is set up; a conformance test pins them.
    """
    inner: Any = worker
    inner._enable_tracing = True  # noqa: SLF001
    inner._tracing_context = context  # noqa: SLF001
    if worker.turn_trace_observer is not None:
        # The bot asked for tracing itself. Without a tracer this observer does nothing.
        own: Any = worker.turn_trace_observer
        own._tracer = None  # noqa: SLF001


class SpanLabels(SpanProcessor):
    """Puts the session's attributes on every span of this process, those of foreign libraries included."""

    def __init__(self, attributes: Attributes) -> None:
        self._attributes = dict(attributes)

    def on_start(self, span: SdkSpan, parent_context: Context | None = None) -> None:
        """Label the span."""
        del parent_context
        span.set_attributes(self._attributes)
