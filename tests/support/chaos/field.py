"""The servers of the runs, and one run on them: calls are published, the plan kills, and all is compared afterwards.

nats-server, PostgreSQL and the process from which recorders and storage are forked serve many runs; streams, database,
bucket and folder are a run's own.
"""

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final, NamedTuple

import httpx
import msgspec
from obstore.store import S3Store

from greenroom.common import topology, topology_admin
from greenroom.common.errors import GreenroomError
from greenroom.common.nats_broker import NatsBroker
from greenroom.devtools.embedded.nats import EmbeddedNats
from greenroom.devtools.process import free_port
from tests.support.buckets import environment
from tests.support.chaos.caller import Caller
from tests.support.chaos.calls import calls_of
from tests.support.chaos.nursery import Nursery, kill, running_nursery
from tests.support.chaos.plan import Kill, Plan, Victim
from tests.support.chaos.stage_clock import StageClock
from tests.support.chaos.verdict import Evidence, verdict
from tests.support.recorder_world import PATIENCE_S, quick_topology
from tests.support.servers import Databases, running_databases, wipe

_BUCKET: Final = "calls"
_POLL_S: Final = 0.02
# A recorder on a busy machine, whose broker is away too.
_START_S: Final = 60.0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a run; without problems it is as it should be."""

    plan: Plan
    problems: tuple[str, ...]
    # Until the last call was published and the last one killed was back; and until all was stored and sealed.
    played_s: float
    waited_s: dict[str, float]
    settled_s: float
    events: int
    audio_s: float


class Servers(NamedTuple):
    """What serves many runs."""

    nats: EmbeddedNats
    databases: Databases
    nursery: Nursery
    # The storage is started anew for each run, and each time that it was killed: here.
    storage_port: int


class Field:
    """Made by `running_field`."""

    def __init__(self, folder: Path, servers: Servers) -> None:
        self._folder = folder
        self._servers = servers

    async def run(self, plan: Plan) -> Report:
        """Play a plan. The logs of a run that has failed stay, in `{folder}/{seed}`."""
        folder = self._folder / str(plan.seed)
        if folder.exists():
            shutil.rmtree(folder)
        (folder / "recordings").mkdir(parents=True)
        await self._revive()
        await wipe(self._servers.nats)
        async with self._servers.databases.database() as dsn, contextlib.AsyncExitStack() as stack:
            broker = await NatsBroker.connect(self._servers.nats.url, name="chaos", timeout_s=PATIENCE_S)
            stack.push_async_callback(broker.close)
            await topology_admin.apply(broker)
            run = Run(plan, folder, self._servers, dsn)
            stack.push_async_callback(run.close)
            report = await run.play(broker)
        if not report.problems:
            shutil.rmtree(folder)
        return report

    async def _revive(self) -> None:
        """Start what a run that wasn't played to its end has left dead."""
        for server in (self._servers.nats, self._servers.databases.server):
            if not server.running:
                await server.start()


