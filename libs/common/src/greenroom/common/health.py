"""`/livez`, `/readyz` and `/metrics` on a small port of their own.

Plain asyncio streams instead of a web framework, so that every service stays light and the answer to "are you
alive" shares nothing with what the service does. One request a connection, everything bounded.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self

import msgspec

from greenroom.common.errors import GreenroomError, SettingsInvalid
from greenroom.common.metrics import CONTENT_TYPE, Metrics

# Returns None when ready, else the reason why not, as a code. Mustn't block the loop.
type Check = Callable[[], Awaitable[str | None] | str | None]

MAX_HEAD_BYTES: Final = 8192
MAX_CONNECTIONS: Final = 64
# A probe sends its request at once; whoever doesn't is no probe.
REQUEST_TIMEOUT_S: Final = 2.0
CHECK_TIMEOUT_S: Final = 1.0
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    503: "Service Unavailable",
}
_JSON: Final = "application/json"
_TEXT: Final = "text/plain; charset=utf-8"


class Readiness:
    """What must hold before a service is given work. Begins as not ready (`starting`)."""

    def __init__(self, timeout_s: float = CHECK_TIMEOUT_S) -> None:
        """Begin without checks; each may take `timeout_s`."""
        self._timeout_s = timeout_s
        self._checks: dict[str, Check] = {}
        # A reason that stands whatever the checks say: `starting`, then None, at last `stopping`.
        self.phase: str | None = "starting"

    def add(self, name: str, check: Check) -> None:
        """Add a check; `name` is its key in the answer."""
        self._checks[name] = check

    async def reasons(self) -> dict[str, str]:
        """Run all checks at once and return the reasons of those that fail, by name; empty when ready."""
        found: dict[str, str] = {} if self.phase is None else {"service": self.phase}
        names = list(self._checks)
        answers = await asyncio.gather(*(self._run(self._checks[name]) for name in names))
        found.update({name: answer for name, answer in zip(names, answers, strict=True) if answer is not None})
        return found

    async def _run(self, check: Check) -> str | None:
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = check()
                return answer if answer is None or isinstance(answer, str) else await answer
        except TimeoutError:
            return f"no answer within {self._timeout_s:g} s"
        except GreenroomError as error:
            return error.code
        except Exception as error:  # noqa: BLE001 a check that breaks is a check that fails, and must not hide the others
            return type(error).__name__


class HealthServer:
    """The server; an async context manager that listens while it is entered."""

    def __init__(self, service: str, host: str, port: int, readiness: Readiness, metrics: Metrics) -> None:
        """Answer for `service` on `host` and `port` (0: any free one)."""
        self._service = service
        self._host = host
        self._wanted_port = port
        self._readiness = readiness
        self._metrics = metrics
        self._server: asyncio.Server | None = None
        self._open = 0
        self._began = time.monotonic()

    async def __aenter__(self) -> Self:
        try:
            self._server = await asyncio.start_server(
                self._serve, self._host, self._wanted_port, limit=MAX_HEAD_BYTES, backlog=MAX_CONNECTIONS
            )
        except OSError as error:
            raise SettingsInvalid(
                f"GREENROOM_HEALTH_HOST and GREENROOM_HEALTH_PORT: can't listen on {self._host}:{self._wanted_port}"
                f" ({os.strerror(error.errno) if error.errno else 'not an address'})"
            ) from error
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()

    @property
    def port(self) -> int:
        """The port it listens on."""
        if self._server is None:
            raise RuntimeError("the health server isn't listening")
        return self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= MAX_CONNECTIONS:
            writer.close()
            return
        self._open += 1
        try:
            async with asyncio.timeout(2 * REQUEST_TIMEOUT_S):
                head_only, answer = await self._answer_to(reader)
                writer.write(_head(*answer) + (b"" if head_only else answer[2]))
                await writer.drain()
        except (TimeoutError, ConnectionError):
            pass  # the peer is gone or stuck; there is nobody to tell
        finally:
            self._open -= 1
            writer.close()

    async def _answer_to(self, reader: asyncio.StreamReader) -> tuple[bool, tuple[int, str, bytes]]:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
        except TimeoutError:
            return False, (408, _TEXT, b"no request in time\n")
        except (asyncio.LimitOverrunError, asyncio.IncompleteReadError):
            return False, (400, _TEXT, b"not a request\n")
        match head.split(b"\r\n", 1)[0].split(b" "):
            case [b"GET" | b"HEAD" as method, target, version] if version.startswith(b"HTTP/1."):
                return method == b"HEAD", await self._route(target.partition(b"?")[0])
            case [_, _, version] if version.startswith(b"HTTP/1."):
                return False, (405, _TEXT, b"GET or HEAD\n")
            case _:
                return False, (400, _TEXT, b"not a request\n")

    async def _route(self, path: bytes) -> tuple[int, str, bytes]:
        match path:
            case b"/livez":
                uptime_s = round(time.monotonic() - self._began, 3)
                return 200, _JSON, msgspec.json.encode({"service": self._service, "uptime_s": uptime_s})
            case b"/readyz":
                reasons = await self._readiness.reasons()
                body = msgspec.json.encode({"service": self._service, "ready": not reasons, "reasons": reasons})
                return (503 if reasons else 200), _JSON, body
            case b"/metrics":
                return 200, CONTENT_TYPE, self._metrics.render()
            case _:
                return 404, _TEXT, b"/livez, /readyz or /metrics\n"


def _head(status: int, content_type: str, body: bytes) -> bytes:
    lines = [
        f"HTTP/1.1 {status} {_REASONS[status]}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode()
