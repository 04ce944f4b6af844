"""Setting traces up: once in a process, in its `__main__` or after a fork.

Session processes are forked and end by `os._exit`, where no exit handler runs: they call `setup_tracing`
after the fork, in a child of a process that has none set up, and `shutdown` before they end.
"""

import asyncio
import logging
import threading
import time
from typing import Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from greenroom.common.redaction import ContentFilter

# Short, so that a trace can be looked at while the call goes on.
SCHEDULE_DELAY_MS: Final = 500
MAX_QUEUED_SPANS: Final = 4096
EXPORT_TIMEOUT_S: Final = 5.0
FLUSH_DEADLINE_S: Final = 2.0
WARN_EVERY_S: Final = 60.0
# Where the SDK complains about exports: on every batch, while a receiver is away.
_EXPORT_LOGGERS: Final = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk._shared_internal",
    "opentelemetry.sdk.trace.export",
)


class Tracing:
    """The tracing of this process."""

    def __init__(self, provider: TracerProvider) -> None:
        """Hold the provider that was set up."""
        self._provider = provider

    def export(self, endpoint: str, *, trace_content: bool = False) -> None:
        """Export the spans that begin from now on; see `setup_tracing`."""
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_TIMEOUT_S)
        self.export_by(exporter, trace_content=trace_content)

    def export_by(self, exporter: SpanExporter, *, trace_content: bool = False) -> None:
        """Do what `export` does with an exporter of the caller's choice."""
        for name in _EXPORT_LOGGERS:
            _limit(logging.getLogger(name))
        self._provider.add_span_processor(
            BatchSpanProcessor(
                ContentFilter(exporter, keep_content=trace_content),
                max_queue_size=MAX_QUEUED_SPANS,
                schedule_delay_millis=SCHEDULE_DELAY_MS,
            )
        )

    def shutdown(self, deadline_s: float = FLUSH_DEADLINE_S) -> bool:
        """Send what is left and stop; return whether that was done in time.

        Blocks for up to `deadline_s`: on an event loop use `shutdown_async`. What doesn't get out by then is
        dropped; nothing keeps the process from ending.
        """
        # A thread of our own, because the SDK's own deadline is a fixed 30 s.
        flusher = threading.Thread(target=self._provider.shutdown, name="trace-flush", daemon=True)
        flusher.start()
        flusher.join(deadline_s)
        return not flusher.is_alive()

    async def shutdown_async(self, deadline_s: float = FLUSH_DEADLINE_S) -> bool:
        """Do what `shutdown` does without blocking the event loop."""
        return await asyncio.to_thread(self.shutdown, deadline_s)


def setup_tracing(
    service_name: str, instance_id: str, endpoint: str | None, *, version: str = "", trace_content: bool = False
) -> Tracing:
    """Set up the global tracer provider of this process.

    Args:
        service_name: e.g. `greenroom-api`.
        instance_id: tells processes of one service apart.
        endpoint: base URL of an OTLP/HTTP receiver; None: spans have valid ids, for the logs, and go nowhere.
        version: of the service.
        trace_content: keep what was said in the spans, in attributes with a `pii` segment.

    Raises:
        RuntimeError: this process, or the one it was forked from, has a provider already.
    """
    tracing = install_exporter(service_name, instance_id, None, version=version)
    if endpoint is not None:
        tracing.export(endpoint, trace_content=trace_content)
    return tracing


def install_exporter(
    service_name: str,
    instance_id: str,
    exporter: SpanExporter | None,
    *,
    version: str = "",
    trace_content: bool = False,
) -> Tracing:
    """Do what `setup_tracing` does with an exporter of the caller's choice.

    Raises:
        RuntimeError: this process, or the one it was forked from, has a provider already.
    """
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        raise RuntimeError("tracing is set up already, in this process or in the one it was forked from")  # noqa: TRY004 it is about when, not about a type
    # `Resource.create` would look through the metadata of all installed packages: too slow for a start of 20 ms.
    resource = (
        OTELResourceDetector()
        .detect()
        .merge(
            Resource(
                {
                    "service.name": service_name,
                    "service.namespace": "greenroom",
                    "service.instance.id": instance_id,
                    **({"service.version": version} if version else {}),
                }
            )
        )
    )
    # Every session is traced: whether one was interesting is known at its end only (tail sampling, if any).
    # No exit handler: it would hold the process for up to 30 s when the receiver is away.
    provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
    tracing = Tracing(provider)
    if exporter is not None:
        tracing.export_by(exporter, trace_content=trace_content)
    trace.set_tracer_provider(provider)
    return tracing


class _OncePerMinute(logging.Filter):
    """Lets one record through, then none for a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._quiet_until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the record is let through; errors become warnings, for no call suffers from them."""
        now = time.monotonic()
        if now < self._quiet_until:
            return False
        self._quiet_until = now + WARN_EVERY_S
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True


_once_per_minute = _OncePerMinute()


def _limit(logger: logging.Logger) -> None:
    logger.addFilter(_once_per_minute)
