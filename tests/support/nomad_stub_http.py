"""Serves a Nomad stub over HTTP/1.1: on a port of loopback, and on a unix socket as the task API.

Plain asyncio streams, because tests break connections at will: after acting and before answering, in the middle of the
event stream, for a reader that doesn't read.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.nomad_stub import NomadError, NomadStub
from tests.support.nomad_stub_jobs import Refused

_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 500: "Error"}
_CONDITION = re.compile(r'(\w+) (==|!=) "([^"]*)"')
# What each call needs of a token, by method and the beginning or end of the path.
_CAPABILITIES = {
    ("GET", "/v1/agent/self"): "agent:read",
    ("GET", "/v1/jobs"): "list-jobs",
    ("POST", "/dispatch"): "dispatch-job",
    ("POST", "/scale"): "scale-job",
    ("POST", "/v1/jobs"): "submit-job",
    ("DELETE", ""): "deregister-job",
}


@dataclass
class Request:
    """One request; `query` has the first value of each parameter, `topics` all of `topic`."""

    method: str
    path: str
    query: dict[str, str]
    topics: list[str]
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class NomadServer:
    """A stub that listens, and how it misbehaves.

    Attributes:
        stub: what it serves.
        url: of the port.
        socket: path of the unix socket, where every request needs a bearer token, ACLs or not.
        tokens: that are known; None: ACLs are off.
        denied: capabilities that the tokens lack.
        refuse: answer to everything, as status and text; None: none.
        latency_s: before each answer.
        drop_replies: so many requests more that change something are carried out and not answered.
        heartbeat_s: between signs of life on the event stream.
        drop_slow_after_s: how long a reader of it may not read.
        seen: method, path and bearer token of each request.
    """

    stub: NomadStub
    url: str = ""
    socket: Path | None = None
    tokens: set[str] | None = None
    denied: set[str] = field(default_factory=set[str])
    refuse: tuple[int, str] | None = None
    latency_s: float = 0.0
    drop_replies: int = 0
    heartbeat_s: float = 30.0
    drop_slow_after_s: float = 40.0
    seen: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    _connections: set[asyncio.StreamWriter] = field(default_factory=set[asyncio.StreamWriter])
    _streams: set[asyncio.StreamWriter] = field(default_factory=set[asyncio.StreamWriter])
    _servers: list[asyncio.Server] = field(default_factory=list[asyncio.Server])
    _port: int = 0

    async def start(self) -> None:
        """Listen; after `stop` on the same port and socket."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._servers = [server]
        if self.socket is not None:
            self._servers.append(await asyncio.start_unix_server(self._serve, self.socket))

    async def stop(self) -> None:
        """Be gone."""
        for server in self._servers:
            server.close()
        for writer in list(self._connections):
            writer.transport.abort()
        while self._connections:
            await asyncio.sleep(0.001)

    def break_streams(self) -> None:
        """Break every event stream."""
        for writer in list(self._streams):
            writer.transport.abort()

    @property
    def streams(self) -> int:
        """How many event streams are open."""
        return len(self._streams)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        on_socket = writer.get_extra_info("sockname") == str(self.socket)
        try:
            while (request := await _read(reader)) is not None:
                if not await self._answer(request, reader, writer, on_socket=on_socket):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _answer(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, on_socket: bool
    ) -> bool:
        """Answer one request, and return whether the connection can be used on."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        self.seen.append((request.method, request.path, token))
        await asyncio.sleep(self.latency_s)
        try:
            self._admit(request, token, on_socket=on_socket)
            if request.path == "/v1/event/stream":
                await self._stream(request, reader, writer)
                return False
            answer, index = _call(self.stub, request)
        except NomadError as error:
            return await _reply(writer, error.status, error.text.encode(), "text/plain; charset=utf-8")
        except Refused as error:
            return await _reply(writer, 500, str(error).encode(), "text/plain; charset=utf-8")
        if request.method != "GET" and self.drop_replies > 0:
            self.drop_replies -= 1
            return False
        return await _reply(writer, 200, json.dumps(answer).encode(), "application/json", index)

    def _admit(self, request: Request, token: str, *, on_socket: bool) -> None:
        if on_socket and not token:
            raise NomadError(401, "Unauthorized")
        if self.refuse is not None:
            raise NomadError(*self.refuse)
        if self.tokens is None:
            return
        if token and token not in self.tokens:
            raise NomadError(403, "ACL token not found")
        needed = next(
            (
                capability
                for (method, part), capability in _CAPABILITIES.items()
                if request.method == method and (request.path.endswith(part) or not part)
            ),
            "read-job",
        )
        # Without topics it is all of them, which only a management token may read.
        all_topics = request.path == "/v1/event/stream" and not request.topics
        if not token or needed in self.denied or all_topics:
            raise NomadError(403, "Permission denied")

    async def _stream(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Tell events until the reader goes or is too slow. The body ends with the connection."""
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{}\n")
        self._streams.add(writer)
        told = int(request.query.get("index", "0")) - 1
        silent_s = 0.0
        try:
            while not (writer.is_closing() or reader.at_eof()):
                batches = list(self.stub.since(told + 1))
                for batch in batches:
                    told = batch["Index"]
                    wanted = [event for event in batch["Events"] if _subscribed(event, request.topics)]
                    if wanted:
                        writer.write(json.dumps({"Index": told, "Events": wanted}).encode() + b"\n")
                        silent_s = 0.0
                if silent_s >= self.heartbeat_s:
                    writer.write(b"{}\n")
                    silent_s = 0.0
                async with asyncio.timeout(self.drop_slow_after_s):
                    await writer.drain()
                await asyncio.sleep(0.005)
                silent_s += 0.005
        except TimeoutError:
            writer.transport.abort()
        finally:
            self._streams.discard(writer)


