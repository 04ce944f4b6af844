"""Stubs of providers' HTTP APIs: what they have in common, which is how they are reached and how they fail.

A stub is a function from a request to an answer. Tests reach it over HTTP/1.1 on a port of loopback, or in virtual
time without any network; both ways it fails as it is told to: late, with an error, or by breaking the connection
before or after it has done what was asked.
"""

import asyncio
import contextlib
import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import parse_qs

import httpx

_LONG_S: Final = 3600.0


@dataclass(frozen=True)
class Asked:
    """One request; names of headers are in lower case, the body is of JSON or of a form."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]


@dataclass(frozen=True)
class Said:
    """One answer."""

    status: int = 200
    body: Any = field(default_factory=dict[str, Any])
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request, instead of its answer.

    `silent`: nothing is done and nothing is said; `lost`: it is done, but the connection breaks before the answer.
    """

    kind: Literal["silent", "lost", "answer"] = "answer"
    said: Said = field(default_factory=Said)


class ProviderStub(ABC):
    """A provider.

    Attributes:
        asked: every request.
        faults: of the next requests, one each.
        url: where it listens, while it does.
    """

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.faults: deque[Fault] = deque()
        self.url = ""
        self._lasting: tuple[int, Fault] | None = None

    @abstractmethod
    def carry_out(self, asked: Asked) -> Said:
        """Do what is asked."""

    def fail(self, *statuses: int, headers: Mapping[str, str] | None = None, body: Any = None) -> None:
        """Answer the next requests with these statuses."""
        said = (Said(status=status, headers=headers or {}, body=body or {}) for status in statuses)
        self.faults.extend(Fault(said=each) for each in said)

    def fail_from(self, number: int | None, fault: Fault | None = None) -> None:
        """Let every request fail from the one with this number on (from 1, as counted by `asked`); None: no more."""
        self._lasting = (number, fault or Fault("lost")) if number is not None else None

    def calls(self, method: str, path: str = "") -> int:
        """Count the requests."""
        return sum(asked.method == method and asked.path.startswith(path) for asked in self.asked)

    def transport(self) -> httpx.MockTransport:
        """Return a way to it that needs no network."""

        async def handle(request: httpx.Request) -> httpx.Response:
            said = await self._answer(_asked(request.method, request.url.path, request.headers, request.content))
            if said is None:
                raise httpx.ReadError("broken", request=request)
            return httpx.Response(said.status, headers=said.headers, json=said.body)

        return httpx.MockTransport(handle)

    @contextlib.asynccontextmanager
    async def listening(self, path: str = "") -> AsyncGenerator[str]:
        """Give its URL for the time of the block; `path` is what the URL ends with."""
        connections: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = asyncio.current_task()
            assert connection is not None
            connections.add(connection)
            try:
                await self._serve(reader, writer, path)
            except asyncio.CancelledError:
                pass  # the test is over
            finally:
                connections.discard(connection)
                writer.transport.abort()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{path}"
        try:
            yield self.url
        finally:
            server.close()
            for connection in connections:
                connection.cancel()
            if connections:
                await asyncio.wait(connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, base: str) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while line := (await reader.readline()).decode().split():
                headers: dict[str, str] = {}
                while header := (await reader.readline()).decode().strip():
                    name, _, value = header.partition(":")
                    headers[name.lower()] = value.strip()
                content = await reader.readexactly(int(headers.get("content-length", "0")))
                said = await self._answer(_asked(line[0], line[1].removeprefix(base), headers, content))
                if said is None:
                    return
                body = json.dumps(said.body).encode()
                told = {"content-type": "application/json", "content-length": str(len(body)), **said.headers}
                head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
                writer.write(f"HTTP/1.1 {said.status} -\r\n{head}\r\n".encode() + body)
                await writer.drain()

    async def _answer(self, asked: Asked) -> Said | None:
        """Return the answer; None: the connection breaks."""
        self.asked.append(asked)
        fault = self.faults.popleft() if self.faults else None
        if fault is None and self._lasting is not None and len(self.asked) >= self._lasting[0]:
            fault = self._lasting[1]
        if fault is None:
            return self.carry_out(asked)
        match fault.kind:
            case "silent":
                await asyncio.sleep(_LONG_S)
                return None
            case "lost":
                self.carry_out(asked)
                return None
            case "answer":
                return fault.said


def _asked(method: str, path: str, headers: Mapping[str, str], content: bytes) -> Asked:
    names = {name.lower(): value for name, value in headers.items()}
    if names.get("content-type") == "application/x-www-form-urlencoded":
        fields = parse_qs(content.decode(), keep_blank_values=True)
        form = {name: found[0] if len(found) == 1 else found for name, found in fields.items()}
        return Asked(method=method, path=path, headers=names, body=form)
    return Asked(method=method, path=path, headers=names, body=json.loads(content) if content else {})
