"""The places launchers are tested in: processes of this host, and a Nomad, be it a stub or a real one."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Protocol
from uuid import uuid4

import httpx

from greenroom.common.clock import SystemClock, utcnow
from greenroom.scheduler.launchers.base import ColdStart, Instance, Launcher, LauncherUnavailable
from greenroom.scheduler.launchers.nomad import NomadLauncher
from greenroom.scheduler.launchers.nomad_client import NomadClient, http_client, token_from
from greenroom.scheduler.launchers.nomad_names import JobNames
from greenroom.scheduler.launchers.nomad_wire import META_KEYS
from greenroom.scheduler.launchers.process import ProcessLauncher, stop_all

# A runner that is ready at once and ends when told to.
STAND_IN: Final = (sys.executable, "-I", "-S", "-c", "import signal; signal.pause()")
# A real agent needs a second or two to start a task.
_EVENTUALLY_S: Final = 20.0


class World(Protocol):
    """Where a launcher works.

    Attributes:
        pool: one that has nothing yet.
        other: another.
    """

    pool: str
    other: str

    def scheduler(self) -> contextlib.AbstractAsyncContextManager[Launcher]:
        """Give a launcher that runs for the time of the block, as that of a leading scheduler."""
        ...

    def bystander(self) -> contextlib.AbstractAsyncContextManager[Launcher]:
        """Give a launcher that doesn't follow what happens."""
        ...

    async def interrupted_cold_start(self, start: ColdStart) -> None:
        """Ask for a cold start, from a scheduler that goes before it hears the answer."""
        ...


class ProcessWorld:
    """See `World`: stand-ins for runners as processes of this host."""

    pool = "blue"
    other = "green"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def launcher(self, command: Sequence[str] = STAND_IN, **options: float) -> ProcessLauncher:
        """Return a launcher."""
        return ProcessLauncher(
            self.folder, clock=SystemClock(), env=os.environ, command=lambda: command, kill_after_s=5.0, **options
        )

    @contextlib.asynccontextmanager
    async def scheduler(self) -> AsyncGenerator[Launcher]:
        """Give a launcher that runs."""
        async with self.bystander() as launcher, running(launcher):
            yield launcher

    @contextlib.asynccontextmanager
    async def bystander(self) -> AsyncGenerator[Launcher]:
        """Give a launcher that doesn't."""
        yield self.launcher()

    async def interrupted_cold_start(self, start: ColdStart) -> None:
        """Start the process and be cancelled before it has entered itself."""
        launcher = self.launcher()
        asking = asyncio.create_task(launcher.cold_start(start))
        while not launcher._children._running and not asking.done():
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait({asking})

    async def clean(self) -> None:
        """End everything."""
        await stop_all(self.folder, clock=SystemClock(), timeout_s=2.0)


class NomadWorld:
    """See `World`: two pools of a Nomad, each with its jobs.

    Args:
        address: of Nomad.
        token: to it.
    """

    def __init__(self, address: str, token: str = "") -> None:
        self.address = address
        self.token = token
        run = uuid4().hex[:8]
        self.pool, self.other = f"blue{run}", f"green{run}"
        self.names = JobNames(runner="runner-{pool}", cold="runner-cold-{pool}", group="runner")

    def client(self) -> NomadClient:
        """Return a client."""
        return NomadClient(http_client(self.address), token=token_from(self.token, None), namespace="default")

    def launcher(self, client: NomadClient, **options: Any) -> NomadLauncher:
        """Return a launcher."""
        defaults: dict[str, Any] = {"scale_cooldown_s": 0.01}
        return NomadLauncher(client, self.names, clock=SystemClock(), **(defaults | options))

    @contextlib.asynccontextmanager
    async def scheduler(self) -> AsyncGenerator[Launcher]:
        """Give a launcher that runs."""
        async with self.bystander() as launcher, running(launcher):
            yield launcher

    @contextlib.asynccontextmanager
    async def bystander(self) -> AsyncGenerator[Launcher]:
        """Give a launcher that doesn't."""
        async with self.client() as client:
            yield self.launcher(client)

    async def interrupted_cold_start(self, start: ColdStart) -> None:
        """Have Nomad carry it out, and lose the answer."""
        http = http_client(self.address)
        http._transport = _LosesAnswers(http._transport)
        async with NomadClient(http, token=token_from(self.token, None), namespace="default") as client:
            with contextlib.suppress(LauncherUnavailable):
                await self.launcher(client).cold_start(start)

    async def make(self) -> None:
        """Register the jobs."""
        for pool in (self.pool, self.other):
            await self._post(cold_job(self.names.cold_job(pool)))
            await self._post(runner_job(self.names.runner_job(pool)))

    async def clean(self) -> None:
        """Stop all jobs."""
        async with self.client() as client:
            for pool in (self.pool, self.other):
                for prefix in (self.names.cold_job(pool), self.names.runner_job(pool)):
                    for job in (await client.jobs(prefix)).items:
                        await client.deregister(job.id)

    async def _post(self, spec: dict[str, Any]) -> None:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        async with httpx.AsyncClient(base_url=self.address, headers=headers, timeout=10) as http:
            (await http.post("/v1/jobs", json=spec)).raise_for_status()


