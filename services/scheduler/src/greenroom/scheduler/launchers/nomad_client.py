"""The calls of Nomad's HTTP API that the launcher needs, typed; errors are those of the launcher.

Nothing is ever asked twice here: who asked knows whether that is safe.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

import httpx
import msgspec

from greenroom.scheduler.launchers import nomad_wire as wire
from greenroom.scheduler.launchers.base import LauncherUnavailable, LaunchRefused
from greenroom.scheduler.launchers.nomad_errors import error_of
from greenroom.scheduler.launchers.nomad_wire import Listing

# Of one call, from the first byte to the last. Nomad answers in milliseconds unless it elects a leader (seconds).
CALL_TIMEOUT_S: Final = 8.0
# The event stream gives a sign of life at once and every 30 s.
STREAM_SILENCE_S: Final = 45.0
_CONNECT_TIMEOUT_S: Final = 3.0
_MAX_CONNECTIONS: Final = 16
_NOT_FOUND: Final = 404
_FORBIDDEN: Final = 403
_INDEX: Final = "X-Nomad-Index"

# Returns the token of now, or None where no token is used.
type Token = Callable[[], str | None]


class NomadClient:
    """A connection to Nomad in one namespace; an async context manager that closes it.

    Raises (every call):
        LaunchRefused: Nomad said no.
        LauncherUnavailable: it gave no usable answer; whether it did what was asked isn't known.

    Args:
        http: has the address, and how to get there.
        token: the token; asked for each call, because workload identities are renewed.
        namespace: that all of it is in.
    """

    def __init__(self, http: httpx.AsyncClient, *, token: Token, namespace: str) -> None:
        self._http = http
        self._token = token
        self._namespace = namespace

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def version(self) -> str | None:
        """Return the version of the agent, or None if the token isn't allowed to ask."""
        response = await self._request("GET", "/v1/agent/self")
        if response.status_code == _FORBIDDEN:
            return None
        return _decoded(response, wire.AgentSelf, "ask for the version").config.version.version or None

    async def dispatch(self, job: str, *, launch_id: str, meta: Mapping[str, str], priority: int) -> wire.Dispatched:
        """Dispatch a parameterized job, once for each `launch_id` (as long as the child isn't garbage-collected)."""
        body = wire.Dispatch(meta=dict(meta), id_prefix_template=launch_id, priority=priority)
        params = {"idempotency_token": launch_id}
        return await self._post(f"/v1/job/{_id(job)}/dispatch", body, wire.Dispatched, f"dispatch {job}", params)

    async def jobs(self, prefix: str) -> Listing[wire.Job]:
        """Return the jobs that aren't dead and whose ID begins with `prefix`."""
        params = {"prefix": prefix, "filter": 'Status != "dead"'}
        return await self._list("/v1/jobs", wire.Job, "list jobs", params)

    async def allocations(self) -> Listing[wire.Allocation]:
        """Return the allocations of the namespace that run or are to."""
        params = {"filter": 'ClientStatus == "pending" or ClientStatus == "running" or ClientStatus == "unknown"'}
        return await self._list("/v1/allocations", wire.Allocation, "list allocations", params)

    async def allocations_of(self, job: str) -> Listing[wire.Allocation]:
        """Return the allocations of one job, ended ones included."""
        return await self._list(f"/v1/job/{_id(job)}/allocations", wire.Allocation, f"list allocations of {job}", {})

    async def evaluation(self, eval_id: str) -> wire.Evaluation:
        """Return what Nomad's scheduler has decided, or is about to."""
        return await self._get(f"/v1/evaluation/{_id(eval_id)}", wire.Evaluation, "read an evaluation")

    async def blocked(self) -> Listing[wire.Evaluation]:
        """Return the evaluations that wait for room."""
        return await self._list("/v1/evaluations", wire.Evaluation, "list evaluations", {"status": "blocked"})

    async def deployment(self, job: str) -> wire.Deployment | None:
        """Return the latest deployment of a job, or None if it has none."""
        doing = f"read the deployment of {job}"
        response = await self._request("GET", f"/v1/job/{_id(job)}/deployment")
        return None if _is_null(response) else _decoded(response, wire.Deployment, doing)

    async def desired(self, job: str, group: str) -> int:
        """Return how large a group is to be."""
        doing = f"read the size of {job}"
        status = await self._get(f"/v1/job/{_id(job)}/scale", wire.ScaleStatus, doing)
        if group not in status.task_groups:
            raise LaunchRefused(f"Nomad, {doing}: it has no group {group!r} (GREENROOM_NOMAD_RUNNER_GROUP)")
        return status.task_groups[group].desired

    async def scale(self, job: str, group: str, count: int, message: str) -> None:
        """Make a group `count` large."""
        body = wire.Scale(count=count, target={"Job": job, "Group": group}, message=message)
        await self._post(f"/v1/job/{_id(job)}/scale", body, dict[str, Any], f"scale {job} to {count}", {})

    async def deregister(self, job: str) -> None:
        """Stop a job; one that isn't there stays that way."""
        response = await self._request("DELETE", f"/v1/job/{_id(job)}")
        if response.is_error and response.status_code != _NOT_FOUND:
            raise error_of(response.status_code, response.text, doing=f"stop {job}")

    @contextlib.asynccontextmanager
    async def events(self) -> AsyncGenerator[AsyncGenerator[wire.EventBatch]]:
        """Follow what happens, from the oldest event that Nomad still has; ends when Nomad ends it.

        `{}` comes as a batch without events, at once and every 30 s. That nothing was missed can't be seen from the
        stream: a slow reader is dropped, and an index that is lost is replaced by the closest one.
        """
        topics = [("topic", topic) for topic in ("Allocation", "Evaluation", "Job")]
        timeout = httpx.Timeout(_CONNECT_TIMEOUT_S, read=STREAM_SILENCE_S)
        try:
            async with self._http.stream(
                "GET",
                "/v1/event/stream",
                params=[*topics, ("namespace", self._namespace), ("index", "0")],
                headers=self._headers(),
                timeout=timeout,
            ) as response:
                if response.is_error:
                    raise error_of(response.status_code, (await response.aread()).decode(), doing="follow events")
                yield _batches(response)
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise LauncherUnavailable(f"Nomad's event stream broke: {type(error).__name__}") from error

    # ------------------------------------------------------------------------ shapes of calls

    async def _get[T](self, path: str, kind: type[T], doing: str) -> T:
        return _decoded(await self._request("GET", path), kind, doing)

    async def _list[T](self, path: str, kind: type[T], doing: str, params: Mapping[str, str]) -> Listing[T]:
        response = await self._request("GET", path, params=params)
        items: tuple[T, ...] = () if _is_null(response) else _decoded(response, tuple[kind, ...], doing)
        index = response.headers.get(_INDEX, "0")
        return Listing(index=int(index) if index.isdecimal() else 0, items=items)

    async def _post[T](
        self, path: str, body: msgspec.Struct, kind: type[T], doing: str, params: Mapping[str, str]
    ) -> T:
        content = msgspec.json.encode(body)
        return _decoded(await self._request("POST", path, params=params, content=content), kind, doing)

    async def _request(
        self, method: str, path: str, *, params: Mapping[str, str] | None = None, content: bytes | None = None
    ) -> httpx.Response:
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return await self._http.request(
                    method,
                    path,
                    params={**(params or {}), "namespace": self._namespace},
                    content=content,
                    headers=self._headers(),
                )
        except (httpx.HTTPError, TimeoutError) as error:
            raise LauncherUnavailable(f"Nomad doesn't answer: {type(error).__name__}") from error

    def _headers(self) -> dict[str, str]:
        token = self._token()
        return {"Authorization": f"Bearer {token}"} if token else {}


