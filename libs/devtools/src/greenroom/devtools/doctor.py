"""Checks everything that Greenroom depends on, and says of each what to do."""

import asyncio
import os
import shutil
import sys
from collections.abc import Awaitable, Callable
from importlib import metadata
from pathlib import Path
from typing import Final

import httpx
import msgspec

from greenroom.common import topology_admin
from greenroom.common.errors import GreenroomError
from greenroom.common.nats_broker import NatsBroker
from greenroom.common.settings import unknown_variables
from greenroom.devtools import configuration, database
from greenroom.devtools.client import ApiClient
from greenroom.devtools.state import UpState, connection, read_state, state_dir
from greenroom.recorder import migrate

_CHECK_TIMEOUT_S: Final = 10.0
# Read by the command itself.
# Secrets of bots, which name them.
_SECRETS: Final = "GREENROOM_SECRET_"
_OWN_VARIABLES: Final = frozenset({"GREENROOM_API_URL", "GREENROOM_API_KEY", "GREENROOM_STATE_DIR"})
_MIN_FREE_BYTES: Final = 2 * 1024**3


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one check found; `advice` says what to do when it isn't well."""

    name: str
    ok: bool
    detail: str
    advice: str = ""


class _NotWell(Exception):
    def __init__(self, detail: str, advice: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.advice = advice


async def examine() -> list[Finding]:
    """Return a finding for each dependency, in the order in which to mend them."""
    state = read_state(state_dir())
    nats_url = os.environ.get("NATS_URL") or (state.nats_url if state else "nats://127.0.0.1:4222")
    dsn = os.environ.get("DATABASE_URL") or (state.database_url if state else "")
    checks: list[tuple[str, Callable[[], Awaitable[str]]]] = [
        ("python", _python),
        ("pipecat", _pipecat),
        ("settings", _settings),
        ("disk", _disk),
        ("nats", lambda: _nats(nats_url)),
        ("topology", lambda: _topology(nats_url)),
        ("postgres", lambda: _postgres(dsn)),
        ("schema", lambda: _schema(dsn)),
        ("api", _api),
        ("runners", _runners),
        ("traces", lambda: _traces(state)),
    ]
    return [await _examine(name, check) for name, check in checks]


async def _examine(name: str, check: Callable[[], Awaitable[str]]) -> Finding:
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
            return Finding(name=name, ok=True, detail=await check())
    except _NotWell as problem:
        return Finding(name=name, ok=False, detail=problem.detail, advice=problem.advice)
    except GreenroomError as error:
        return Finding(name=name, ok=False, detail=error.detail, advice=f"greenroom error {error.code}")
    except TimeoutError:
        return Finding(
            name=name, ok=False, detail="no answer in 10 s", advice="is it overloaded, or behind a firewall?"
        )


async def _python() -> str:
    return f"{sys.version.split()[0]} at {sys.executable}"


async def _pipecat() -> str:
    try:
        return f"pipecat-ai {metadata.version('pipecat-ai')}"
    except metadata.PackageNotFoundError:
        raise _NotWell("not installed here", "only the runner needs it: install greenroom-runner") from None


async def _settings() -> str:
    ours = [*configuration.SERVICES.values()]
    theirs = (name for name in os.environ if name not in _OWN_VARIABLES and not name.startswith(_SECRETS))
    unknown = unknown_variables(theirs, ours)
    if unknown:
        name, meant = next(iter(unknown.items()))
        raise _NotWell(
            f"no service reads {', '.join(unknown)}", f"is {meant} meant by {name}?" if meant else f"unset {name}"
        )
    return "every GREENROOM_ variable is read by a service"


async def _disk() -> str:
    free = shutil.disk_usage(Path.cwd()).free
    if free < _MIN_FREE_BYTES:
        raise _NotWell(f"{free / 1e9:.1f} GB free", "recordings and streams need room: free some, or move .greenroom")
    return f"{free / 1e9:.0f} GB free"


async def _nats(url: str) -> str:
    broker = await _connect(url)
    try:
        server = broker.client.connected_url
        # Without the credentials that may be in it.
        return f"nats-server at {server.hostname}:{server.port}" if server else "nats-server"
    finally:
        await broker.close()


async def _topology(url: str) -> str:
    broker = await _connect(url)
    try:
        differences = await topology_admin.diff(broker)
    finally:
        await broker.close()
    if differences:
        raise _NotWell("; ".join(str(difference) for difference in differences[:3]), "greenroom topology apply")
    return "all streams and consumers are there"


async def _connect(url: str) -> NatsBroker:
    try:
        return await NatsBroker.connect(url, name="greenroom doctor", timeout_s=5)
    except GreenroomError as error:
        raise _NotWell(error.detail, "start one (`greenroom up` has its own), or set NATS_URL") from error


async def _postgres(dsn: str) -> str:
    if not dsn:
        raise _NotWell("DATABASE_URL isn't set", "set it, or run `greenroom up`, which has a server of its own")
    rows = await database.fetch(dsn, "SHOW server_version")
    return f"PostgreSQL {rows[0]['server_version']}"


async def _schema(dsn: str) -> str:
    if not dsn:
        raise _NotWell("DATABASE_URL isn't set", "see postgres above")
    files = await migrate.status(dsn, timeout_s=5)
    pending = [file for file in files if file.applied_at is None]
    if pending:
        raise _NotWell(f"{len(pending)} of {len(files)} migrations are missing", "greenroom migrate")
    return f"up to date ({files[-1].name})"


async def _api() -> str:
    where = connection()
    async with ApiClient(where) as client:
        status = await client.get("/v1/status")
    return f"{where.api_url} · version {status.get('version', '?')}"


async def _runners() -> str:
    async with ApiClient(connection()) as client:
        runners = (await client.get("/v1/runners"))["runners"]
    serving = [runner for runner in runners if runner["state"] == "serving"]
    if not serving:
        raise _NotWell("no runner reports in", "start one (`greenroom-runner`); look at its log")
    broken = [bot for runner in serving for bot in runner.get("bots", ()) if bot.get("error")]
    if broken:
        raise _NotWell(f"bot {broken[0]['name']} can't be run: {broken[0]['error']}", "mend its import on the runner")
    slots = sum(runner["slots"] for runner in serving)
    return f"{len(serving)} reporting, {slots} slots"


async def _traces(state: UpState | None) -> str:
    endpoint = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not endpoint:
        if state is None:
            raise _NotWell("no collector is named", "set OTEL_EXPORTER_OTLP_ENDPOINT, or run `greenroom up`")
        return f"kept in {state.traces_dir}"
    try:
        async with httpx.AsyncClient(timeout=5) as http:
            await http.post(
                f"{endpoint.rstrip('/')}/v1/traces", content=b"", headers={"Content-Type": "application/x-protobuf"}
            )
    except httpx.HTTPError as error:
        raise _NotWell(f"{endpoint} doesn't answer: {type(error).__name__}", "is the collector running?") from error
    return f"sent to {endpoint}"