class _LosesAnswers(httpx.AsyncBaseTransport):
    """Passes requests on; the answers of those that change something never arrive."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        if request.method != "GET":
            await response.aclose()
            raise httpx.ReadError("lost on its way", request=request)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


def cold_job(name: str) -> dict[str, Any]:
    """Return a parameterized job whose task waits for its end."""
    job = _job(name, "batch", count=1)
    job["Job"]["ParameterizedJob"] = {"Payload": "forbidden", "MetaRequired": list(META_KEYS), "MetaOptional": []}
    group = job["Job"]["TaskGroups"][0]
    group["RestartPolicy"] = {"Attempts": 0, "Mode": "fail"}
    group["ReschedulePolicy"] = {"Attempts": 0, "Unlimited": False}
    return job


def runner_job(name: str, *, maximum: int = 10, updates: bool = False) -> dict[str, Any]:
    """Return a service job with an empty group; with `updates` each change of it starts a deployment."""
    job = _job(name, "service", count=0)
    group = job["Job"]["TaskGroups"][0]
    group["Scaling"] = {"Min": 0, "Max": maximum, "Enabled": False, "Policy": {}}
    group["Update"] = {"MaxParallel": 1 if updates else 0}
    return job


def _job(name: str, kind: str, count: int) -> dict[str, Any]:
    task = {
        "Name": "runner",
        "Driver": "raw_exec",
        "Config": {"command": "/bin/sleep", "args": ["600"]},
        "Resources": {"CPU": 20, "MemoryMB": 10},
    }
    group = {"Name": "runner", "Count": count, "Tasks": [task]}
    return {"Job": {"ID": name, "Name": name, "Type": kind, "Datacenters": ["*"], "TaskGroups": [group]}}


@contextlib.asynccontextmanager
async def running(launcher: Launcher) -> AsyncGenerator[None]:
    """Have a launcher follow what happens for the time of the block."""
    task = asyncio.create_task(launcher.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def a_start(pool: str, *, session_id: str | None = None, epoch: int = 1, priority: int = 50) -> ColdStart:
    """Return a cold start for a session that nobody else has."""
    session_id = session_id or uuid4().hex
    launch_id = f"{session_id}-{epoch}"
    return ColdStart(
        launch_id=launch_id,
        runner_id=f"cold-{launch_id}",
        pool=pool,
        tenant="acme",
        session_id=session_id,
        epoch=epoch,
        deadline_at=utcnow() + timedelta(seconds=60),
        priority=priority,
    )


async def eventually[T](look: Callable[[], Awaitable[T]], expected: Callable[[T], bool]) -> T:
    """Look until what is seen is as expected, and return it."""
    deadline = asyncio.get_running_loop().time() + _EVENTUALLY_S
    while not expected(seen := await look()):
        assert asyncio.get_running_loop().time() < deadline, f"after {_EVENTUALLY_S:g} s still {seen}"
        await asyncio.sleep(0.02)
    return seen


async def until_running(launcher: Launcher, pool: str, count: int) -> Sequence[Instance]:
    """Wait until a pool has `count` instances and all of them run."""
    return await eventually(
        lambda: launcher.instances(pool), lambda all_: len(all_) == count and all(i.state == "running" for i in all_)
    )


async def until_gone(launcher: Launcher, pool: str, *ids: str) -> Sequence[Instance]:
    """Wait until a pool has none of these instances, and return those that it has."""
    return await eventually(lambda: launcher.instances(pool), lambda all_: not {i.id for i in all_} & set(ids))
