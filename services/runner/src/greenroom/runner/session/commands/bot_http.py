"""HTTP routes of the bot's own: an ASGI app in its module, called in the process of the one session it is about.

Bots written for Pipecat Cloud take their app from a module of its base image:

    from pipecatcloud_system import app

    @app.get("/status")
    async def status(): ...

Such a module is put in place here, so that they run unchanged. Each `import` gets an app of its own, which the bot's
module then has under that name; a bot may as well make its `app` itself. Requests are told as `bot_http` events: who,
method, path and status, nothing of their contents.

An answer whose route says at once all it has to say goes out as a whole. One that comes in parts (server-sent events, a
streaming response) begins with its first part, and the others are asked for one by one (`http_stream`).
"""

import asyncio
import contextvars
import sys
from collections.abc import Awaitable, Callable, Coroutine
from types import ModuleType
from typing import Any, Final, cast, override
from urllib.parse import quote

import msgspec
import structlog
from fastapi import FastAPI

from greenroom.common import subjects
from greenroom.common.broker import Broker, Message, Subscription
from greenroom.common.command_errors import CommandUnsupported, FunctionFailed, TooManyCommands
from greenroom.common.commands import (
    MAX_HTTP_BYTES,
    MAX_HTTP_PART_BYTES,
    HttpAnswer,
    HttpAnswered,
    HttpCall,
    HttpHeader,
    HttpNext,
    HttpPart,
    HttpRefused,
)
from greenroom.common.errors import BrokerUnavailable, GreenroomError
from greenroom.common.ids import uuid7
from greenroom.common.lifecycle import Session
from greenroom.common.messages import EventType, decode, encode
from greenroom.runner.session.commands.exposed import Exposed
from greenroom.runner.session.commands.http_stream import ClientGone, HttpPipe
from greenroom.runner.session.emitter import Emitter
from greenroom.runner.session.ending import where_raised

_log = structlog.get_logger()

