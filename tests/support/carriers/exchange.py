"""A carrier as a whole: its API on the loopback, its webhooks to us, and the phones at the other end."""

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final, Literal
from urllib.parse import parse_qs

import httpx
import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from websockets.exceptions import InvalidStatus

from tests.support.carriers.dialect import Answered, Dialect, Dialled, Leg, Request, Transferred
from tests.support.carriers.exotel import ExotelDialect
from tests.support.carriers.phone import Phone
from tests.support.carriers.plivo import PlivoDialect
from tests.support.carriers.telnyx import TelnyxDialect
from tests.support.carriers.twilio import TwilioDialect
from tests.support.carriers.vobiz import VobizDialect

CARRIERS: Final = ("twilio", "telnyx", "plivo", "exotel", "vobiz")
CALLER: Final = "+4915112345678"
NUMBER: Final = "+4930123456"
_COUNT: Final = itertools.count(1)
_UNAUTHENTICATED: Final = 401


def dialect_of(name: str) -> Dialect:
    """Return a carrier's dialect."""
    kinds = (TwilioDialect, TelnyxDialect, PlivoDialect, ExotelDialect, VobizDialect)
    return next(kind() for kind in kinds if kind.name == name)


class Exchange:
    """One carrier.

    Attributes:
        dialect: its own.
        callee: what somebody who is called does.
        rings: set once it shall be told that a phone rings, if that is all it does.
        answered_by: what the carrier says of who picked up, as fields of its webhook; None: nothing.
        trouble: statuses with which the next requests to its API are answered, whatever they ask for.
        parameters: what the carrier says was added to the next calls, where it says so.
        forgotten: how many of the next requests are carried out, but answered as if they weren't.
        requests: to its API, in order.
        dialled: whom it was asked to call.
        hung_up: calls that it was asked to end.
        put_through: whom calls were handed over to, by call.
        keeps_media: whether it leaves the media of a call open that was handed over.
        live: calls that aren't over, for the API.
        phones: of those who were called and picked up.
    """

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.callee: Literal["answers", "busy", "no-answer", "failed", "rings"] = "answers"
        self.rings = asyncio.Event()
        self.answered_by: dict[str, str] | None = None
        self.trouble: list[int] = []
        self.parameters: dict[str, str] = {}
        self.forgotten = 0
        self.requests: list[Request] = []
        self.dialled: list[Dialled] = []
        self.hung_up: list[str] = []
        self.put_through: dict[str, str] = {}
        self.keeps_media = False
        self.live: set[str] = set()
        self.phones: list[Phone] = []
        self.url = ""
        self._http = httpx.AsyncClient(timeout=20)
        self._tasks: set[asyncio.Task[None]] = set()

    def leg(self, *, caller: str = CALLER, called: str = NUMBER, outbound: bool = False) -> Leg:
        """Return a new call."""
        number = next(_COUNT)
        leg = Leg(
            call_id=f"call-{self.dialect.name}-{number:08d}",
            stream_id=f"stream-{self.dialect.name}-{number:08d}",
            caller=caller,
            called=called,
            outbound=outbound,
            parameters=self.parameters,
        )
        self.live.add(leg.call_id)
        return leg

    async def ask(self, url: str, leg: Leg) -> Answered:
        """Ask what to do with a call."""
        response = await self.webhook(url, self.dialect.asks(leg))
        return self.dialect.reads(response.status_code, response.content)

    async def webhook(
        self, url: str, fields: dict[str, Any], *, at: float | None = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """Send a webhook as the carrier does, signed; `headers` replace those that it would have."""
        asks = url.partition("?")[0].endswith(f"/{self.dialect.name}/answer")
        by = self.dialect.asks_by if asks else self.dialect.tells_by
        method = "GET" if by == "query" else "POST"
        signed = self.dialect.sign(method, url, fields, at=at) | (headers or {})
        match by:
            case "query":
                return await self._http.get(httpx.URL(url).copy_merge_params(fields), headers=signed)
            case "form":
                return await self._http.post(url, data=fields, headers=signed)
            case "json":
                return await self._http.post(url, json=fields, headers=signed)

    async def call(self, api_url: str, leg: Leg | None = None) -> Phone:
        """Call our number; returns when the call is connected, however often it is held before."""
        leg = leg or self.leg()
        answered = await self.ask(f"{api_url}/v1/webhooks/{self.dialect.name}/answer", leg)
        while answered.kind == "hold":
            await asyncio.sleep(answered.pause_s)
            answered = await self.ask(answered.url, leg)
        assert answered.kind == "connect", answered
        phone = Phone(self.dialect, leg)
        await phone.connect(answered.url)
        self.phones.append(phone)
        return phone

    async def tell(self, url: str, leg: Leg, status: str) -> httpx.Response:
        """Say how a call stands."""
        return await self.webhook(url, self.dialect.tells(leg, status))

    # ------------------------------------------------------------------------ its API

    async def serve(self, request: HttpRequest) -> Response:
        """Answer a request to the API."""
        asked = await _read(request)
        self.requests.append(asked)
        if self.trouble:
            status = self.trouble.pop(0)
            return JSONResponse({"message": "trouble"}, status_code=status, headers={"retry-after": "1"})
        if not self.dialect.authentic(asked):
            return JSONResponse({"message": "Authenticate"}, status_code=_UNAUTHENTICATED)
        dialled = self.dialect.dials(asked)
        if dialled is not None:
            leg = self.leg(caller=dialled.caller, called=dialled.to, outbound=True)
            self.dialled.append(dialled)
            self._begin(self._ring(leg, dialled))
            if self.forgotten:
                self.forgotten -= 1
                return JSONResponse({"message": "trouble"}, status_code=503)
            return _json(*self.dialect.dialled(leg))
        transferred = self.dialect.transfers(asked)
        if transferred is not None:
            known = transferred.call_id in self.live
            if known and transferred.document:
                # Its socket is closed before its answer is read.
                await self._put_through(transferred)
            elif known:
                self._begin(self._put_through(transferred))
            return _json(*self.dialect.transferred(known=known))
        call_id = self.dialect.hangs_up(asked)
        assert call_id is not None, asked
        known = call_id in self.live
        self.live.discard(call_id)
        self.hung_up.append(call_id)
        for phone in self.phones:
            if phone.leg.call_id == call_id and not phone.closed.is_set():
                self._begin(phone.hang_up())
        return _json(*self.dialect.hung_up(known=known))

    async def _put_through(self, transferred: Transferred) -> None:
        """Take a call away from its media, as a document says, and connect it with somebody else."""
        phone = next(phone for phone in self.phones if phone.leg.call_id == transferred.call_id)
        document: str | bytes = transferred.document
        if transferred.url:
            response = await self.webhook(transferred.url, self.dialect.asks(phone.leg))
            assert response.status_code == 200, response.text
            document = response.content
        self.put_through[transferred.call_id] = self.dialect.reads_dial(document)
        if not self.keeps_media:
            await phone.hang_up()

    async def _ring(self, leg: Leg, dialled: Dialled) -> None:
        await asyncio.sleep(0.1)
        if self.callee == "rings":
            await self.rings.wait()
            await self._tell_dialled(dialled.ring_url or dialled.status_url, leg, "ringing")
            return
        if self.callee != "answers":
            self.live.discard(leg.call_id)
            await self._tell_dialled(dialled.status_url, leg, self.callee)
            return
        url = dialled.stream_url
        if dialled.answer_url:
            answered = await self.ask(dialled.answer_url, leg)
            if answered.kind == "refuse":
                self.live.discard(leg.call_id)
                return
            assert answered.kind == "connect"
            url = answered.url
        phone = Phone(self.dialect, leg)
        try:
            await phone.connect(url)
        except InvalidStatus:
            self.live.discard(leg.call_id)
            return
        self.phones.append(phone)
        if self.answered_by is not None:
            await self.webhook(dialled.machine_url, {**self.dialect.asks(leg), **self.answered_by})
        await phone.closed.wait()
        if leg.call_id in self.put_through:
            # It goes on with somebody else.
            return
        self.live.discard(leg.call_id)
        await self._tell_dialled(dialled.status_url, leg, "completed")

    async def _tell_dialled(self, url: str, leg: Leg, status: str) -> None:
        response = await self.tell(url, leg, status)
        assert response.status_code == 200, response.text

    def _begin(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Leave nothing behind."""
        for phone in self.phones:
            await phone.end()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.aclose()


@asynccontextmanager
async def running_exchange(name: str) -> AsyncGenerator[Exchange]:
    """Run a carrier for the time of the block."""
    exchange = Exchange(dialect_of(name))
    app = Starlette(routes=[Route("/{path:path}", exchange.serve, methods=["GET", "POST", "DELETE"])])
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        exchange.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            yield exchange
        finally:
            await exchange.close()
            server.should_exit = True
            with contextlib.suppress(asyncio.CancelledError):
                await serving


async def _read(request: HttpRequest) -> Request:
    body = await request.body()
    if request.headers.get("content-type", "").startswith("application/json"):
        fields: dict[str, Any] = msgspec.json.decode(body) if body else {}
    else:
        parsed = parse_qs(body.decode(), keep_blank_values=True)
        fields = {name: found[0] if len(found) == 1 else found for name, found in parsed.items()}
    return Request(method=request.method, path=request.url.path, headers=dict(request.headers), fields=fields)


def _json(status: int, body: dict[str, Any]) -> Response:
    return Response(status_code=status) if not body else JSONResponse(body, status_code=status)
