"""The runner as a process of its own, with the real session process."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import msgspec
import psutil

from greenroom.common import subjects, topology_admin
from greenroom.common.broker import Message
from greenroom.common.clock import utcnow
from greenroom.common.ids import uuid7
from greenroom.common.ledger import Ledger
from greenroom.common.lifecycle import Leased, Limits, Outcome, Requested, Session, State
from greenroom.common.messages import Heartbeat, StartAccepted, StartAnswer, StartSession, decode, encode
from greenroom.common.nats_broker import NatsBroker
from tests.support.runner_rig import environment, gone, until

PATIENCE_S = 40.0
LIMITS = Limits(end_timeout_s=2)


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

    async def start(self, bot: str, *, wait: State | None = State.READY) -> str:
        """Have a session started; return its id once it is in a state."""
        now = utcnow()
        session = Session(
            id=uuid7(), tenant="default", agent=bot, bot=bot, limits=LIMITS, requested_at=now, queue_deadline_at=now
        )
        requested = await self.ledger.create(Requested(session=session))
        lease = Leased(runner_id=self.runner_id, epoch=1, expires_at=now + timedelta(seconds=10))
        entry = await self.ledger.advance(requested, lease)
        subject = subjects.RUNNER_CMD.format(pool="default", runner_id=self.runner_id, name="start")
        body = encode(StartSession(session=entry.session, revision=entry.revision))
        reply = await self.broker.request(subject, body, timeout_s=5)
        assert isinstance(msgspec.json.decode(reply.data, type=StartAnswer), StartAccepted)
        if wait is not None:
            await self.reaches(session.id, wait)
        return session.id

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


@asynccontextmanager
async def runner_process(nats_url: str) -> AsyncGenerator[RunnerProcess]:
    """Run a runner with test bots until it is warm; kill it at the end, if it still runs."""
    runner_id = f"runner-{uuid7()[-8:]}"
    bots = {
        "echo": "tests.support.session_bots:echo",
        "spawner": "tests.support.standin_bots:spawner",
        "frozen": "tests.support.standin_bots:frozen",
    }
    env = environment(
        NATS_URL=nats_url,
        GREENROOM_INSTANCE_ID=runner_id,
        GREENROOM_SLOTS="4",
        GREENROOM_STANDBY="2",
        GREENROOM_DRAIN_TIMEOUT_S="30",
        GREENROOM_BOTS=",".join(f"{name}={target}" for name, target in bots.items()),
    )
    broker = await NatsBroker.connect(nats_url, name="runner-process-test")
    await topology_admin.apply(broker)
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "greenroom.runner", env=env)
    made = RunnerProcess(process, broker, runner_id)
    await broker.subscribe(subjects.RUNNER_HEARTBEAT.format(pool="default", runner_id=runner_id), made.hear)
    try:
        await until(lambda: made.heartbeats and made.heartbeats[-1].standby == 2, PATIENCE_S)
        yield made
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await broker.close()


async def test_nothing_outlives_a_runner_that_is_killed(nats_url: str) -> None:
    """1.5 s after a SIGKILL of the runner its zygote, its standbys and its sessions, hanging ones too, are gone."""
    async with runner_process(nats_url) as it:
        await it.start("echo")
        await it.start("frozen", wait=State.STARTED)
        await asyncio.sleep(0.2)
        family = it.family()
        assert len(family) >= 3
        it.process.kill()
        await until(lambda: all(gone(each) for each in family), 1.5)


async def test_an_idle_runner_stops_at_once(nats_url: str) -> None:
    """SIGTERM ends a runner without sessions with exit code 0, and leaves nothing."""
    async with runner_process(nats_url) as it:
        family = it.family()
        it.process.send_signal(signal.SIGTERM)
        assert await it.exit_code() == 0
        await until(lambda: all(gone(each) for each in family), 1.0)


async def test_the_second_signal_ends_the_calls(nats_url: str) -> None:
    """The first SIGTERM lets a call go on; the second ends it in order, and the runner leaves with exit code 0."""
    async with runner_process(nats_url) as it:
        session_id = await it.start("echo")
        it.process.send_signal(signal.SIGTERM)
        await until(lambda: it.heartbeats[-1].draining)
        await asyncio.sleep(0.5)
        assert len(it.heartbeats[-1].sessions) == 1
        it.process.send_signal(signal.SIGTERM)
        ended = await it.reaches(session_id, State.ENDED)
        assert (ended.outcome, ended.reason) == (Outcome.FAILED, "drain-deadline")
        assert await it.exit_code() == 0


async def test_whoever_escapes_from_the_group_of_a_session_is_killed_too(nats_url: str) -> None:
    """A process that a bot has started in a session of its own is killed once the bot's process is gone."""
    async with runner_process(nats_url) as it:
        await it.start("spawner")
        [escaped] = [each for each in it.family() if "time.sleep(300)" in " ".join(each.cmdline())]
        [parent] = [each for each in it.family() if each.pid == escaped.ppid()]
        await asyncio.sleep(1.2)  # longer than strays are looked for: as long as its session lives, it is none
        assert not gone(escaped)
        parent.kill()
        await until(lambda: gone(escaped), 3.0)


async def test_settings_that_are_wrong_end_the_runner(tmp_path: Path) -> None:
    """A runner whose settings are wrong says which, and leaves with exit code 78."""
    env = {**os.environ, "GREENROOM_SLOTS": "many"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "greenroom.runner", env=env, cwd=tmp_path, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(PATIENCE_S):
        _, complaint = await process.communicate()
    assert process.returncode == 78
    assert b"GREENROOM_SLOTS is 'many'" in complaint
