"""The waterfall of a trace."""

import io
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from rich.console import Console

from greenroom.devtools import trace
from greenroom.devtools.otlp import TraceStore
from greenroom.devtools.trace import Span, load, orphans, services, waterfall
from tests.support.otlp_exports import TRACE, export
from tests.support.otlp_exports import span as sent


def span(number: int, parent: int | None = None, *, start_ms: float = 0, took_ms: float = 10, **fields: object) -> Span:
    """Return a span."""
    begun = 1_770_091_506_000_000_000 + int(start_ms * 1e6)
    values = {"service": "api", "error": False, "name": f"span {number}"} | fields
    return Span(
        span_id=f"{number:016x}",
        parent_id=f"{parent:016x}" if parent else None,
        trace_id=TRACE.hex(),
        start_ns=begun,
        end_ns=begun + int(took_ms * 1e6),
        **values,  # pyright: ignore[reportArgumentType] - named by the caller
    )


def printed(spans: list[Span], width: int = 120) -> list[str]:
    """Return the lines of a waterfall."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    waterfall(spans, console)
    file = console.file
    assert isinstance(file, io.StringIO)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_a_kept_trace_is_loaded_by_start(tmp_path: Path) -> None:
    """With the service's short name, and whether it failed."""
    store = TraceStore(tmp_path)
    store.add(export(sent(2, parent=1, status=Status(code=Status.STATUS_CODE_ERROR)), service="greenroom-runner"))
    store.add(export(sent(1), service="greenroom-api"))
    first, second = load(tmp_path, TRACE.hex())
    assert (first.name, first.service, first.parent_id, first.error) == ("span 1", "api", None, False)
    assert (second.name, second.service, second.parent_id, second.error) == ("span 2", "runner", first.span_id, True)
    assert second.duration_ms == pytest.approx(100)
    assert services([first, second]) == ["api", "runner"]
    assert load(tmp_path, "0" * 32) == []


def test_orphans_are_spans_whose_parent_is_missing() -> None:
    """The root has none, and that is in order."""
    spans = [span(1), span(2, 1), span(3, 9)]
    assert [each.name for each in orphans(spans)] == ["span 3"]


def test_children_are_below_their_parents() -> None:
    """Indented by depth, by start among themselves; a span without its parent is at the top."""
    spans = sorted(
        [span(1, took_ms=100), span(2, 1, start_ms=60), span(3, 1, start_ms=5), span(4, 3, start_ms=6), span(5, 9)],
        key=lambda each: each.start_ns,
    )
    names = [line.split("  api")[0].rstrip() for line in printed(spans)[2:]]
    assert names == ["span 1", "  span 3", "    span 4", "  span 2", "span 5"]


def test_a_waterfall_shows_when_and_how_long() -> None:
    """In milliseconds from the first start, with a bar on a common axis, below a line on the whole."""
    head, columns, first, second = printed([span(1, took_ms=100), span(2, 1, start_ms=50, took_ms=50)])
    assert head == f"trace {TRACE.hex()}  began 2026-02-03T04:05:06.000+00:00  spans 2"
    assert columns.split() == ["span", "service", "at", "took"]
    assert first.split()[:7] == ["span", "1", "api", "0.0", "ms", "100.0", "ms"]
    assert second.split()[:7] == ["span", "2", "api", "50.0", "ms", "50.0", "ms"]
    assert first.count("█") == pytest.approx(2 * second.count("█"), abs=1)
    assert first.index("█") < second.index("█")
    assert len(first) == pytest.approx(len(second), abs=1)


def test_a_short_span_is_still_seen() -> None:
    """It has the thinnest bar, within the line even at the very end."""
    lines = printed([span(1, took_ms=1000), span(2, 1, start_ms=999.9, took_ms=0)])
    assert trace._MIN_BAR in lines[-1]
    assert all(len(line) <= 120 for line in lines)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_it_fits_any_terminal(width: int) -> None:
    """Long names are cut, not wrapped; a name in brackets is text."""
    spans = [span(1), span(2, 1, name="[red]process[/red] gr.v1.session.{tenant}.{session_id}.event.{type*}")]
    lines = printed(spans, width)
    assert all(len(line) <= width for line in lines)
    if width == 200:
        assert "[red]process[/red]" in lines[-1]


def test_a_trace_of_one_moment_is_printed() -> None:
    """There is no division by its length."""
    assert "0.0 ms" in printed([span(1, took_ms=0)])[-1]
