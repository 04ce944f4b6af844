"""HTTP routes of the bot's own: an ASGI app in its module, called in the process of the one session it is about.

Bots written for Pipecat Cloud take their app from a module of its base image:

    from pipecatcloud_system import app

    @app.get("/status")
    async def status(): ...

Such a module is put in place here, so that they run unchanged. Each `import` gets an app of its own, which the bot's
module then has under that name; a bot may as well make its `app` itself. Requests are told as `bot_http` events: who,
method, path and status, nothing of their contents.
"""

import asyncio
import contextvars
import sys
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any, Final, cast, override
from urllib.parse import quote

import msgspec
import structlog
from fastapi import FastAPI

from greenroom.common import subjects
from greenroom.common.broker import Broker, Message, Subscription
from greenroom.common.command_errors import CommandUnsupported, FunctionFailed, TooManyCommands
from greenroom.common.commands import MAX_HTTP_BYTES, HttpAnswer, HttpAnswered, HttpCall, HttpHeader, HttpRefused
from greenroom.common.errors import BrokerUnavailable, GreenroomError
from greenroom.common.lifecycle import Session
from greenroom.common.messages import EventType, decode, encode
from greenroom.runner.session.commands.exposed import Exposed
from greenroom.runner.session.emitter import Emitter
from greenroom.runner.session.ending import where_raised

_log = structlog.get_logger()

CLOUD_MODULE: Final = "pipecatcloud_system"
ATTRIBUTE: Final = "app"
MAX_RUNNING: Final = 16
_MAX_PENDING: Final = 64
# They are about the connection, which isn't the caller's.
_HOP_BY_HOP: Final = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade", "content-length"})

type AsgiApp = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


class _CloudModule(ModuleType):
    @override
    def __getattr__(self, name: str) -> Any:
        if name == ATTRIBUTE:
            return FastAPI(openapi_url=None)
        raise AttributeError(name)


def offer_cloud_module() -> None:
    """Put Pipecat Cloud's module in place, unless there is one; before bots are imported."""
    sys.modules.setdefault(CLOUD_MODULE, _CloudModule(CLOUD_MODULE, "Stands in for the module of Pipecat Cloud."))


class BotHttp:
    """The routes of one session's bot.

    Args:
        broker: where requests come from.
        session: whose they are.
        exposed: knows the bot's module.
        emitter: takes the events.
        context: what the bot runs in.
    """

    def __init__(
        self, broker: Broker, session: Session, *, exposed: Exposed, emitter: Emitter, context: contextvars.Context
    ) -> None:
        self._broker = broker
        self._subject = subjects.SESSION_CMD.format(tenant=session.tenant, session_id=session.id, name="http")
        self._exposed = exposed
        self._emitter = emitter
        self._context = context
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscription: Subscription | None = None

    async def open(self) -> None:
        """Begin to take requests."""
        self._subscription = await self._broker.subscribe(self._subject, self._on_message, max_pending=_MAX_PENDING)

    async def close(self) -> None:
        """Take no more; those under way are canceled."""
        if self._subscription is not None:
            await self._subscription.unsubscribe()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _on_message(self, message: Message) -> None:
        try:
            call = decode(message.data, HttpCall)
        except msgspec.MsgspecError:
            _log.warning("bot_http_malformed", bytes=len(message.data))
            return
        task = asyncio.get_running_loop().create_task(
            self._serve(message, call), name=f"bot {call.method}", context=self._context.copy()
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, message: Message, call: HttpCall) -> None:
        answer: HttpAnswer
        try:
            answer = await self._answer(call)
            outcome: dict[str, Any] = {"status": answer.status}
        except GreenroomError as error:
            answer = HttpRefused(code=error.code, detail=error.detail)
            outcome = {"code": error.code}
        self._emitter.emit(EventType.BOT_HTTP, {"by": call.by, "method": call.method, "path": call.path, **outcome})
        try:
            await self._broker.publish(message.reply, encode(answer))
        except BrokerUnavailable:
            _log.warning("bot_http_answer_not_sent")

    async def _answer(self, call: HttpCall) -> HttpAnswered:
        app: object = getattr(sys.modules.get(self._exposed.module or ""), ATTRIBUTE, None)
        if not callable(app):
            raise CommandUnsupported(f"The bot's module has no {ATTRIBUTE!r}.")
        if len(self._tasks) > MAX_RUNNING:
            raise TooManyCommands(f"The bot works on {MAX_RUNNING} requests already.")
        exchange = _Exchange(call)
        try:
            async with asyncio.timeout(call.timeout_s):
                await cast("AsgiApp", app)(exchange.scope, exchange.receive, exchange.send)
        except TimeoutError as error:
            raise FunctionFailed(f"The route took longer than {call.timeout_s:g} s.") from error
        except GreenroomError:
            raise
        except (Exception, SystemExit) as error:
            # Its text may hold anything.
            raise FunctionFailed(f"The route raised {where_raised(error)}.") from error
        return exchange.answered()


class _Exchange:
    """One request and its answer, as ASGI has them."""

    def __init__(self, call: HttpCall) -> None:
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": call.method,
            "scheme": "http",
            "path": call.path,
            "raw_path": quote(call.path).encode(),
            "query_string": call.query.encode(),
            "root_path": "",
            "headers": [
                *(
                    (header.name.lower().encode("latin-1", errors="replace"), header.value.encode("latin-1", "replace"))
                    for header in call.headers
                ),
                (b"content-length", str(len(call.body)).encode()),
            ],
            "client": None,
            "server": ("session", 0),
        }
        self._body = call.body
        self._asked = False
        self._gone = asyncio.Event()
        self._status = 0
        self._headers: tuple[HttpHeader, ...] = ()
        self._answer = bytearray()

    async def receive(self) -> dict[str, Any]:
        """Return the body, and after it nothing: nobody hangs up here."""
        if self._asked:
            await self._gone.wait()
        self._asked = True
        return {"type": "http.request", "body": self._body, "more_body": False}

    async def send(self, message: dict[str, Any]) -> None:
        """Take a part of the answer."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = tuple(
                HttpHeader(name=name.decode("latin-1"), value=value.decode("latin-1"))
                for name, value in message.get("headers", ())
                if name.decode("latin-1").lower() not in _HOP_BY_HOP
            )
        elif message["type"] == "http.response.body":
            self._answer += message.get("body", b"")
            if len(self._answer) > MAX_HTTP_BYTES:
                raise FunctionFailed(f"The route answers with more than {MAX_HTTP_BYTES} bytes.")

    def answered(self) -> HttpAnswered:
        """Return the answer.

        Raises:
            FunctionFailed: there is none.
        """
        if not self._status:
            raise FunctionFailed("The route gave no answer.")
        return HttpAnswered(status=self._status, headers=self._headers, body=bytes(self._answer))
