"""What the tests of the api play with: the service in this process, on real servers, and fakes of what is behind it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final, Self

import asyncpg
import httpx
import msgspec

from greenroom.api.parts import Parts
from greenroom.api.server import listen, make_server
from greenroom.api.settings import ApiSettings
from greenroom.api.store import open_store
from greenroom.common import media_frames as frames
from greenroom.common import messages, subjects, topology_admin
from greenroom.common.broker import Message, Subscription
from greenroom.common.clock import utcnow
from greenroom.common.consumer import Drop
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.health import Readiness
from greenroom.common.ids import uuid7
from greenroom.common.ledger import STREAM, Entry, Ledger
from greenroom.common.lifecycle import Ended, Leased, Outcome, Ready, Requested, Session, Started, Transition
from greenroom.common.media_messages import ConnectMedia, MediaAccepted, MediaRefused
from greenroom.common.messages import BotOffer, Heartbeat
from greenroom.common.metrics import Metrics
from greenroom.common.nats_broker import NatsBroker
from greenroom.devtools import keys
from greenroom.recorder import database, ingest
from greenroom.recorder.store import Store as RecorderStore

RUNNER: Final = "runner-1"
# Every wait of these tests ends by then; the machine may be busy with others.
PATIENCE_S: Final = 30.0


async def eventually[T](look: Callable[[], Awaitable[T]], wanted: Callable[[T], object] = bool) -> T:
    """Return what `look` returns once that is `wanted`.

    Raises:
        AssertionError: it wasn't in time; the text says what it was.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not wanted(found := await look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {PATIENCE_S:g} s; at last it was {found!r}")
        await asyncio.sleep(0.02)
    return found


async def until[T](look: Callable[[], T]) -> T:
    """Return what `look` returns once that is true; raises as `eventually`."""

    async def looked() -> T:
        return look()

    return await eventually(looked)