class Run:
    """One run, on what is empty."""

    def __init__(self, plan: Plan, folder: Path, servers: Servers, dsn: str) -> None:
        self._plan = plan
        self._folder = folder
        self._nats = servers.nats
        self._databases = servers.databases
        self._nursery = servers.nursery
        self._storage_port = servers.storage_port
        self._dsn = dsn
        self._pids: dict[Victim, int] = {}
        self._locks: dict[Victim, asyncio.Lock] = {victim: asyncio.Lock() for victim in plan.mortals}

    @property
    def _endpoint(self) -> str:
        return f"http://127.0.0.1:{self._storage_port}"

    async def play(self, broker: NatsBroker) -> Report:
        """Publish, kill, wait and compare; `broker` is the one who asks."""
        for victim in ("storage", *self._plan.recorders):
            if victim in self._plan.mortals:
                await self._start(victim)
        while not any(self._logged(recorder, "leadership_taken") for recorder in self._plan.recorders):
            await asyncio.sleep(_POLL_S)
        unplayed: list[str] = []
        async with contextlib.AsyncExitStack() as connections:
            callers: list[Caller] = []
            for call in calls_of(self._plan.seed):
                line = await NatsBroker.connect(self._nats.url, name=f"call {call.number}", timeout_s=PATIENCE_S)
                connections.push_async_callback(line.close)
                callers.append(Caller(line, self._plan.seed, call))
            began = asyncio.get_running_loop().time()
            clock = StageClock(asyncio.get_running_loop().time)
            try:
                async with asyncio.TaskGroup() as tasks:
                    for caller in callers:
                        tasks.create_task(caller.run(clock))
                    for each in self._plan.kills:
                        tasks.create_task(self._kill(each, clock))
            except* (AssertionError, GreenroomError, OSError) as errors:
                unplayed += [f"not played to its end: {error!r}" for error in errors.exceptions]
        played = asyncio.get_running_loop().time()
        found = await verdict(
            Evidence(
                seed=self._plan.seed,
                broker=broker,
                dsn=self._dsn,
                folder=self._folder / "recordings",
                bucket=_bucket(self._endpoint) if self._plan.bucket else None,
                callers=callers,
            )
        )
        return Report(
            plan=self._plan,
            problems=(*unplayed, *self._gave_up(), *found.problems),
            waited_s=found.waited_s,
            played_s=played - began,
            settled_s=asyncio.get_running_loop().time() - played,
            events=sum(len(caller.told) for caller in callers),
            audio_s=sum(caller.call.samples for caller in callers) / 16_000,
        )

    def _gave_up(self) -> list[str]:
        """Return which recorders have ended by themselves."""
        return [f"{each} has ended by itself" for each in self._plan.recorders if self._logged(each, "service_failed")]

    async def close(self) -> None:
        """Kill what is left of it."""
        for pid in self._pids.values():
            await kill(pid)

    async def _kill(self, each: Kill, clock: StageClock) -> None:
        await clock.until(each.at_s)
        async with self._locks[each.victim]:
            if each.victim == "nats":
                await self._nats.kill()
            elif each.victim == "postgres":
                await self._databases.server.kill()
            else:
                await kill(self._pids.pop(each.victim))
            self._log(f"{each.victim} is killed")
            await asyncio.sleep(each.away_s)
            with clock.held():
                await self._start(each.victim)
            self._log(f"{each.victim} is back")

    async def _start(self, victim: Victim) -> None:
        if victim == "nats":
            await self._nats.start()
        elif victim == "postgres":
            await self._databases.server.start()
        elif victim == "storage":
            await self._start_storage()
        else:
            await self._start_recorder(victim)

    async def _start_recorder(self, victim: Victim) -> None:
        """Start a recorder, and return when it says that it works."""
        before = self._logged(victim, "service_ready")
        self._pids[victim] = await self._nursery.spawn("recorder", self._log_of(victim), env=self._environment(victim))
        async with asyncio.timeout(_START_S):
            while self._logged(victim, "service_ready") == before:
                await asyncio.sleep(_POLL_S)

    def _log_of(self, victim: Victim) -> Path:
        return self._folder / f"{victim}.log"

    def _logged(self, victim: Victim, event: str) -> int:
        """Return how often a recorder has logged an event."""
        log = self._log_of(victim)
        return log.read_bytes().count(f'"event":"{event}"'.encode()) if log.exists() else 0

    async def _start_storage(self) -> None:
        self._pids["storage"] = await self._nursery.spawn(
            "storage",
            self._folder / "storage.log",
            env=_inherited() | environment(self._endpoint),
            argument=f"{self._storage_port} {self._folder / 'storage.journal'}",
        )
        async with httpx.AsyncClient() as client, asyncio.timeout(PATIENCE_S):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    (await client.put(f"{self._endpoint}/{_BUCKET}")).raise_for_status()
                    return
                await asyncio.sleep(_POLL_S)

    def _environment(self, victim: Victim) -> dict[str, str]:
        plan = self._plan
        env = _inherited() | {
            "NATS_URL": self._nats.url,
            "DATABASE_URL": self._dsn,
            "GREENROOM_RECORDINGS_DIR": str(self._folder / "recordings"),
            "GREENROOM_INSTANCE_ID": victim,
            "GREENROOM_LOG_FORMAT": "json",
            "OPENBLAS_NUM_THREADS": "1",
            "GREENROOM_PURGE_GRACE_S": str(plan.purge_grace_s),
            "GREENROOM_EVENT_BATCH": str(plan.event_batch),
            "GREENROOM_AUDIO_BATCH": str(plan.audio_batch),
        }
        if plan.bucket:
            env |= environment(self._endpoint) | {"GREENROOM_RECORDINGS_URL": f"s3://{_BUCKET}"}
        return env

    def _log(self, what: str) -> None:
        with (self._folder / "kills.log").open("a") as log:
            log.write(f"{time.strftime('%H:%M:%S', time.gmtime())}.{time.time_ns() // 10**6 % 1000:03d} {what}\n")


def _bucket(endpoint: str) -> S3Store:
    env = environment(endpoint)
    return S3Store(
        _BUCKET,
        endpoint=endpoint,
        region=env["AWS_REGION"],
        access_key_id=env["AWS_ACCESS_KEY_ID"],
        secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        client_options={"allow_http": True},
    )


def _inherited() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("GREENROOM_", "OTEL_"))}


@contextlib.asynccontextmanager
async def running_field(folder: Path) -> AsyncGenerator[Field]:
    """Run the servers for the time of the block; `folder` is theirs, and the runs'."""
    # What was in dead hands comes again after 1 s instead of 10.
    consumers, topology.CONSUMERS = topology.CONSUMERS, quick_topology()
    try:
        async with contextlib.AsyncExitStack() as stack:
            nursery = await stack.enter_async_context(running_nursery())
            nats = await stack.enter_async_context(EmbeddedNats(folder / "nats"))
            databases = await stack.enter_async_context(running_databases(folder / "postgres"))
            yield Field(folder, Servers(nats, databases, nursery, free_port()))
    finally:
        topology.CONSUMERS = consumers
