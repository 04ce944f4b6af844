"""A range of sessions as a file: JSON lines, or Parquet where that is installed. Made while it is sent.

Whatever fails on the way cuts the answer off: in chunked encoding the last chunk is missing, which clients report. A
Parquet file has its schema and directory at its end, so that a part of one is no file at all.
"""

import asyncio
import contextlib
import importlib
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any, Final

import msgspec

from greenroom.api.reading.shelves import Kept, KeptRecording
from greenroom.api.schemas import SessionView, session_view
from greenroom.common.errors import GreenroomError

# Of a row group, which is in memory as a whole: rows, and bytes of what has no bound of its own.
_GROUP_ROWS: Final = 2000
_GROUP_BYTES: Final = 16 * 1024 * 1024
# What is plain in a session's view, as columns; the rest is JSON in one column each.
_TEXTS: Final = (
    "id",
    "state",
    "outcome",
    "reason",
    "ended_by",
    "detail",
    "agent",
    "pool",
    "on_loss",
    "trace_id",
    "priority",
    "room",
    "carrier",
    "number",
    "sticky_key",
    "user",
)
_NUMBERS: Final = ("agent_version", "attempt")
_TIMES: Final = ("requested_at", "leased_at", "started_at", "ready_at", "ending_at", "ended_at")
_JSON: Final = ("body", "metadata", "limits", "requires", "prefers", "accounts")


class ParquetMissing(GreenroomError):
    """Parquet needs pyarrow, which isn't here: install `greenroom-api[parquet]`, or ask for `format=jsonl`."""

    code = "parquet-missing"
    status = 501
    title = "Parquet isn't installed here"


class ExportedSession(msgspec.Struct, frozen=True, kw_only=True):
    """A line of an export; `recording` is None where there is none."""

    session: SessionView
    recording: KeptRecording | None


async def as_jsonl(pages: AsyncGenerator[list[Kept]]) -> AsyncGenerator[bytes]:
    """Yield sessions as lines of JSON."""
    async with contextlib.aclosing(pages):
        async for page in pages:
            lines = [ExportedSession(session=session_view(kept.session), recording=kept.recording) for kept in page]
            yield msgspec.json.Encoder().encode_lines(lines)


def parquet() -> tuple[Any, Any]:
    """Return `pyarrow` and `pyarrow.parquet`, which take 70 MB of memory: loaded when they are first asked for.

    Raises:
        ParquetMissing: they aren't installed.
    """
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ParquetMissing from error


class _Sink:
    """What the file is written to: it is emptied again and again."""

    closed = False

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._position = 0

    def write(self, data: bytes) -> int:
        self._chunks.append(bytes(data))
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def take(self) -> bytes:
        taken = b"".join(self._chunks)
        self._chunks.clear()
        return taken


async def as_parquet(pages: AsyncGenerator[list[Kept]], arrow: Any, writing: Any) -> AsyncGenerator[bytes]:
    """Yield sessions as a Parquet file: a column for each plain field, JSON for the others.

    Args:
        pages: the sessions.
        arrow: `pyarrow`.
        writing: `pyarrow.parquet`.
    """
    sink, schema = _Sink(), _schema(arrow)
    writer = await asyncio.to_thread(writing.ParquetWriter, sink, schema, compression="zstd")

    def write(rows: list[dict[str, Any]]) -> None:
        writer.write_table(arrow.Table.from_pylist(rows, schema=schema))

    waiting: list[dict[str, Any]] = []
    async with contextlib.aclosing(pages):
        async for page in pages:
            waiting += [_row(kept) for kept in page]
            if len(waiting) >= _GROUP_ROWS or sum(len(row["body"]) for row in waiting) >= _GROUP_BYTES:
                await asyncio.to_thread(write, waiting)
                waiting = []
                yield sink.take()
    if waiting:
        await asyncio.to_thread(write, waiting)
    await asyncio.to_thread(writer.close)
    yield sink.take()


def _schema(arrow: Any) -> Any:
    time, text = arrow.timestamp("us", tz="UTC"), arrow.string()
    return arrow.schema(
        [
            *((name, text) for name in _TEXTS),
            *((name, arrow.int64()) for name in _NUMBERS),
            *((name, time) for name in _TIMES),
            ("cold", arrow.bool_()),
            ("transport", text),
            *((name, text) for name in _JSON),
            ("recording_format", text),
            ("recording_duration_s", arrow.float64()),
            ("recording_bytes", arrow.int64()),
            ("recording_sha256", text),
            ("recording_saved_at", time),
        ]
    )


def _row(kept: Kept) -> dict[str, Any]:
    view, recording = session_view(kept.session), kept.recording
    row: dict[str, Any] = {name: _text(getattr(view, name)) for name in _TEXTS}
    row |= {name: getattr(view, name) for name in (*_NUMBERS, *_TIMES, "cold")}
    row |= {name: msgspec.json.encode(getattr(view, name)).decode() for name in _JSON}
    row["transport"] = view.transport.type
    if recording is not None:
        row |= {f"recording_{name}": getattr(recording, name) for name in recording.__struct_fields__}
    return row


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


async def begun[T](pages: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """Return the same pages with the first one read: what fails at once is told in the answer's status."""
    try:
        first = await anext(pages)
    except StopAsyncIteration:
        return _after([], pages)
    return _after([first], pages)


async def _after[T](first: list[T], pages: AsyncGenerator[T]) -> AsyncGenerator[T]:
    async with contextlib.aclosing(pages):
        for page in first:
            yield page
        async for page in pages:
            yield page


def name_of(since: datetime, until: datetime, suffix: str) -> str:
    """Return what a file with the sessions of a range is called."""
    return f"sessions-{since:%Y%m%dT%H%M%SZ}-{until:%Y%m%dT%H%M%SZ}.{suffix}"
