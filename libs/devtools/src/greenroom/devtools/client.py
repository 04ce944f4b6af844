"""The REST API as the commands use it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any, Final, Self

import httpx
import msgspec

from greenroom.common.errors import GreenroomError
from greenroom.devtools.state import Connection

_TIMEOUT: Final = httpx.Timeout(10.0, read=75.0)
_STREAM_TIMEOUT: Final = httpx.Timeout(10.0, read=45.0)
# An event stream that broke is taken up again, after what the API asks for; it restarts within seconds.
_RESUME_AFTER_S: Final = 1.0
# Counted from the last sign of life; longer than the silence after which a stream is given up.
_RESUME_WITHIN_S: Final = 60.0


class ApiProblem(GreenroomError):
    """The API refused the request; its answer (RFC 9457) has a code of its own that `greenroom error` explains."""

    code = "api-problem"
    status = 502
    title = "The API refused"

    def __init__(self, problem: dict[str, Any]) -> None:
        """Make the error of the API's answer."""
        super().__init__(str(problem.get("detail") or problem.get("title") or "no reason given"))
        self.problem_body = problem
        self.api_code = str(problem.get("code", "unknown"))


class ApiUnreachable(GreenroomError):
    """The API doesn't answer at its address: is it running (`greenroom up`), and is GREENROOM_API_URL right?"""

    code = "api-unreachable"
    status = 503
    title = "The API doesn't answer"
    retryable = True


class ServerEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One server-sent event; `id` is the stream sequence to resume from."""

    id: str
    type: str
    data: dict[str, Any]


class ApiClient:
    """A client for one tenant's key.

    Raises (every call):
        ApiProblem: the API refused.
        ApiUnreachable: it doesn't answer.
    """

    def __init__(self, connection: Connection) -> None:
        self._http = httpx.AsyncClient(
            base_url=connection.api_url,
            headers={"Authorization": f"Bearer {connection.api_key}"},
            timeout=_TIMEOUT,
        )

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def get(self, path: str, **params: str | int | None) -> Any:
        """Return the JSON of a GET."""
        return await self._json("GET", path, params={k: v for k, v in params.items() if v is not None})

    async def post(self, path: str, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None) -> Any:
        """Return the JSON of a POST."""
        return await self._json("POST", path, json=body if body is not None else {}, headers=headers)

    async def put(self, path: str, body: dict[str, Any]) -> Any:
        """Return the JSON of a PUT."""
        return await self._json("PUT", path, json=body)

    async def patch(self, path: str, body: dict[str, Any]) -> Any:
        """Return the JSON of a PATCH."""
        return await self._json("PATCH", path, json=body)

    async def delete(self, path: str) -> None:
        """Delete what is at `path`."""
        await self._send("DELETE", path)

    async def download(self, path: str) -> bytes:
        """Return the body of a GET."""
        return (await self._send("GET", path)).content

    async def save(self, path: str, file: Path) -> int:
        """Write the body of a GET to `file`, piece by piece, and return its size; `file` is whole or not there.

        Raises:
            ApiUnreachable: also where the answer breaks off.
        """
        part = file.with_name(f"{file.name}.part")
        size = 0
        try:
            async with self._http.stream("GET", path) as response:
                if response.is_error:
                    await response.aread()
                    raise ApiProblem(_problem(response))
                with part.open("wb") as target:
                    async for chunk in response.aiter_bytes():
                        size += target.write(chunk)
            part.replace(file)
        except httpx.HTTPError as error:
            raise ApiUnreachable(f"the answer broke off: {type(error).__name__}") from error
        finally:
            part.unlink(missing_ok=True)
        return size

    async def events(self, session_id: str, *, after: int = 0) -> AsyncIterator[ServerEvent]:
        """Follow a session until the API says that nothing more comes, over reconnects.

        Args:
            session_id: which.
            after: the stream sequence to resume behind.
        """
        last = str(after)
        # Until when the API may stay away; one that never answered isn't waited for.
        patience_until = 0.0
        while True:
            try:
                async with contextlib.aclosing(self._stream(session_id, last)) as stream:
                    async for event in stream:
                        patience_until = time.monotonic() + _RESUME_WITHIN_S
                        if event is None:
                            continue
                        if event.type == "end":
                            return
                        last = event.id or last
                        yield event
            except httpx.HTTPError as error:
                if time.monotonic() > patience_until:
                    raise ApiUnreachable(f"the event stream broke: {type(error).__name__}") from error
            await asyncio.sleep(_RESUME_AFTER_S)

    async def _stream(self, session_id: str, last: str) -> AsyncGenerator[ServerEvent | None]:
        """Yield events until the stream ends, and None for every other sign of life."""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": last}
        path = f"/v1/sessions/{session_id}/events"
        async with self._http.stream("GET", path, headers=headers, timeout=_STREAM_TIMEOUT) as response:
            if response.is_server_error:
                response.raise_for_status()
            if response.is_error:
                await response.aread()
                raise ApiProblem(_problem(response))
            yield None
            fields: dict[str, str] = {}
            async for line in response.aiter_lines():
                if line.startswith(":"):
                    yield None
                    continue
                if line:
                    name, _, value = line.partition(":")
                    fields[name] = value.removeprefix(" ")
                    continue
                if "data" in fields:
                    data = msgspec.json.decode(fields["data"])
                    yield ServerEvent(id=fields.get("id", ""), type=fields.get("event", "message"), data=data)
                fields = {}

    async def _json(self, method: str, path: str, **kwargs: Any) -> Any:
        return (await self._send(method, path, **kwargs)).json()

    async def _send(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        try:
            response = await self._http.request(method, path, **kwargs)
        except httpx.HTTPError as error:
            raise ApiUnreachable(f"{self._http.base_url} doesn't answer: {type(error).__name__}") from error
        if response.is_error:
            raise ApiProblem(_problem(response))
        return response


def _problem(response: httpx.Response) -> dict[str, Any]:
    try:
        return msgspec.json.decode(response.content, type=dict[str, Any])
    except msgspec.MsgspecError:
        return {"status": response.status_code, "detail": response.reason_phrase}
