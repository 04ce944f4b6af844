"""Receives spans over OTLP/HTTP and keeps them as one OTLP JSON file per trace, which Jaeger's UI can open.

Used by `greenroom up` when no collector is named: what a call did can be looked at without one.
"""

import asyncio
import base64
import contextlib
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

import msgspec
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

_MAX_BODY_BYTES: Final = 16 * 1024 * 1024
_READ_TIMEOUT_S: Final = 60.0
# Traces that are kept in memory to be added to; an older one is read from its file again.
_OPEN_TRACES: Final = 256
_ID_FIELDS: Final = ("traceId", "spanId", "parentSpanId")


class TraceStore:
    """Traces as files `{trace_id}.json` in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: OrderedDict[str, list[dict[str, Any]]] = OrderedDict()
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, request: ExportTraceServiceRequest) -> int:
        """Add the spans of an export to their traces' files and return how many they were.

        Spans without a trace id or an id of their own belong nowhere, and are left out.
        """
        by_trace: dict[str, list[dict[str, Any]]] = {}
        count = 0
        # OTLP's JSON has numbers for enumerations, and ids in hexadecimal (below): protobuf's own mapping hasn't.
        content = json_format.MessageToDict(request, use_integers_for_enums=True)
        for resource_spans in content.get("resourceSpans", ()):
            for scope_spans in resource_spans.get("scopeSpans", ()):
                for span in scope_spans.get("spans", ()):
                    if not (span.get("traceId") and span.get("spanId")):
                        continue
                    count += 1
                    trace_id = _hexadecimal(span)
                    entry = {
                        "resource": resource_spans.get("resource", {}),
                        "scopeSpans": [{"scope": scope_spans.get("scope", {}), "spans": [span]}],
                    }
                    by_trace.setdefault(trace_id, []).append(entry)
        for trace_id, entries in by_trace.items():
            self._write(trace_id, entries)
        return count

    def _write(self, trace_id: str, entries: list[dict[str, Any]]) -> None:
        known = self._open.pop(trace_id, None)
        if known is None:
            known = read_trace(self._folder / f"{trace_id}.json")
        known += entries
        self._open[trace_id] = known
        while len(self._open) > _OPEN_TRACES:
            self._open.popitem(last=False)
        path = self._folder / f"{trace_id}.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(msgspec.json.encode({"resourceSpans": known}))
        temporary.replace(path)


def read_trace(path: Path) -> list[dict[str, Any]]:
    """Return the `resourceSpans` of a trace file; empty when there is none."""
    try:
        return msgspec.json.decode(path.read_bytes())["resourceSpans"]
    except FileNotFoundError:
        return []


class OtlpReceiver:
    """A small OTLP/HTTP endpoint (`POST /v1/traces`, protobuf) on loopback."""

    def __init__(self, store: TraceStore, *, port: int = 0) -> None:
        self._store = store
        self._port = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """What `OTEL_EXPORTER_OTLP_ENDPOINT` is to be set to."""
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening; connections are cut."""
        if self._server is not None:
            self._server.close()
            for writer in tuple(self._writers):
                writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether another one may follow on the connection."""
        async with asyncio.timeout(_READ_TIMEOUT_S):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            headers = _headers(head)
            length = headers.get("content-length", "0")
            if not length.isdecimal() or "transfer-encoding" in headers:
                await _answer(writer, "411 Length Required", b"")
                return False
            if int(length) > _MAX_BODY_BYTES:
                await _answer(writer, "413 Content Too Large", b"")
                return False
            body = await reader.readexactly(int(length))
        await _answer(writer, *self._take(head.split("\r\n", 1)[0], headers, body))
        return True

    def _take(self, request_line: str, headers: dict[str, str], body: bytes) -> tuple[str, bytes]:
        if not request_line.startswith("POST /v1/traces "):
            return "404 Not Found", b""
        try:
            if headers.get("content-encoding") == "gzip":
                body = _decompressed(body)
            self._store.add(ExportTraceServiceRequest.FromString(body))
        except (DecodeError, zlib.error):
            return "400 Bad Request", b""
        return "200 OK", ExportTraceServiceResponse().SerializeToString()


async def _answer(writer: asyncio.StreamWriter, status: str, body: bytes) -> None:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/x-protobuf\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()


def _decompressed(body: bytes) -> bytes:
    """Return a gzip body as it was, up to the size that is taken uncompressed too.

    Raises:
        zlib.error: it isn't gzip, isn't whole, or grows too large.
    """
    stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    whole = stream.decompress(body, _MAX_BODY_BYTES)
    if not stream.eof:
        raise zlib.error("the body ends too early or is too large")
    return whole


def _headers(head: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in head.split("\r\n")[1:] if line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _hexadecimal(span: dict[str, Any]) -> str:
    """Rewrite the ids as hexadecimal, as OTLP's JSON mapping has them (protobuf's would be base64)."""
    holders: list[dict[str, Any]] = [span, *span.get("links", ())]
    for holder in holders:
        for field in _ID_FIELDS:
            if field in holder:
                holder[field] = base64.b64decode(holder[field]).hex()
    return span["traceId"]
