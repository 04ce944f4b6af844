"""A session's trace as a waterfall in the terminal."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from greenroom.devtools.otlp import read_trace

_COLOURS: Final = {
    "api": "cyan",
    "scheduler": "magenta",
    "runner": "yellow",
    "session": "green",
    "recorder": "blue",
}
# OTLP's number for it.
_ERROR_STATUS: Final = 2
_MIN_BAR: Final = "▏"


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """One span; times in nanoseconds since 1970."""

    span_id: str
    parent_id: str | None
    trace_id: str
    name: str
    service: str
    start_ns: int
    end_ns: int
    error: bool = False

    @property
    def duration_ms(self) -> float:
        """How long it took."""
        return (self.end_ns - self.start_ns) / 1e6


def load(folder: Path, trace_id: str) -> list[Span]:
    """Return the spans of a trace that `up` kept, by start; empty when it has none."""
    spans: list[Span] = []
    for resource_spans in read_trace(folder / f"{trace_id}.json"):
        service = _service(resource_spans.get("resource", {}))
        for scope_spans in resource_spans.get("scopeSpans", ()):
            spans += [_span(span, service) for span in scope_spans.get("spans", ())]
    return sorted(spans, key=lambda span: span.start_ns)


def services(spans: list[Span]) -> list[str]:
    """Return the services that took part, in the order of their first span."""
    return list(dict.fromkeys(span.service for span in spans))


def orphans(spans: list[Span]) -> list[Span]:
    """Return the spans whose parent isn't in the trace (the root aside)."""
    known = {span.span_id for span in spans}
    return [span for span in spans if span.parent_id and span.parent_id not in known]


def waterfall(spans: list[Span], console: Console) -> None:
    """Print the spans as a tree with bars on a common time axis."""
    start, end = min(span.start_ns for span in spans), max(span.end_ns for span in spans)
    width = max(console.width - 74, 16)
    table = Table(box=None, pad_edge=False, show_header=True, header_style="dim")
    table.add_column("span", no_wrap=True, max_width=44)
    table.add_column("service", no_wrap=True)
    table.add_column("at", justify="right", no_wrap=True)
    table.add_column("took", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for depth, span in _in_tree_order(spans):
        colour = "red" if span.error else _COLOURS.get(span.service, "white")
        offset = (span.start_ns - start) / max(end - start, 1)
        length = (span.end_ns - span.start_ns) / max(end - start, 1)
        bar = "█" * round(length * width) or _MIN_BAR
        table.add_row(
            Text("  " * depth + span.name, style="red" if span.error else ""),
            Text(span.service, style=colour),
            f"{(span.start_ns - start) / 1e6:,.1f} ms",
            f"{span.duration_ms:,.1f} ms",
            Text(" " * min(round(offset * width), width - 1) + bar, style=colour),
        )
    began = datetime.fromtimestamp(start / 1e9, UTC).isoformat(timespec="milliseconds")
    console.print(f"[dim]trace[/] {spans[0].trace_id}  [dim]began[/] {began}  [dim]spans[/] {len(spans)}")
    console.print(table)


def _in_tree_order(spans: list[Span]) -> list[tuple[int, Span]]:
    known = {span.span_id for span in spans}
    children: dict[str | None, list[Span]] = {}
    for span in spans:
        children.setdefault(span.parent_id if span.parent_id in known else None, []).append(span)
    ordered: list[tuple[int, Span]] = []
    stack = [(0, span) for span in reversed(children.get(None, []))]
    while stack:
        depth, span = stack.pop()
        ordered.append((depth, span))
        stack += [(depth + 1, child) for child in reversed(children.get(span.span_id, []))]
    return ordered


def _span(span: dict[str, Any], service: str) -> Span:
    return Span(
        span_id=span["spanId"],
        parent_id=span.get("parentSpanId") or None,
        trace_id=span["traceId"],
        name=span.get("name", ""),
        service=service,
        start_ns=int(span.get("startTimeUnixNano", 0)),
        end_ns=int(span.get("endTimeUnixNano", 0)),
        error=span.get("status", {}).get("code") == _ERROR_STATUS,
    )


def _service(resource: dict[str, Any]) -> str:
    for attribute in resource.get("attributes", ()):
        if attribute["key"] == "service.name":
            return str(attribute["value"].get("stringValue", "")).removeprefix("greenroom-")
    return "unknown"