class ApiWorld:
    """A running api, and the other side of what it talks to.

    Args:
        broker: a connection of the test's own.
        dsn: the database of the api.
        parts: the api.
        url: where it listens, `http://…`.
        nats_url: where the broker is.
        metrics: of the api.
    """

    def __init__(
        self, *, broker: NatsBroker, dsn: str, parts: Parts, url: str, nats_url: str, metrics: Metrics
    ) -> None:
        self.broker = broker
        self.nats_url = nats_url
        self.dsn = dsn
        self.parts = parts
        self.url = url
        self.metrics = metrics
        self.ledger = Ledger(broker)

    def counted(self, name: str, **labels: str) -> float:
        """Return a metric of the api."""
        return self.metrics.registry.get_sample_value(f"greenroom_{name}", labels) or 0.0

    # ------------------------------------------------------------------------ callers

    async def key(self, *scopes: str, tenant: str = "default") -> str:
        """Return a new key; without scopes it may do everything."""
        return await keys.create(self.dsn, tenant=tenant, name="test", scopes=scopes or ("*",))

    @contextlib.asynccontextmanager
    async def client(self, *scopes: str, tenant: str = "default") -> AsyncGenerator[httpx.AsyncClient]:
        """Give a client with a key of its own."""
        headers = {"authorization": f"Bearer {await self.key(*scopes, tenant=tenant)}"}
        async with httpx.AsyncClient(base_url=self.url, headers=headers, timeout=PATIENCE_S) as client:
            yield client

    # ------------------------------------------------------------------------ what is behind

    async def execute(self, query: str, *values: object) -> None:
        """Change the database."""
        connection = await asyncpg.connect(self.dsn)
        try:
            await connection.execute(query, *values)
        finally:
            await connection.close()

    async def add_agent(self, name: str = "echo", **fields: Any) -> None:
        """Store an agent that all tenants may use."""
        row = {"tenant": "*", "name": name, "version": 1, "bot": name, "pool": "default", "description": ""}
        row |= {"recording": {}}
        row |= {"config": {}, "limits": {}, "on_loss": "before_media", "transports": ["websocket"], **fields}
        # A runner may have announced it a moment before.
        query = """
            INSERT INTO agents SELECT * FROM jsonb_populate_record(NULL::agents, $1::jsonb)
            ON CONFLICT (tenant, name, version) DO UPDATE
            SET (bot, pool, recording, config, limits, on_loss, transports)
            = (SELECT excluded.bot, excluded.pool, excluded.recording, excluded.config, excluded.limits,
                excluded.on_loss, excluded.transports)
        """
        await self.execute(query, msgspec.json.encode({**row, "created_at": utcnow(), "updated_at": utcnow()}).decode())

    async def beat(self, *offers: BotOffer, runner_id: str = RUNNER, **fields: Any) -> None:
        """Send a heartbeat."""
        values: dict[str, Any] = {"pool": "default", "slots": 4, "seq": 1, "started_at": utcnow(), **fields}
        beat = Heartbeat(runner_id=runner_id, at=utcnow(), bots=offers, **values)
        subject = subjects.RUNNER_HEARTBEAT.format(pool=beat.pool, runner_id=runner_id)
        await self.broker.publish(subject, messages.encode(beat))

    async def request(self, *, tenant: str = "default", **fields: Any) -> Entry:
        """Ask for a session, past the api."""
        values: dict[str, Any] = {"agent": "echo", "bot": "echo", "id": uuid7(), **fields}
        session = Session(tenant=tenant, requested_at=utcnow(), queue_deadline_at=utcnow(), **values)
        return await self.ledger.create(Requested(session=session))

    async def advance(self, session_id: str, *transitions: Transition, tenant: str = "default") -> Entry:
        """Move a session on, step by step."""
        entry = await self.ledger.last(tenant, session_id)
        assert entry is not None
        for transition in transitions:
            entry = await self.ledger.advance(entry, transition)
        return entry

    async def make_ready(self, session_id: str, tenant: str = "default") -> Entry:
        """Place and start a session."""
        return await self.advance(session_id, *READY, tenant=tenant)

    async def end(self, session_id: str, outcome: Outcome = Outcome.COMPLETED, reason: str = "goodbye") -> Entry:
        """End a session of epoch 1."""
        return await self.advance(session_id, Ended(by="runner", epoch=1, outcome=outcome, reason=reason))

    async def record(self) -> None:
        """Have everything that is in the stream stored, as the recorder does it."""
        reader = await self.broker.read(STREAM, [subjects.SESSION_ALL.wildcard()], after=0)
        batch: list[ingest.Incoming] = []
        try:
            async for message in reader:
                with contextlib.suppress(Drop):
                    batch.append(ingest.decode(message))
                if reader.caught_up.is_set():
                    break
        finally:
            await reader.close()
        pool = await database.open_pool(self.dsn, size=1)
        try:
            recorder = ingest.Ingest(
                broker=self.broker,
                store=RecorderStore(pool),
                on_ended=lambda _session: None,
                metrics=Metrics(),
                max_batch=len(batch),
            )
            await recorder.handle(batch)
        finally:
            await pool.close()

    async def publish(self, session_id: str, kind: str, data: bytes = b"{}", tenant: str = "default") -> int:
        """Publish an event as any service may."""
        subject = subjects.SESSION_EVENT.format(tenant=tenant, session_id=session_id, type=kind)
        return await self.broker.append(subject, data)


LEASED: Final = Leased(runner_id=RUNNER, epoch=1, expires_at=utcnow())
READY: Final = (LEASED, Started(runner_id=RUNNER, epoch=1), Ready(epoch=1))