CLOUD_MODULE: Final = "pipecatcloud_system"
ATTRIBUTE: Final = "app"
MAX_RUNNING: Final = 16
# Of answers that come in parts; the others have the rest.
MAX_STREAMS: Final = 8
# For a route to notice that its client has gone.
_GOODBYE_S: Final = 1.0
_MAX_PENDING: Final = 64
# They are about the connection, which isn't the caller's.
_HOP_BY_HOP: Final = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade"})

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
        tokens = {"tenant": session.tenant, "session_id": session.id}
        self._subjects = {
            subjects.SESSION_CMD.format(**tokens, name="http"): self._on_call,
            subjects.SESSION_CMD.format(**tokens, name="http_next"): self._on_next,
        }
        self._exposed = exposed
        self._emitter = emitter
        self._context = context
        self._tasks: set[asyncio.Task[None]] = set()
        self._serving = 0
        self._streams: dict[str, HttpPipe] = {}
        self._subscriptions: list[Subscription] = []

    async def open(self) -> None:
        """Begin to take requests."""
        for subject, handler in self._subjects.items():
            self._subscriptions.append(await self._broker.subscribe(subject, handler, max_pending=_MAX_PENDING))

    async def close(self) -> None:
        """Take no more; those under way are canceled."""
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ------------------------------------------------------------------------ requests

    async def _on_call(self, message: Message) -> None:
        try:
            call = decode(message.data, HttpCall)
        except msgspec.MsgspecError:
            _log.warning("bot_http_malformed", bytes=len(message.data))
            return
        self._spawn(self._serve(message, call), f"bot {call.method}", self._context.copy())

    def _spawn(self, work: Coroutine[Any, Any, None], name: str, context: contextvars.Context | None = None) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, message: Message, call: HttpCall) -> None:
        answer: HttpAnswer
        exchange = _Exchange(call)
        self._serving += 1
        try:
            try:
                answer = await self._answer(call, exchange)
                outcome: dict[str, Any] = {"status": answer.status}
            except GreenroomError as error:
                answer = HttpRefused(code=error.code, detail=error.detail)
                outcome = {"code": error.code}
            self._emitter.emit(EventType.BOT_HTTP, {"by": call.by, "method": call.method, "path": call.path, **outcome})
            if await self._reply(message, encode(answer)) and isinstance(answer, HttpAnswered) and answer.stream:
                await self._stream(answer.stream, exchange)
        finally:
            self._serving -= 1
            await exchange.cancel()

    async def _answer(self, call: HttpCall, exchange: "_Exchange") -> HttpAnswered:
        app: object = getattr(sys.modules.get(self._exposed.module or ""), ATTRIBUTE, None)
        if not callable(app):
            raise CommandUnsupported(f"The bot's module has no {ATTRIBUTE!r}.")
        if self._serving > MAX_RUNNING:
            raise TooManyCommands(f"The bot works on {MAX_RUNNING} requests already.")
        exchange.begin(cast("AsgiApp", app))
        try:
            async with asyncio.timeout(call.timeout_s):
                streams = await exchange.answerable()
        except TimeoutError as error:
            raise FunctionFailed(f"The route took longer than {call.timeout_s:g} s.") from error
        except GreenroomError:
            raise
        except (Exception, SystemExit) as error:
            # Its text may hold anything.
            raise FunctionFailed(f"The route raised {where_raised(error)}.") from error
        if not streams:
            return exchange.answered()
        if len(self._streams) >= MAX_STREAMS:
            raise TooManyCommands(f"The bot gives {MAX_STREAMS} answers in parts already.")
        stream = uuid7()
        self._streams[stream] = exchange.pipe
        return exchange.answered(stream)

    async def _reply(self, message: Message, answer: bytes) -> bool:
        try:
            await self._broker.publish(message.reply, answer)
        except BrokerUnavailable:
            _log.warning("bot_http_answer_not_sent")
            return False
        return True

    # ------------------------------------------------------------------------ answers in parts

    async def _stream(self, stream: str, exchange: "_Exchange") -> None:
        """Return when all of an answer was taken, or nobody takes it any more."""
        try:
            await exchange.pipe.abandoned()
        finally:
            del self._streams[stream]

    async def _on_next(self, message: Message) -> None:
        try:
            question = decode(message.data, HttpNext)
        except msgspec.MsgspecError:
            _log.warning("bot_http_malformed", bytes=len(message.data))
            return
        pipe = self._streams.get(question.stream)
        if question.stop:
            if pipe is not None:
                await pipe.drop()
            return
        self._spawn(self._give(message, pipe, question), "bot part")

    async def _give(self, message: Message, pipe: HttpPipe | None, question: HttpNext) -> None:
        part = HttpPart(broken=True) if pipe is None else await pipe.take(question.wait_s)
        await self._reply(message, encode(part))


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
        self._may_stream = call.streams
        self._keeps_length = call.method == "HEAD"
        self._gone = asyncio.Event()
        self._status = 0
        self._headers: tuple[HttpHeader, ...] = ()
        self._answer = bytearray()
        self._streaming = asyncio.Event()
        self._work: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        # Of an answer in parts, what comes behind its first one.
        self.pipe: Final = HttpPipe()

    def begin(self, app: AsgiApp) -> None:
        """Call the app."""
        self._work = asyncio.get_running_loop().create_task(self._run(app), name="bot route")

    async def _run(self, app: AsgiApp) -> None:
        broken = True
        try:
            await app(self.scope, self.receive, self.send)
            broken = False
        except ClientGone:
            _log.info("bot_http_client_gone")
        except (Exception, SystemExit) as error:  # noqa: BLE001 it is the bot's, and told as such
            if not self._streaming.is_set():
                # Not raised: a task that exits would take the whole process with it.
                self._error = error
                return
            # What was said of the answer can't be taken back; its text may hold anything.
            _log.warning("bot_http_broken", where=where_raised(error))
        finally:
            await self.pipe.end(broken=broken)

    async def answerable(self) -> bool:
        """Return when there is an answer, as a whole (false) or its beginning; raise what the app raises."""
        work = self._work
        if work is None:
            raise FunctionFailed("The route wasn't called.")
        streaming = asyncio.get_running_loop().create_task(self._streaming.wait())
        try:
            await asyncio.wait({work, streaming}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            streaming.cancel()
        if self._streaming.is_set():
            return True
        if self._error is not None:
            raise self._error
        return False

    async def cancel(self) -> None:
        """Tell the app that its client has gone, and end it if it goes on."""
        self._gone.set()
        if self._work is not None and not self._work.done():
            await self.pipe.drop()
            await asyncio.wait({self._work}, timeout=_GOODBYE_S if self._streaming.is_set() else 0)
            self._work.cancel()
        if self._work is not None:
            await asyncio.gather(self._work, return_exceptions=True)

    async def receive(self) -> dict[str, Any]:
        """Return the body, and when the client has gone that."""
        if self._asked:
            await self._gone.wait()
            return {"type": "http.disconnect"}
        self._asked = True
        return {"type": "http.request", "body": self._body, "more_body": False}

    async def send(self, message: dict[str, Any]) -> None:
        """Take a part of the answer."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = tuple(
                HttpHeader(name=name.decode("latin-1"), value=value.decode("latin-1"))
                for name, value in message.get("headers", ())
                if self._shown(name.decode("latin-1").lower())
            )
        elif message["type"] == "http.response.body":
            await self._take(message.get("body", b""), more=message.get("more_body", False))

    def _shown(self, name: str) -> bool:
        return name not in _HOP_BY_HOP and (name != "content-length" or self._keeps_length)

    async def _take(self, body: bytes, *, more: bool) -> None:
        if self._streaming.is_set():
            await self.pipe.put(body)
        elif self._may_stream and more:
            self._answer += body[:MAX_HTTP_PART_BYTES]
            self._streaming.set()
            await self.pipe.put(body[MAX_HTTP_PART_BYTES:])
        else:
            self._answer += body
            if len(self._answer) > MAX_HTTP_BYTES:
                raise FunctionFailed(f"The route answers with more than {MAX_HTTP_BYTES} bytes.")

    def answered(self, stream: str | None = None) -> HttpAnswered:
        """Return the answer; what follows it is asked for by `stream`.

        Raises:
            FunctionFailed: there is none.
        """
        if not self._status:
            raise FunctionFailed("The route gave no answer.")
        return HttpAnswered(status=self._status, headers=self._headers, body=bytes(self._answer), stream=stream)
