"""Logs: events with fields, as JSON or for a terminal, with the trace they belong to.

Records of other libraries (through `logging`) go through the same renderer. Fields that are secrets by
their name are masked.
"""

import logging
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager
from typing import Any, Final, Literal, TextIO

import msgspec
import structlog
from opentelemetry import trace
from structlog.contextvars import bound_contextvars
from structlog.typing import EventDict, Processor, WrappedLogger

SECRET_NAMES: Final = frozenset(
    {"api_key", "authorization", "cookie", "key", "password", "room_token", "secret", "ticket", "token"}
)
# Libraries that write an info record per request or reconnect.
_CHATTY: Final = ("httpcore", "httpcore2", "httpx", "httpx2", "nats", "urllib3", "uvicorn.access")


def configure_logging(
    service: str,
    *,
    level: Literal["debug", "info", "warning", "error"] = "info",
    form: Literal["auto", "json", "console"] = "auto",
    instance_id: str | None = None,
    stream: TextIO | None = None,
) -> None:
    """Set up the logs of this process; calling it again replaces what was.

    Args:
        service: name in every record.
        level: least level.
        form: `auto` is `console` on a terminal, else `json`.
        instance_id: tells processes of one service apart; left out on a terminal.
        stream: where to; default standard error.
    """
    target: TextIO = sys.stderr if stream is None else stream
    json = form == "json" or (form == "auto" and not target.isatty())
    origin = {"service": service, **({"instance": instance_id} if json and instance_id else {})}
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        _Origin(origin),
        _add_trace,
        _mask_secrets,
    ]
    renderers: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if json:
        # Tracebacks as text: structured ones would hold the values of local variables.
        renderers += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_to_json)]
    else:
        renderers.append(
            structlog.dev.ConsoleRenderer(
                colors=target.isatty(), timestamp_key="at", exception_formatter=structlog.dev.plain_traceback
            )
        )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=renderers, foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared]
        )
    )
    number = logging.getLevelNamesMapping()[level.upper()]
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def bind_session(session_id: str, tenant: str) -> AbstractContextManager[None]:
    """Put the session's ids on every record logged inside the block, in this task and those it starts."""
    return bound_contextvars(session_id=session_id, tenant=tenant)


class _Origin:
    """Adds who logs."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = dict(fields)

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        for name, value in self._fields.items():
            event.setdefault(name, value)
        return event


def _add_trace(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = format(context.trace_id, "032x")
        event["span_id"] = format(context.span_id, "016x")
    return event


def _mask_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    _mask(event)
    return event


def _mask(fields: MutableMapping[str, Any]) -> None:
    for name, value in fields.items():
        if name.lower().replace("-", "_") in SECRET_NAMES and value:
            fields[name] = "***"
        elif isinstance(value, dict):
            inner: dict[str, Any] = {**value}
            _mask(inner)
            fields[name] = inner


def _to_json(event: EventDict, **_options: object) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()
