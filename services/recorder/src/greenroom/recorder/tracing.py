"""Statements as spans, but only inside a span of ours: batches serve many sessions and belong to no trace."""

from collections.abc import Awaitable, Callable
from typing import Any

from opentelemetry import trace
from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor


class _InsideSpans(AsyncPGInstrumentor):
    async def _do_execute(
        self, func: Callable[..., Awaitable[Any]], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if not trace.get_current_span().get_span_context().is_valid:
            return await func(*args, **kwargs)
        base: Any = super()  # comes without types
        return await base._do_execute(func, instance, args, kwargs)  # noqa: SLF001 one of the two hooks there are

    async def _do_cursor_execute(
        self, func: Callable[..., Awaitable[Any]], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if not trace.get_current_span().get_span_context().is_valid:
            return await func(*args, **kwargs)
        base: Any = super()
        return await base._do_cursor_execute(func, instance, args, kwargs)  # noqa: SLF001 the other one


def trace_statements_inside_spans() -> AsyncPGInstrumentor:
    """Have asyncpg's statements make spans where there is a parent for them, until what is returned undoes it."""
    instrumentor = _InsideSpans()
    instrumentor.instrument()
    return instrumentor
