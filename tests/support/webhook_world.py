"""What the tests of webhooks play with: somebody's HTTP server, and a deliverer on the recorder's database."""

import asyncio
import base64
import contextlib
import hmac
import ssl
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from greenroom.common.ids import uuid7
from greenroom.common.metrics import Metrics
from greenroom.common.outbound import Exits
from greenroom.common.webhook_secrets import WebhookSecrets
from greenroom.recorder import database
from greenroom.recorder.webhooks import deliverer
from greenroom.recorder.webhooks.deliverer import PLAIN, Deliverer
from greenroom.recorder.webhooks.sender import Resolver, Sender
from greenroom.recorder.webhooks.store import WebhookStore
from tests.support.recorder_world import World

SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
# Where the servers of these tests are.
LOCAL: Final = Exits.of(["127.0.0.0/8"], http=True)


@dataclass(frozen=True)
class Hook:
    """A request as it came in."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        """The `webhook-id`."""
        return self.headers["webhook-id"]

    @property
    def type(self) -> str:
        """What it tells."""
        return self.json["type"]

    @property
    def json(self) -> dict[str, Any]:
        """The body."""
        return msgspec.json.decode(self.body)

    def signed_by(self, secret: str) -> bool:
        """Tell whether one of the signatures is of a secret; computed here by the letter of the specification."""
        key = base64.b64decode(secret.removeprefix("whsec_"))
        content = f"{self.id}.{self.headers['webhook-timestamp']}.".encode() + self.body
        wanted = "v1," + base64.b64encode(hmac.new(key, content, "sha256").digest()).decode()
        return wanted in self.headers["webhook-signature"].split(" ")


@dataclass
class Hooks:
    """A server that takes webhooks.

    `answer` gives the status for a request; None: nothing is ever answered. `gate` has to be open before that, and
    `reply` is the body.
    """

    port: int = 0
    scheme: str = "http"
    answer: Callable[[Hook], int | None] = lambda _: 204
    extra: str = ""
    reply: bytes = b""
    seen: list[Hook] = field(default_factory=list[Hook])
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    at_once: int = 0
    most_at_once: int = 0

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{self.scheme}://127.0.0.1:{self.port}/hooks"

    def types(self) -> list[str]:
        """Return what was told, in order."""
        return [hook.type for hook in self.seen]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one request."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            body = await reader.readexactly(int(headers["content-length"]))
            hook = Hook(head[0].split(" ")[1], headers, body)
            self.seen.append(hook)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            await self.gate.wait()
            self.at_once -= 1
            status = self.answer(hook)
            if status is None:
                await self.closing.wait()
            else:
                length = f"content-length: {len(self.reply)}\r\n\r\n"
                writer.write(f"HTTP/1.1 {status} X\r\n{self.extra}{length}".encode() + self.reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def hooks(tls: ssl.SSLContext | None = None) -> AsyncGenerator[Hooks]:
    """Run a server."""
    state = Hooks(scheme="https" if tls else "http")
    state.gate.set()
    tasks: set[asyncio.Task[None]] = set()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(state.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(begin, "127.0.0.1", 0, ssl=tls)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        state.closing.set()
        state.gate.set()
        server.close()
        await asyncio.gather(*tasks, return_exceptions=True)


async def subscribe(here: World, url: str, *events: str, tenant: str = "t", secret: str = SECRET) -> str:
    """Make an endpoint; returns its id."""
    endpoint_id = uuid7()
    await here.rows(
        "INSERT INTO webhook_endpoints (id, tenant, url, events, secret) VALUES ($1, $2, $3, $4, $5)",
        endpoint_id,
        tenant,
        url,
        list(events or ("*",)),
        secret,
    )
    return endpoint_id


async def deliveries(here: World, endpoint_id: str) -> list[dict[str, Any]]:
    """Return what is known of the deliveries to an endpoint, in the order in which they are due."""
    query = "SELECT * FROM webhook_deliveries WHERE endpoint_id = $1 ORDER BY lane, position"
    return await here.rows(query, endpoint_id)


async def hurry(here: World) -> None:
    """Make everything due that waits for its next attempt."""
    await here.rows("UPDATE webhook_lanes SET next_at = now()")
    await here.rows("UPDATE webhook_endpoints SET paused_until = '-infinity'")


@contextlib.asynccontextmanager
async def delivering(
    here: World,
    *,
    exits: Exits = LOCAL,
    timeout_s: float = 10.0,
    lease_s: float = deliverer.LEASE_S,
    secrets: WebhookSecrets = PLAIN,
) -> AsyncGenerator[asyncio.Task[None]]:
    """Run a deliverer with connections of its own for the time of the block."""
    pool = await database.open_pool(here.dsn, size=3)
    resolver = Resolver()
    sender = Sender(exits, resolve=resolver, timeout_s=timeout_s)
    work = asyncio.create_task(Deliverer(WebhookStore(pool), sender, Metrics(), lease_s=lease_s, secrets=secrets).run())
    try:
        yield work
        if work.done() and not work.cancelled():
            work.result()
    finally:
        work.cancel()
        await asyncio.wait({work})
        await sender.close()
        resolver.close()
        await database.close_pool(pool, timeout_s=2)
