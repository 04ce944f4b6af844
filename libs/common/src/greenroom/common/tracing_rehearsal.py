"""An export that nobody receives, in a process from which others are forked.

Each fork exports its spans itself, through encoder, HTTP client and cookies: modules of which a fork would find the
code as it was imported, and CPython writes to code when it first runs. What has run before the fork is shared.
"""

import contextlib
import socket
import threading
from typing import Final

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from greenroom.common.redaction import ContentFilter

# Code that has run twice is specialized; what is tried in vain is tried a few times more.
_EXPORTS: Final = 6
_TIMEOUT_S: Final = 2.0
_END_OF_HEAD: Final = b"\r\n\r\n"
_ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n"


def rehearse() -> None:
    """Export a few spans to a receiver of our own. Leaves no thread, no connection and no tracer provider behind."""
    with socket.create_server(("127.0.0.1", 0)) as server, requests.Session() as session:
        server.settimeout(_TIMEOUT_S)
        receiver = threading.Thread(target=_receive, args=(server,), name="trace-rehearsal", daemon=True)
        receiver.start()
        session.trust_env = False  # proxies are for the real receiver
        host, port = server.getsockname()
        exporter = OTLPSpanExporter(endpoint=f"http://{host}:{port}/v1/traces", timeout=_TIMEOUT_S, session=session)
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(ContentFilter(exporter, keep_content=False)))
        tracer = provider.get_tracer(__name__)
        for number in range(_EXPORTS):
            with tracer.start_as_current_span("rehearsal", attributes={"greenroom.rehearsal": number}) as span:
                span.add_event("rehearsed", {"took_ms": 0.5, "names": ["a", "b"]})
        provider.shutdown()
    receiver.join(_TIMEOUT_S)


def _receive(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection, _ = server.accept()
        with connection:
            connection.settimeout(_TIMEOUT_S)
            while _request(connection):
                connection.sendall(_ANSWER)


def _request(connection: socket.socket) -> bool:
    """Read a request; return whether there was one."""
    data = b""
    while _END_OF_HEAD not in data:
        piece = connection.recv(65_536)
        if not piece:
            return False
        data += piece
    head, _, body = data.partition(_END_OF_HEAD)
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:])
    missing = int(fields.get(b"content-length", 0)) - len(body)
    while missing > 0 and (piece := connection.recv(missing)):
        missing -= len(piece)
    return True
