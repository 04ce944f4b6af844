"""Metrics for Prometheus, on a registry of their own; what happens inside a trace points at it by an exemplar."""

from collections.abc import Sequence
from typing import Final, cast

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client import Counter as PrometheusCounter
from prometheus_client import Gauge as PrometheusGauge
from prometheus_client import Histogram as PrometheusHistogram
from prometheus_client.openmetrics import exposition

from greenroom.common.telemetry import current_trace_id

CONTENT_TYPE: Final = exposition.CONTENT_TYPE_LATEST
# From a warm start (5 ms) to a cold one (tens of seconds), about 2.5 steps a decade.
LATENCY_BUCKETS_S: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Counter:
    """Counts events by labels; every refusal and retry has one."""

    def __init__(self, counter: PrometheusCounter) -> None:
        """Wrap the client's counter."""
        self._counter = counter

    def inc(self, amount: float = 1.0, **labels: str) -> None:
        """Count `amount` more, with the current trace as the exemplar."""
        (self._counter.labels(**labels) if labels else self._counter).inc(amount, exemplar=_exemplar())

    def value(self, **labels: str) -> float:
        """Return the count, for tests and summaries."""
        child = self._counter.labels(**labels) if labels else self._counter
        return next(sample.value for metric in child.collect() for sample in metric.samples)


class Histogram:
    """Distribution of durations or sizes by labels."""

    def __init__(self, histogram: PrometheusHistogram) -> None:
        """Wrap the client's histogram."""
        self._histogram = histogram

    def observe(self, value: float, **labels: str) -> None:
        """Add one value, with the current trace as the exemplar of its bucket."""
        (self._histogram.labels(**labels) if labels else self._histogram).observe(value, exemplar=_exemplar())


class Gauge:
    """A level that goes up and down."""

    def __init__(self, gauge: PrometheusGauge) -> None:
        """Wrap the client's gauge."""
        self._gauge = gauge

    def set(self, value: float, **labels: str) -> None:
        """Set the level."""
        (self._gauge.labels(**labels) if labels else self._gauge).set(value)


class Metrics:
    """The metrics of one service in one process; handed to whoever counts something."""

    def __init__(self) -> None:
        """Begin with an empty registry of its own."""
        self.registry = CollectorRegistry()

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        """Make a counter; `name` without prefix and without `_total`."""
        return Counter(PrometheusCounter(f"greenroom_{name}", text, labels, registry=self.registry))

    def histogram(
        self, name: str, text: str, labels: Sequence[str] = (), buckets: Sequence[float] = LATENCY_BUCKETS_S
    ) -> Histogram:
        """Make a histogram; `name` without prefix, with its unit at the end (`_seconds`, `_bytes`)."""
        histogram = PrometheusHistogram(f"greenroom_{name}", text, labels, buckets=buckets, registry=self.registry)
        return Histogram(histogram)

    def gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        """Make a gauge; `name` without prefix."""
        return Gauge(PrometheusGauge(f"greenroom_{name}", text, labels, registry=self.registry))

    def watch_process(self) -> None:
        """Add processor time, memory and open files of this process (`process_*`)."""
        ProcessCollector(registry=self.registry)

    def render(self) -> bytes:
        """Return all metrics in the OpenMetrics text format (`CONTENT_TYPE`)."""
        return cast("bytes", exposition.generate_latest(self.registry))


def _exemplar() -> dict[str, str] | None:
    trace_id = current_trace_id()
    return {"trace_id": trace_id} if trace_id else None