async def _batches(response: httpx.Response) -> AsyncGenerator[wire.EventBatch]:
    async for line in response.aiter_lines():
        if line.strip():
            try:
                yield wire.decode(line.encode(), wire.EventBatch)
            except msgspec.MsgspecError as error:
                # Where a stream breaks on their side, the last line is an error's text.
                raise LauncherUnavailable(f"Nomad's event stream broke: {line[:200]}") from error


def _is_null(response: httpx.Response) -> bool:
    """Tell whether an answer is JSON's null: what Nomad says for none, and for an empty list in places."""
    return response.is_success and response.content.strip() == b"null"


def _decoded[T](response: httpx.Response, kind: type[T], doing: str) -> T:
    if response.is_error:
        raise error_of(response.status_code, response.text, doing=doing)
    try:
        return wire.decode(response.content, kind)
    except msgspec.MsgspecError as error:
        raise LauncherUnavailable(f"Nomad, {doing}: the answer isn't one ({error})") from error


def _id(name: str) -> str:
    """Return an ID as one segment of a path: those of dispatched jobs contain a slash."""
    return quote(name, safe="")


def http_client(address: str, *, ca_cert: str = "", client_cert: str = "", client_key: str = "") -> httpx.AsyncClient:
    """Return the HTTP client for an address as Nomad writes it: http(s)://host:port or unix:///path.

    Args:
        address: of the agent, or of the task API's socket.
        ca_cert: file with the authority that the agent's certificate is checked against; empty: the system's.
        client_cert: file with the certificate shown to the agent; empty: none.
        client_key: file with its key.
    """
    limits = httpx.Limits(max_connections=_MAX_CONNECTIONS)
    timeout = httpx.Timeout(CALL_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
    if address.startswith("unix://"):
        transport = httpx.AsyncHTTPTransport(uds=address.removeprefix("unix://"), limits=limits)
        # The host is never looked up: everything goes to the socket.
        return httpx.AsyncClient(base_url="http://nomad", transport=transport, timeout=timeout)
    verify: ssl.SSLContext | bool = True
    if address.startswith("https://"):
        verify = ssl.create_default_context(cafile=ca_cert or None)
        if client_cert:
            verify.load_cert_chain(client_cert, client_key or None)
    # Nothing that the environment says of proxies is meant for the agent next door.
    return httpx.AsyncClient(base_url=address, verify=verify, limits=limits, timeout=timeout, trust_env=False)


def token_from(token: str, file: Path | None) -> Token:
    """Return where tokens come from: a fixed one, else a file, read anew each time because Nomad renews it in place."""

    def read() -> str | None:
        if token or file is None:
            return token or None
        try:
            return file.read_text().strip() or None
        except OSError:
            return None

    return read
