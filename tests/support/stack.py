"""A whole Greenroom for end-to-end tests: real services as processes, real NATS and PostgreSQL."""

import asyncio
import contextlib
import math
import os
import signal
from array import array
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import psutil

from greenroom.devtools.client import ApiClient, ApiProblem, ApiUnreachable
from greenroom.devtools.stack import Stack
from greenroom.devtools.state import Connection
from greenroom.runner.turn_detector import NAME as TURN_DETECTOR

# Every wait of these tests ends by then; the machine may be busy with another test run.
PATIENCE_S = 40.0
STANDBY = 2
# How long a stack may still be busy with what a test has left behind.
_IDLE_WITHIN_S = 10.0


class RunningStack:
    """A started stack with what tests ask of it."""

    def __init__(self, stack: Stack, log: Path) -> None:
        self.stack = stack
        self.log = log

    @property
    def connection(self) -> Connection:
        """Where the API is, with the development key."""
        return Connection(api_url=self.stack.api_url, api_key=self.stack.api_key)

    def client(self) -> ApiClient:
        """Return a client of the API."""
        return ApiClient(self.connection)

    async def kill(self, service: str) -> None:
        """End a service with SIGKILL and wait until it is gone."""
        process = self.stack.services[service]
        process.signal(signal.SIGKILL)
        await process.exited()

    async def start_again(self, service: str) -> None:
        """Start a service that was killed, and wait until it is ready."""
        await (await self.stack.start_service(service)).wait_ready(PATIENCE_S)

    def session_processes(self) -> list[psutil.Process]:
        """Return the session processes that run now, those that stand by included."""
        with contextlib.suppress(psutil.NoSuchProcess):
            runner = psutil.Process(self.stack.services["runner"].pid)
            forked = [child for zygote in runner.children() for child in zygote.children()]
            return [child for child in forked if child.name() != TURN_DETECTOR]
        return []


class Stacks:
    """A stack for tests that break it and mend it again; a new one after a test that didn't mend it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._stack: RunningStack | None = None
        self._closing = contextlib.AsyncExitStack()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator["Stacks"]:
        """Stop the last one at the end of the block."""
        try:
            yield self
        finally:
            await self._closing.aclose()

    async def whole(self) -> RunningStack:
        """Return a stack that runs, all of it, without any session."""
        if self._stack is None or not await _is_whole(self._stack):
            await self._closing.aclose()
            self._count += 1
            self._stack = await self._closing.enter_async_context(running_stack(self._folder / str(self._count)))
        return self._stack


async def _is_whole(stack: RunningStack) -> bool:
    """Tell whether all of a stack runs, and its runner has, or gets within some seconds, nothing to do."""
    servers = [server for server in (stack.stack.nats, stack.stack.postgres) if server is not None]
    if not all(part.running for part in [*servers, *stack.stack.services.values()]):
        return False
    with contextlib.suppress(TimeoutError, ApiProblem, ApiUnreachable, AssertionError):
        async with asyncio.timeout(_IDLE_WITHIN_S), stack.client() as client:
            while (runner := await the_runner(client))["sessions"] or runner["standby"] < STANDBY:
                await asyncio.sleep(0.1)
            return True
    return False


@contextlib.asynccontextmanager
async def running_stack(folder: Path, *, without: Sequence[str] = (), **env: str) -> AsyncGenerator[RunningStack]:
    """Run a stack for the time of the block, some services left out; its log is `services.log` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "services.log"
    with log.open("a") as file:

        def write(name: str, line: str) -> None:
            print(f"{name:>9} {line}", file=file, flush=True)

        defaults = {"GREENROOM_SLOTS": "4", "GREENROOM_STANDBY": str(STANDBY), "GREENROOM_LOG_LEVEL": "info"}
        stack = Stack(folder, env={**_clean_environment(), **defaults, **env}, on_line=write, without=without)
        await stack.start()
        try:
            yield RunningStack(stack, log)
        finally:
            await stack.stop()


async def wait_for_session(client: ApiClient, session_id: str, *, state: str = "ended") -> dict[str, Any]:
    """Return the session once it is in `state`."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(ApiProblem):
                session = await client.get(f"/v1/sessions/{session_id}")
                if session["state"] == state:
                    return session
            await asyncio.sleep(0.1)


async def wait_for_recording(client: ApiClient, session_id: str) -> bytes:
    """Return the WAV file of a session once it is sealed."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(ApiProblem):
                return await client.download(f"/v1/sessions/{session_id}/recording")
            await asyncio.sleep(0.2)


async def wait_for_event(client: ApiClient, session_id: str, kind: str) -> list[dict[str, Any]]:
    """Return all stored events of a session once one of type `kind` is among them."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            events = await all_events(client, session_id)
            if any(event["type"] == kind for event in events):
                return events
            await asyncio.sleep(0.2)


async def all_events(client: ApiClient, session_id: str) -> list[dict[str, Any]]:
    """Return what is stored of a session's events, page by page, in stream order."""
    events: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None:
        page = await client.get(f"/v1/sessions/{session_id}/events", after=after, limit=200)
        events += page["events"]
        after = page["next"]
    return events


async def the_runner(client: ApiClient) -> dict[str, Any]:
    """Return the stack's runner as the API shows it."""
    runners = [runner for runner in (await client.get("/v1/runners"))["runners"] if runner["state"] == "serving"]
    assert len(runners) == 1
    return runners[0]


def tone(seconds: float, rate: int = 16_000) -> bytes:
    """Return a loud 440 Hz tone as PCM16."""
    count = round(seconds * rate)
    return array("h", [round(12_000 * math.sin(2 * math.pi * 440 * i / rate)) for i in range(count)]).tobytes()


def _clean_environment() -> dict[str, str]:
    """Return the environment without what would point the services elsewhere."""
    ours = ("GREENROOM_", "NATS_URL", "DATABASE_URL", "OTEL_", "OPENAI_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}
