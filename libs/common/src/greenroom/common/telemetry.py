"""Traces in daily use: spans, and their context in message headers and session documents.

Everything here works with and without `tracing.setup_tracing`: without it, spans are no-ops. Spans are
short; those of a session are direct children of the span that asked for it (`Session.traceparent`).
"""

import asyncio
import functools
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, Literal

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from greenroom.common.errors import GreenroomError

type Attribute = str | bool | int | float | Sequence[str]
type Attributes = Mapping[str, Attribute]
type MessagingOperation = Literal["create", "send", "receive", "process", "settle"]

TRACEPARENT: Final = "traceparent"
_W3C: Final = TraceContextTextMapPropagator()
# Kinds as the semantic conventions for messaging have them.
_KINDS: Final[dict[str, SpanKind]] = {
    "create": SpanKind.PRODUCER,
    "send": SpanKind.PRODUCER,
    "receive": SpanKind.CLIENT,
    "process": SpanKind.CONSUMER,
    "settle": SpanKind.CLIENT,
}


# ---------------------------------------------------------------------------- context


def inject(headers: dict[str, str] | None = None, *, context: Context | None = None) -> dict[str, str]:
    """Write the trace context (default: the current one) into `headers`, or into a new dict, and return it."""
    carrier = {} if headers is None else headers
    _W3C.inject(carrier, context=context)
    return carrier


def extract(headers: Mapping[str, str] | None) -> Context:
    """Return the context that headers carry, whatever the case of their names; empty if there is none."""
    lowered = {name.lower(): value for name, value in (headers or {}).items()}
    return _W3C.extract(lowered, context=Context())


def context_from_traceparent(traceparent: str | None) -> Context:
    """Return the context of a `traceparent` as session documents hold it; empty for None or a malformed one."""
    return extract({TRACEPARENT: traceparent} if traceparent else None)


def current_traceparent() -> str | None:
    """Return the `traceparent` of the current span, or None outside of any."""
    return inject().get(TRACEPARENT)


def current_trace_id() -> str | None:
    """Return the current trace id (32 hex digits), or None outside of any span."""
    context = trace.get_current_span().get_span_context()
    return format(context.trace_id, "032x") if context.is_valid else None


def span_context_of(headers: Mapping[str, str] | None) -> SpanContext | None:
    """Return the span that headers point at, to link to it; None if there is none."""
    context = trace.get_current_span(extract(headers)).get_span_context()
    return context if context.is_valid else None


# ---------------------------------------------------------------------------- spans


@contextmanager
def span(
    name: str,
    *,
    parent: Context | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    links: Sequence[SpanContext | None] = (),
    attributes: Attributes | None = None,
    start_time_ns: int | None = None,
) -> Generator[Span]:
    """Make a span and have it current inside the block.

    An error that leaves the block marks the span with its code (ours) or its class (others'): never with its
    text, which may hold what was said. Being cancelled isn't an error.

    Args:
        name: low cardinality: no ids in it.
        parent: whose child it is; default the current context; an empty `Context()` begins a new trace.
        kind: its role.
        links: spans it has to do with; None are left out.
        attributes: what is known at the start.
        start_time_ns: when it began, in ns since 1970, if that was earlier.
    """
    with _tracer(trace.get_tracer_provider()).start_as_current_span(
        name,
        context=parent,
        kind=kind,
        links=[Link(linked) for linked in links if linked is not None],
        attributes=attributes,
        start_time=start_time_ns,
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except GreenroomError as error:
            mark_failed(current, error.code)
            raise
        except Exception as error:
            mark_failed(current, type(error).__qualname__)
            raise
        except asyncio.CancelledError:
            current.set_attribute("greenroom.canceled", value=True)
            raise


@contextmanager
def session_span(
    name: str,
    *,
    session_id: str,
    tenant: str,
    traceparent: str | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    links: Sequence[SpanContext | None] = (),
    attributes: Attributes | None = None,
    start_time_ns: int | None = None,
) -> Generator[Span]:
    """Make the span of a stage of a session.

    It is a child of `traceparent` (the one of the session document), or of the current span where that is None.
    """
    with span(
        name,
        parent=context_from_traceparent(traceparent) if traceparent else None,
        kind=kind,
        links=links,
        attributes={**session_attributes(session_id, tenant), **(attributes or {})},
        start_time_ns=start_time_ns,
    ) as current:
        yield current


@contextmanager
def message_span(
    operation: MessagingOperation,
    template: str,
    *,
    parent: Context | None = None,
    links: Sequence[SpanContext | None] = (),
    subject: str | None = None,
    consumer: str | None = None,
    stream_seq: int | None = None,
    attributes: Attributes | None = None,
) -> Generator[Span]:
    """Make a span for one operation on a message, named as the semantic conventions for messaging have it.

    Args:
        operation: what is done; decides on the kind of the span.
        template: the subject's template, ids as `{placeholders}`.
        parent: whose child it is; default the current context.
        links: e.g. the span that sent the message (`span_context_of(headers)`).
        subject: the subject itself.
        consumer: name of the durable consumer.
        stream_seq: sequence of the message in its stream.
        attributes: further ones.
    """
    known: dict[str, Attribute] = {
        "messaging.system": "nats",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.template": template,
    }
    if subject is not None:
        known["messaging.destination.name"] = subject
    if consumer is not None:
        known["messaging.consumer.group.name"] = consumer
    if stream_seq is not None:
        known["messaging.message.id"] = str(stream_seq)
    with span(
        f"{operation} {template}",
        parent=parent,
        kind=_KINDS[operation],
        links=links,
        attributes={**known, **(attributes or {})},
    ) as current:
        yield current


@functools.lru_cache(maxsize=1)
def _tracer(provider: trace.TracerProvider) -> trace.Tracer:
    """Return the tracer of a provider; making one costs as much as a span."""
    return provider.get_tracer("greenroom")


def session_attributes(session_id: str, tenant: str) -> dict[str, Attribute]:
    """Return the attributes that every span of a session bears."""
    return {"session.id": session_id, "gen_ai.conversation.id": session_id, "greenroom.tenant": tenant}


def mark_failed(current: Span, code: str) -> None:
    """Mark a span as failed with a stable code; no text."""
    current.set_attribute("error.type", code)
    current.set_status(StatusCode.ERROR, code)