def _call(stub: NomadStub, request: Request) -> tuple[Any, int]:
    """Carry a call out, and return its answer and the index of what it lists."""
    path, query, body = request.path, request.query, request.body
    if query.get("namespace", "default") != stub.namespace:
        raise NomadError(403, "Permission denied")
    match request.method, path.removeprefix("/v1/").split("/", 1)[0]:
        case "GET", "agent":
            return {"config": {"Version": {"Version": stub.version}}, "member": {}}, 0
        case "POST", "jobs":
            return stub.register(body), 0
        case "GET", "jobs" | "allocations" | "evaluations":
            return _listed(stub, path, query)
        case "GET", "evaluation":
            evaluation = stub.evaluations.get(path.rpartition("/")[2])
            if evaluation is None:
                raise NomadError(404, "eval not found")
            return evaluation.json(), stub.index_of["Evaluation"]
        case _, "job":
            return _call_job(stub, request)
        case _:
            raise NomadError(404, "Invalid path")


def _listed(stub: NomadStub, path: str, query: dict[str, str]) -> tuple[Any, int]:
    match path:
        case "/v1/jobs":
            jobs = [job.json() for job in stub.jobs.values() if job.id.startswith(query.get("prefix", ""))]
            return _filtered(jobs, query), stub.index_of["Job"]
        case "/v1/allocations":
            return _filtered([each.json() for each in stub.allocations.values()], query), stub.index_of["Allocation"]
        case _:
            evaluations = [each.json() for each in stub.evaluations.values()]
            wanted = query.get("status")
            return [each for each in evaluations if wanted in {None, each["Status"]}], stub.index_of["Evaluation"]


def _call_job(stub: NomadStub, request: Request) -> tuple[Any, int]:
    rest = unquote(request.path.removeprefix("/v1/job/"))
    calls: dict[tuple[str, str], Callable[[str], Any]] = {
        ("POST", "/dispatch"): lambda id_: stub.dispatch(id_, request.body, request.query.get("idempotency_token", "")),
        ("GET", "/scale"): stub.scale_status,
        ("POST", "/scale"): lambda id_: stub.scale(id_, request.body),
        ("GET", "/deployment"): stub.deployments.get,
        ("GET", "/allocations"): lambda id_: [each.json() for each in stub.allocations_of(id_)],
    }
    for (method, end), call in calls.items():
        if request.method == method and rest.endswith(end):
            return call(rest.removesuffix(end)), stub.index_of["Allocation"]
    if request.method == "DELETE":
        return stub.deregister(rest), 0
    return stub.job(rest).json(), stub.index_of["Job"]


def _filtered(items: list[dict[str, Any]], query: dict[str, str]) -> list[dict[str, Any]]:
    """Keep what fits the filter: conditions on one field, joined by `or`."""
    conditions = _CONDITION.findall(query.get("filter", ""))
    if not conditions:
        return items
    return [
        item
        for item in items
        if any((item[name] == value) == (operator == "==") for name, operator, value in conditions)
    ]


def _subscribed(event: dict[str, Any], topics: list[str]) -> bool:
    wanted = (topic.partition(":") for topic in topics)
    return not topics or any(
        name in {event["Topic"], "*"} and key in {"", "*", event["Key"]} for name, _, key in wanted
    )


async def _read(reader: asyncio.StreamReader) -> Request | None:
    """Read one request; None when the client is done."""
    line = await reader.readline()
    if not line.strip():
        return None
    method, target, _ = line.decode().split()
    headers: dict[str, str] = {}
    while (line := await reader.readline()).strip():
        name, _, value = line.decode().partition(":")
        headers[name.strip().lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    url = urlsplit(target)
    query = parse_qs(url.query)
    return Request(
        method=method,
        path=unquote(url.path),
        query={name: values[0] for name, values in query.items()},
        topics=query.get("topic", []),
        headers=headers,
        body=json.loads(body) if body else {},
    )


async def _reply(writer: asyncio.StreamWriter, status: int, body: bytes, kind: str, index: int = 0) -> bool:
    head = (
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Other')}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n" + (f"X-Nomad-Index: {index}\r\n" if index else "") + "\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()
    return True


@contextlib.asynccontextmanager
async def nomad_server(stub: NomadStub, *, socket: Path | None = None) -> AsyncGenerator[NomadServer]:
    """Serve a stub for the time of the block."""
    server = NomadServer(stub=stub, socket=socket)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
