"""A runner inside the test: real broker, ledger and zygote, and session processes that play what they are told."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

from greenroom.common import subjects, topology_admin
from greenroom.common.broker import Message
from greenroom.common.clock import SystemClock, utcnow
from greenroom.common.ids import uuid7
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import Leased, Limits, Requested, Session, State, Transition
from greenroom.common.messages import Event, Heartbeat, StartAccepted, StartAnswer, StartSession, decode, encode
from greenroom.common.metrics import Metrics
from greenroom.common.nats_broker import NatsBroker
from greenroom.runner.app import Runner
from greenroom.runner.discovery import BotSpec
from greenroom.runner.instruments import Instruments
from greenroom.runner.settings import RunnerSettings
from greenroom.runner.supervisor import Supervisor

ROOT: Final = Path(__file__).parents[2]
STANDIN: Final = "tests.support.session_standins:run"
PATIENCE_S: Final = 20.0
# Short enough for a test, long enough to tell the steps of the ladder apart.
LIMITS: Final = Limits(start_timeout_s=5, join_timeout_s=60, end_timeout_s=1)


def environment(**more: str) -> dict[str, str]:
    """The environment of a zygote that can import this package."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


async def until(condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> None:
    """Wait until something is true."""
    async with asyncio.timeout(patience_s):
        while not condition():
            await asyncio.sleep(0.01)


def gone(process: psutil.Process) -> bool:
    """Tell whether a process has ended; what nobody has reaped yet counts."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Rig:
    """A running runner, and the side of the scheduler."""

    def __init__(self, broker: NatsBroker, settings: RunnerSettings, supervisor: Supervisor, metrics: Metrics) -> None:
        self.settings = settings
        self.supervisor = supervisor
        self.broker = broker
        self.ledger = Ledger(broker)
        self.heartbeats: list[Heartbeat] = []
        clock = SystemClock()
        self.metrics = metrics
        self.instruments = Instruments(metrics)
        self.runner = Runner(
            settings,
            broker=broker,
            ledger=Ledger(broker),
            supervisor=supervisor,
            clock=clock,
            instruments=self.instruments,
        )

    async def hear(self, message: Message) -> None:
        """Take a heartbeat."""
        self.heartbeats.append(decode(message.data, Heartbeat))

    @property
    def now(self) -> Heartbeat:
        """The last heartbeat."""
        return self.heartbeats[-1]

    async def lease(
        self, *, bot: str = "plain", limits: Limits = LIMITS, traceparent: str | None = None, **body: Any
    ) -> Entry:
        """Request a session, and lease it to the runner."""
        now = utcnow()
        session = Session(
            id=uuid7(),
            tenant="default",
            agent=bot,
            bot=bot,
            body=body,
            limits=limits,
            traceparent=traceparent,
            requested_at=now,
            queue_deadline_at=now,
        )
        return await self.lease_again(await self.ledger.create(Requested(session=session)))

    async def lease_again(self, entry: Entry) -> Entry:
        """Lease a session that waits."""
        expires_at = utcnow() + timedelta(seconds=10)
        leased = Leased(runner_id=self.settings.runner_id, epoch=entry.session.epoch + 1, expires_at=expires_at)
        return await self.ledger.advance(entry, leased)

    async def send_start(self, entry: Entry) -> StartAnswer:
        """Tell the runner to start a leased session."""
        tokens = {"pool": self.settings.pool, "runner_id": self.settings.runner_id}
        subject = subjects.RUNNER_CMD.format(name="start", **tokens)
        body = encode(StartSession(session=entry.session, revision=entry.revision))
        reply = await self.broker.request(subject, body, timeout_s=5)
        return msgspec.json.decode(reply.data, type=StartAnswer)

    async def start(self, *, bot: str = "plain", limits: Limits = LIMITS, **body: Any) -> str:
        """Request, lease and start a session that plays `body`; return its id."""
        entry = await self.lease(bot=bot, limits=limits, **body)
        answer = await self.send_start(entry)
        assert isinstance(answer, StartAccepted), answer
        return entry.session.id

    async def move(self, session_id: str, transition: Transition) -> Entry:
        """Write into the ledger as somebody else."""
        return await self.ledger.move("default", session_id, lambda _: transition)

    async def reaches(self, session_id: str, state: State, patience_s: float = PATIENCE_S) -> Session:
        """Wait until a session is in a state, and return it."""
        async with asyncio.timeout(patience_s):
            while True:
                entry = await self.ledger.last("default", session_id)
                if entry is not None and entry.session.state is state:
                    return entry.session
                await asyncio.sleep(0.01)

    async def ended(self, session_id: str, patience_s: float = PATIENCE_S) -> Session:
        """Wait until a session has ended, and return it."""
        return await self.reaches(session_id, State.ENDED, patience_s)

    def process_of(self, session_id: str) -> psutil.Process:
        """The process that runs a session."""
        [pid] = [
            session._process.pid
            for key, session in self.runner._sessions.items()
            if key[0] == session_id
            if session._process
        ]
        return psutil.Process(pid)

    async def events(self, session_id: str, kind: str) -> list[dict[str, Any]]:
        """Return the data of a session's events of a type, in order; all that were published by now."""
        subject = subjects.SESSION_EVENT.format(tenant="default", session_id=session_id, type=kind)
        return [decode(message.data, Event).data for message in await read_all(self.broker, subject)]

    async def warm(self) -> None:
        """Wait until nothing runs, as many processes stand by as shall, and the heartbeat says so."""

        def idle(heartbeat: Heartbeat) -> bool:
            standby = self.settings.standby_target
            return not heartbeat.sessions and heartbeat.standby == standby and bool(heartbeat.bots)

        await until(lambda: idle(self.runner.heartbeat()) and self.heartbeats and idle(self.now))


async def read_all(broker: NatsBroker, subject: str) -> list[Message]:
    """Return the messages of a subject of the stream of sessions."""
    count = await broker.count("SESSIONS", subject)
    found: list[Message] = []
    reader = await broker.read("SESSIONS", [subject], after=0)
    messages = aiter(reader)
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < count:
            found.append(await anext(messages))
    await reader.close()
    return found


@asynccontextmanager
async def running_runner(
    nats_url: str, *, run: str = STANDIN, rehearse: bool = False, env: dict[str, str] | None = None, **settings: Any
) -> AsyncGenerator[Rig]:
    """Run a runner with the bots of `tests.support.standin_bots` for the time of the block."""
    defaults: dict[str, Any] = {"nats_url": nats_url, "instance_id": f"test-{uuid7()[-8:]}", "slots": 3, "standby": 2}
    # Whatever else the machine computes, tests go on.
    defaults["brake_cpu_pressure_percent"] = 0.0
    chosen = RunnerSettings(**{**defaults, **settings})
    bots = tuple(
        BotSpec(name=name, version=chosen.version_of(name), target=f"tests.support.standin_bots:{name}")
        for name in ("plain", "missing")
    )
    broker = await NatsBroker.connect(nats_url, name="runner-test")
    await topology_admin.apply(broker)
    supervisor = Supervisor(
        chosen, bots, clock=SystemClock(), environment=env or environment(), run=run, rehearse=rehearse
    )
    rig = Rig(broker, chosen, supervisor, Metrics())
    heartbeats = subjects.RUNNER_HEARTBEAT.format(pool=chosen.pool, runner_id=chosen.runner_id)
    await broker.subscribe(heartbeats, rig.hear)
    running = asyncio.create_task(rig.runner.run())
    try:
        await rig.warm()
        yield rig
    finally:
        running.cancel()
        await asyncio.wait({running})
        await broker.close()
        if not running.cancelled() and (error := running.exception()):
            raise error
