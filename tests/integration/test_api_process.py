"""The api as a process: how it starts, and how it stops."""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from greenroom.api.server import listen
from greenroom.common import messages, subjects, topology_admin
from greenroom.common.clock import utcnow
from greenroom.common.messages import BotOffer, Heartbeat
from greenroom.common.nats_broker import NatsBroker
from greenroom.devtools import keys
from greenroom.recorder.migrate import migrate, migrations
from tests.support.api_world import PATIENCE_S, eventually


class ApiProcess:
    """A running process and what it logs."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.log: list[dict[str, Any]] = []

    async def logged(self, event: str) -> dict[str, Any]:
        """Return the record of an event, once it is logged."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            while True:
                line = await self.process.stderr.readline()
                assert line, self.log
                self.log.append(msgspec.json.decode(line))
                if self.log[-1]["event"] == event:
                    return self.log[-1]

    async def ended(self) -> int:
        """Return the exit code."""
        async with asyncio.timeout(PATIENCE_S):
            await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode


@contextlib.asynccontextmanager
async def an_api(nats_url: str, dsn: str, **env: str) -> AsyncGenerator[ApiProcess]:
    """Start an api; it is killed at the end of the block if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "greenroom.api"),
        env={
            "PATH": os.environ["PATH"],
            "NATS_URL": nats_url,
            "DATABASE_URL": dsn,
            "GREENROOM_API_PORT": "0",
            "GREENROOM_LOG_FORMAT": "json",
            **env,
        },
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield ApiProcess(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_it_waits_for_the_topology_serves_and_stops(nats_url: str, database: str) -> None:
    """Started before its streams are made it isn't ready, and says why; then it is; SIGTERM ends it in order."""
    async with an_api(nats_url, database) as api:
        listening = await api.logged("api_listening")
        url = f"http://{listening['host']}:{listening['port']}"
        await api.logged("topology_awaited")
        async with httpx.AsyncClient(base_url=url) as client:
            reasons = (await client.get("/readyz")).json()["reasons"]
            assert reasons == {"service": "starting", "topology": "topology-missing"}
            broker = await NatsBroker.connect(nats_url, name="test")
            await topology_admin.apply(broker)
            await broker.close()
            await api.logged("service_ready")
            key = await keys.create(database, tenant="default", name="test")
            assert (await client.get("/readyz")).status_code == 200
            answer = await client.get("/v1/agents", headers={"authorization": f"Bearer {key}"})
            assert answer.json() == {"agents": []}
            api.process.send_signal(signal.SIGTERM)
            await api.logged("service_stopped")
        assert await api.ended() == 0


async def test_it_waits_for_the_schema(nats_url: str, empty_database: str) -> None:
    """Started before `greenroom migrate` it isn't ready and names what is missing, to who asks too; then it is."""
    files = migrations()
    broker = await NatsBroker.connect(nats_url, name="test")
    await topology_admin.apply(broker)
    await broker.close()
    await migrate(empty_database, files=[file for file in files if file.name < "0013"])
    key = await keys.create(empty_database, tenant="default", name="test", scopes=("admin",))
    async with an_api(nats_url, empty_database) as api:
        listening = await api.logged("api_listening")
        awaited = await api.logged("schema_awaited")
        assert awaited["missing"].split(", ")[0].startswith("0013_")
        url, headers = f"http://127.0.0.1:{listening['port']}", {"authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=url, headers=headers) as client:
            answer = await client.get("/readyz")
            assert (answer.status_code, answer.json()["reasons"]["schema"]) == (503, "schema-not-migrated")
            # What needs what is missing says so; what doesn't goes on.
            answer = await client.get("/v1/post-call")
            assert (answer.status_code, answer.json()["code"]) == (503, "schema-not-migrated")
            assert (await client.get("/v1/prices")).status_code == 200
            assert (await client.get("/v1/status")).json()["problems"]["schema"] == "schema-not-migrated"
            await migrate(empty_database)
            ready = await eventually(lambda: client.get("/readyz"), lambda answer: answer.status_code == 200)
            assert ready.json()["reasons"] == {}
            assert (await client.get("/v1/post-call")).json() == {"choices": []}


async def test_open_connections_do_not_keep_it_from_stopping(nats_url: str, database: str) -> None:
    """Idle connections, a waiting socket and an event stream end with it."""
    broker = await NatsBroker.connect(nats_url, name="test")
    await topology_admin.apply(broker)
    key = await keys.create(database, tenant="default", name="test")
    headers = {"authorization": f"Bearer {key}"}
    try:
        async with an_api(nats_url, database, GREENROOM_DRAIN_TIMEOUT_S="3") as api:
            listening = await api.logged("api_listening")
            url = f"http://127.0.0.1:{listening['port']}"
            await api.logged("service_ready")
            async with httpx.AsyncClient(base_url=url, headers=headers) as client:
                session = await ask(broker, client)
                knocking = asyncio.create_task(refused(session["transport"]["url"]))
                stream_headers = {"accept": "text/event-stream"}
                path = session["links"]["events"]
                async with client.stream("GET", path, headers=stream_headers) as response:
                    lines = response.aiter_lines()
                    assert await anext(lines) == "retry: 1000"
                    api.process.send_signal(signal.SIGTERM)
                    assert "event: end" not in [line async for line in lines]
                assert await knocking == 503
                assert await api.ended() == 0
    finally:
        await broker.close()


async def ask(broker: NatsBroker, client: httpx.AsyncClient) -> dict[str, Any]:
    """Return a session of an agent that a runner has just announced."""
    beat = Heartbeat(
        runner_id="r", pool="default", at=utcnow(), seq=1, slots=1, bots=(BotOffer(name="echo"),), started_at=utcnow()
    )
    subject = subjects.RUNNER_HEARTBEAT.format(pool="default", runner_id="r")

    async def asked() -> httpx.Response:
        await broker.publish(subject, messages.encode(beat))
        return await client.post("/v1/sessions", json={"agent": "echo"})

    return (await eventually(asked, lambda answer: answer.status_code == 201)).json()


async def refused(url: str) -> int:
    """Return the status with which a handshake is refused."""
    try:
        async with connect(url, open_timeout=PATIENCE_S):
            return 101
    except InvalidStatus as error:
        return error.response.status_code


async def test_a_taken_port_is_a_matter_of_settings(nats_url: str, database: str) -> None:
    """It says which variable is at fault, and exits as for wrong settings."""
    taken = listen("127.0.0.1", 0)
    try:
        async with an_api(nats_url, database, GREENROOM_API_PORT=str(taken.getsockname()[1])) as api:
            assert api.process.stderr is not None
            said = (await asyncio.wait_for(api.process.stderr.read(), PATIENCE_S)).decode()
            assert await api.ended() == 78
        assert "GREENROOM_API_PORT" in said
    finally:
        taken.close()
