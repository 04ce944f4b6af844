"""The runner as a process of its own, with the real session process, and a scheduler's view of it."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final

import msgspec
import psutil

from greenroom.common import subjects, topology_admin
from greenroom.common.broker import Message
from greenroom.common.clock import utcnow
from greenroom.common.ids import uuid7
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import Ending, Leased, Limits, Outcome, Requested, Session, State
from greenroom.common.messages import Heartbeat, StartAccepted, StartAnswer, StartSession, decode, encode
from greenroom.common.nats_broker import NatsBroker
from tests.support.runner_rig import environment, until

PATIENCE_S: Final = 40.0
LIMITS: Final = Limits(end_timeout_s=2)
_BOTS: Final = {
    "echo": "tests.support.session_bots:echo",
    "minded": "tests.support.session_bots:minded",
    "spawner": "tests.support.standin_bots:spawner",
    "frozen": "tests.support.standin_bots:frozen",
    "blocking": "tests.support.watched_bots:blocking",
    "broken": "tests.support.no_such_module:bot",
}


class RunnerProcess:
    """`python -m greenroom.runner`, and a scheduler's view of it."""

    def __init__(self, process: asyncio.subprocess.Process, broker: NatsBroker, runner_id: str) -> None:
        self.process = process
        self.broker = broker
        self.ledger = Ledger(broker)
        self.runner_id = runner_id
        self.heartbeats: list[Heartbeat] = []

    async def hear(self, message: Message) -> None:
        """Take a heartbeat."""
        self.heartbeats.append(decode(message.data, Heartbeat))

    async def start(self, bot: str, *, wait: State | None = State.READY, **fields: Any) -> str:
        """Have a session started; return its id once it is in a state."""
        return await self.begin(await request(self.ledger, bot, **fields), wait=wait)

    async def stop(self, session_id: str) -> None:
        """Write into the ledger that a client wants it to end."""
        await self.ledger.move(
            "default",
            session_id,
            lambda now: Ending(by="client", epoch=now.epoch, outcome=Outcome.COMPLETED, reason="client-stop"),
        )

    async def begin(self, requested: Entry, *, wait: State | None = State.READY) -> str:
        """Have a session started that was requested; return its id once it is in a state."""
        epoch = requested.session.epoch + 1
        lease = Leased(runner_id=self.runner_id, epoch=epoch, expires_at=utcnow() + timedelta(seconds=10))
        entry = await self.ledger.advance(requested, lease)
        subject = subjects.RUNNER_CMD.format(pool="default", runner_id=self.runner_id, name="start")
        body = encode(StartSession(session=entry.session, revision=entry.revision))
        reply = await self.broker.request(subject, body, timeout_s=5)
        assert isinstance(msgspec.json.decode(reply.data, type=StartAnswer), StartAccepted)
        if wait is not None:
            await self.reaches(entry.session.id, wait)
        return entry.session.id

    async def reaches(self, session_id: str, state: State) -> Session:
        """Wait until a session is in a state."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                entry = await self.ledger.last("default", session_id)
                if entry is not None and entry.session.state is state:
                    return entry.session
                await asyncio.sleep(0.02)

    def family(self) -> list[psutil.Process]:
        """The zygote, the session processes and whatever they have started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    async def exit_code(self) -> int:
        """Wait for the end of the runner."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.process.wait()


async def request(ledger: Ledger, bot: str, **fields: Any) -> Entry:
    """Ask for a session of a bot."""
    now = utcnow()
    known: dict[str, Any] = {"id": uuid7(), "tenant": "default", "agent": bot, "bot": bot, "limits": LIMITS} | fields
    session = Session(requested_at=now, queue_deadline_at=now, **known)
    return await ledger.create(Requested(session=session))


async def lease_cold(ledger: Ledger, entry: Entry, *, lasts_s: float = 60.0) -> Entry:
    """Lease a session to a runner that isn't there yet."""
    epoch = entry.session.epoch + 1
    runner_id = f"cold-{entry.session.id}-{epoch}"
    expires_at = utcnow() + timedelta(seconds=lasts_s)
    return await ledger.advance(entry, Leased(runner_id=runner_id, epoch=epoch, expires_at=expires_at, cold=True))


@asynccontextmanager
async def scheduler_side(nats_url: str) -> AsyncGenerator[Ledger]:
    """The ledger of a fresh broker."""
    broker = await NatsBroker.connect(nats_url, name="runner-process-test")
    await topology_admin.apply(broker)
    try:
        yield Ledger(broker)
    finally:
        await broker.close()


@asynccontextmanager
async def process_of_runner(
    nats_url: str, *, arguments: tuple[str, ...] = (), **env: str
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Run a runner with test bots; kill it at the end, if it still runs.

    Args:
        nats_url: where its broker is, or will be.
        arguments: of the command.
        env: further settings.
    """
    settings = {
        "NATS_URL": nats_url,
        "GREENROOM_SLOTS": "4",
        "GREENROOM_STANDBY": "2",
        "GREENROOM_DRAIN_TIMEOUT_S": "30",
        # Whatever else the machine computes, tests go on.
        "GREENROOM_BRAKE_CPU_PRESSURE_PERCENT": "0",
        "GREENROOM_BOTS": ",".join(f"{name}={target}" for name, target in _BOTS.items()),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "greenroom.runner", *arguments, env=environment(**settings | env)
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def runner_process(
    nats_url: str, *, runner_id: str = "", arguments: tuple[str, ...] = (), **env: str
) -> AsyncGenerator[RunnerProcess]:
    """Run a runner and listen to it; one without a claim until it is warm.

    Args:
        nats_url: of a server.
        runner_id: the id that its claim gives it; default: a new one, and no claim.
        arguments: of the command.
        env: further settings.
    """
    instance_id = f"runner-{uuid7()[-8:]}"
    broker = await NatsBroker.connect(nats_url, name="runner-process-test")
    await topology_admin.apply(broker)
    try:
        async with process_of_runner(
            nats_url, arguments=arguments, GREENROOM_INSTANCE_ID=instance_id, **env
        ) as process:
            made = RunnerProcess(process, broker, runner_id or instance_id)
            heartbeats = subjects.RUNNER_HEARTBEAT.format(pool="default", runner_id=made.runner_id)
            await broker.subscribe(heartbeats, made.hear)
            if not runner_id:
                await until(lambda: made.heartbeats and made.heartbeats[-1].standby == 2, PATIENCE_S)
            yield made
    finally:
        await broker.close()