class FakeProcess:
    """A session process, as far as its media goes: it takes one client and remembers what it hears.

    Args:
        world: where.
        session_id: whose.
        refuse: refuse the client with this code.
        echo: send each frame back.
    """

    def __init__(self, world: ApiWorld, session_id: str, *, refuse: str | None = None, echo: bool = False) -> None:
        self.connects: list[ConnectMedia] = []
        self.heard: list[tuple[int, int, bytes]] = []
        self._broker = world.broker
        self._tokens = {"tenant": "default", "session_id": session_id}
        self._refuse = refuse
        self._echo = echo
        self._next = 0
        self._subscriptions: list[Subscription] = []

    async def __aenter__(self) -> Self:
        """Begin to listen."""
        connect = subjects.SESSION_CMD.format(**self._tokens, name="connect")
        self._subscriptions = [
            await self._broker.subscribe(subjects.SESSION_MEDIA.format(**self._tokens, direction="in"), self._on_frame),
            await self._broker.serve(connect, self._on_connect),
        ]
        await self._broker.client.flush()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Vanish."""
        await self.vanish()

    async def vanish(self) -> None:
        """Hear and answer nothing any more."""
        while self._subscriptions:
            await self._subscriptions.pop().unsubscribe()

    @property
    def payloads(self) -> list[bytes]:
        """What the client said, closing aside."""
        return [payload for kind, _, payload in self.heard if kind != frames.CLOSE]

    @property
    def closes(self) -> list[frames.Close]:
        """How the client left."""
        return [frames.decode_close(payload) for kind, _, payload in self.heard if kind == frames.CLOSE]

    async def send(self, payload: bytes, *, kind: int = frames.BINARY, skip: int = 0) -> None:
        """Send a frame to the client, `skip` numbers further than it should be."""
        self._next += skip
        frame = frames.encode(kind, self._next, payload)
        self._next += 1
        await self._broker.publish(subjects.SESSION_MEDIA.format(**self._tokens, direction="out"), frame)

    async def close(self, code: int, reason: str = "") -> None:
        """Close the client's socket."""
        payload = frames.encode_close(0, frames.Close(code=code, reason=reason))[frames.HEAD.size :]
        await self.send(payload, kind=frames.CLOSE)

    async def _on_connect(self, message: Message) -> bytes:
        request = messages.decode(message.data, ConnectMedia)
        self.connects.append(request)
        if self._refuse is not None:
            return messages.encode(MediaRefused(code=self._refuse))
        return messages.encode(MediaAccepted(connection_id=request.connection_id))

    async def _on_frame(self, message: Message) -> None:
        kind, number, payload = frames.decode(message.data)
        self.heard.append((kind, number, payload))
        if self._echo and kind != frames.CLOSE:
            await self.send(payload, kind=kind)


def settings(nats_url: str, dsn: str, **fields: Any) -> ApiSettings:
    """Return settings for a test; whatever the environment says."""
    return ApiSettings(nats_url=nats_url, database_url=dsn, instance_id="api-test", **fields)


@contextlib.asynccontextmanager
async def running_api(nats_url: str, dsn: str, *, first: bool = True, **fields: Any) -> AsyncGenerator[ApiWorld]:
    """Run an api in this process, with the agent `echo` if it is the `first` one there; `fields` are settings."""
    chosen = settings(nats_url, dsn, **fields)
    metrics, readiness = Metrics(), Readiness()
    readiness.phase = None  # what is never started up is never starting
    async with contextlib.AsyncExitStack() as closing:
        own = await NatsBroker.connect(nats_url, name="test")
        closing.push_async_callback(own.close)
        await topology_admin.apply(own)
        broker = await NatsBroker.connect(nats_url, name="api under test")
        closing.push_async_callback(broker.close)
        readiness.add("broker", lambda: None if broker.connected else BrokerUnavailable.code)
        store = await open_store(dsn)
        closing.push_async_callback(store.close)
        parts = Parts(broker=broker, store=store, settings=chosen, metrics=metrics, readiness=readiness)
        await closing.enter_async_context(parts.running())
        listening = listen("127.0.0.1", 0)
        server = make_server(parts.app, chosen)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        await until(lambda: server.started)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        world = ApiWorld(broker=own, dsn=dsn, parts=parts, url=url, nats_url=nats_url, metrics=metrics)
        if first:
            await world.add_agent()
        try:
            yield world
        finally:
            await parts.streams.drain()
            server.should_exit = True
            await serving


def problem_of(response: httpx.Response) -> dict[str, Any]:
    """Return the problem details of an answer, checked for what all of them have."""
    assert response.headers["content-type"] == "application/problem+json"
    problem = msgspec.json.decode(response.content, type=dict[str, Any])
    assert problem["status"] == response.status_code
    assert problem["type"] == f"/errors/{problem['code']}"
    assert isinstance(problem["retryable"], bool)
    return problem
