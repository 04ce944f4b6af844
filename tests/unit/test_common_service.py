"""The shell of a service: health, signals, drain, exit codes."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest

from greenroom.common.clock import SystemClock, utcnow
from greenroom.common.errors import BrokerUnavailable, SettingsInvalid
from greenroom.common.health import MAX_CONNECTIONS, HealthServer, Readiness
from greenroom.common.metrics import Metrics
from greenroom.common.service import EXIT_SETTINGS, Service
from greenroom.common.settings import ServiceSettings
from tests.support.otlp_stub import otlp_stub

# ---------------------------------------------------------------------------- health


@contextlib.asynccontextmanager
async def health(readiness: Readiness | None = None) -> AsyncGenerator[HealthServer]:
    """Run a health server on a free port."""
    async with HealthServer("api", "127.0.0.1", 0, readiness or Readiness(), Metrics()) as server:
        yield server


async def ask(port: int, request: bytes) -> tuple[int, bytes]:
    """Send a raw request and return status and body of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(5):
        writer.write(request)
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


async def get(port: int, path: str) -> tuple[int, bytes]:
    """Ask for a path."""
    return await ask(port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


async def test_livez_depends_on_nothing() -> None:
    """A service is alive as long as its loop turns, whatever its checks say."""
    async with health() as server:
        status, body = await get(server.port, "/livez?verbose")
    assert status == 200
    assert json.loads(body)["service"] == "api"


async def test_readyz_tells_every_reason() -> None:
    """Not ready means 503 with the reason of each failing check; ready means 200 with none."""
    readiness = Readiness(timeout_s=0.05)
    broken = True

    async def slow() -> str | None:
        await asyncio.sleep(60 if broken else 0)
        return None

    def database() -> str | None:
        return "database-unavailable" if broken else None

    def broker() -> str | None:
        if broken:
            raise BrokerUnavailable("secret address")
        return None

    def careless() -> str | None:
        if broken:
            raise KeyError("secret")
        return None

    for name, check in {"slow": slow, "database": database, "broker": broker, "careless": careless}.items():
        readiness.add(name, check)
    async with health(readiness) as server:
        status, body = await get(server.port, "/readyz")
        assert status == 503
        assert json.loads(body) == {
            "service": "api",
            "ready": False,
            "reasons": {
                "service": "starting",
                "slow": "no answer within 0.05 s",
                "database": "database-unavailable",
                "broker": "broker-unavailable",
                "careless": "KeyError",
            },
        }
        broken, readiness.phase = False, None
        status, body = await get(server.port, "/readyz")
        assert (status, json.loads(body)["reasons"]) == (200, {})


async def test_metrics_are_open_metrics() -> None:
    """Prometheus gets what it asks for."""
    async with health() as server:
        status, body = await get(server.port, "/metrics")
    assert (status, body) == (200, b"# EOF\n")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\n\r\n", 404),
        (b"POST /livez HTTP/1.1\r\n\r\n", 405),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /livez SPDY/3\r\n\r\n", 400),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", 400),
    ],
)
async def test_bad_requests_are_refused(request_bytes: bytes, status: int) -> None:
    """What isn't a small GET or HEAD is refused, and the server goes on."""
    async with health() as server:
        assert (await ask(server.port, request_bytes))[0] == status
        assert (await get(server.port, "/livez"))[0] == 200


async def test_head_has_no_body() -> None:
    """HEAD is answered like GET, without the body."""
    async with health() as server:
        assert await ask(server.port, b"HEAD /livez HTTP/1.1\r\n\r\n") == (200, b"")


async def test_silent_connections_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that send nothing are bounded in number and time, and probes get through afterwards."""
    # Long enough for the last to come before the first is given up.
    monkeypatch.setattr("greenroom.common.health.REQUEST_TIMEOUT_S", 2.0)
    async with health() as server:
        silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(MAX_CONNECTIONS + 5)]
        answers = await asyncio.gather(*(reader.read() for reader, _ in silent))
        assert sum(answer == b"" for answer in answers) == 5
        assert sum(answer.startswith(b"HTTP/1.1 408 ") for answer in answers) == MAX_CONNECTIONS
        assert (await get(server.port, "/livez"))[0] == 200
        for _, writer in silent:
            writer.close()


async def test_a_taken_port_is_a_wrong_setting() -> None:
    """A health port that can't be had is told by the names of its settings."""
    async with health() as server:
        with pytest.raises(SettingsInvalid, match="GREENROOM_HEALTH_PORT"):
            async with HealthServer("b", "127.0.0.1", server.port, Readiness(), Metrics()):
                pass


# ---------------------------------------------------------------------------- the shell, inside the test's loop


async def run_until_stopped(
    settings: ServiceSettings, steps: dict[str, tuple[Any, float]]
) -> tuple[bool, Service[ServiceSettings]]:
    """Run a service that stops at once, with these drain steps."""
    async with asyncio.TaskGroup() as tasks:
        service = Service("api", settings, tasks)

        async def main(service: Service[ServiceSettings]) -> None:
            for name, (step, timeout_s) in steps.items():
                service.on_drain(name, step, timeout_s=timeout_s)
            service.mark_ready()
            service.stop("test")
            await service.drained.wait()

        return await service.run(main), service


async def test_drain_steps_run_in_order() -> None:
    """Drain steps run one after the other in the order added, with the service no longer ready."""
    done: list[str] = []

    async def first() -> None:
        await asyncio.sleep(0.02)
        done.append("first")

    async def second() -> None:
        done.append("second")

    in_order, service = await run_until_stopped(ServiceSettings(), {"first": (first, 1), "second": (second, 1)})
    assert in_order
    assert done == ["first", "second"]
    assert await service.readiness.reasons() == {"service": "stopping"}


async def test_a_bad_drain_step_stops_no_other() -> None:
    """A drain step that hangs or fails costs its own time at most, and the rest is drained; the exit tells of it."""
    done: list[str] = []

    async def hang() -> None:
        await asyncio.sleep(60)

    async def fail() -> None:
        raise OSError("disk full")

    async def last() -> None:
        done.append("last")

    in_order, _ = await run_until_stopped(
        ServiceSettings(), {"hang": (hang, 0.05), "fail": (fail, 1), "last": (last, 1)}
    )
    assert not in_order
    assert done == ["last"]


async def test_drain_has_a_total_deadline() -> None:
    """All steps together have no more than the drain time-out, however long each may take."""

    async def hang() -> None:
        await asyncio.sleep(60)

    began = time.monotonic()
    in_order, _ = await run_until_stopped(
        ServiceSettings(drain_timeout_s=0.1), {"one": (hang, 30), "two": (hang, 30), "three": (hang, 30)}
    )
    assert not in_order
    assert time.monotonic() - began < 2


async def test_spawned_work_ends_with_the_service() -> None:
    """What a service spawned is cancelled once its main part has returned, and has been waited for."""
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("work")

    async def main(service: Service[ServiceSettings]) -> None:
        service.spawn("work", work())
        await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        assert await Service("api", ServiceSettings(), tasks).run(main)
    assert ended == ["work"]


async def test_failing_work_ends_the_service() -> None:
    """An error in spawned work cancels the main part and comes out."""

    async def work() -> None:
        raise BrokerUnavailable("gone")

    async def main(service: Service[ServiceSettings]) -> None:
        service.spawn("work", work())
        await asyncio.sleep(60)

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as tasks:
            await Service("api", ServiceSettings(), tasks).run(main)
    assert caught.group_contains(BrokerUnavailable)


async def test_closing_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A main part that doesn't return after the drain is cancelled."""
    monkeypatch.setattr("greenroom.common.service.CLOSE_TIMEOUT_S", 0.05)

    async def main(service: Service[ServiceSettings]) -> None:
        service.stop("test")
        await asyncio.sleep(60)

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        with pytest.raises(TimeoutError):
            await Service("api", ServiceSettings(), tasks).run(main)


# ---------------------------------------------------------------------------- the process

PROGRAM = """
    import asyncio, sys
    from greenroom.common import service as shell
    from greenroom.common import telemetry
    from greenroom.common.errors import BrokerUnavailable
    from greenroom.common.service import run_service
    from greenroom.common.settings import ServiceSettings

    async def fails():
        raise BrokerUnavailable("no servers")

    async def stubborn():
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass

    async def serve(service):
        mode = sys.argv[1]
        with telemetry.span("setup"):
            pass
        if mode == "bug":
            raise LookupError("nothing there")
        if mode == "broker":
            service.spawn("fails", fails())
        if mode == "stubborn":
            shell.CLOSE_TIMEOUT_S = 0.2
            service.spawn("stubborn", stubborn())
        if mode == "slow":
            service.on_drain("slow", lambda: asyncio.sleep(30), timeout_s=30)
        service.mark_ready()
        await service.drained.wait()

    sys.exit(run_service("example", ServiceSettings, serve))
"""


class Process:
    """A service in a process of its own, and what it logged so far."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.popen = popen
        self.records: list[dict[str, Any]] = []

    def wait_for(self, event: str) -> dict[str, Any]:
        """Read the log up to an event and return its record."""
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            self.records.append(json.loads(line))
            if self.records[-1]["event"] == event:
                return self.records[-1]
        raise AssertionError(f"{event} isn't in the log: {self.records}")

    def end(self) -> int:
        """Wait for the end, read the rest of the log and return the exit code."""
        _, rest = self.popen.communicate(timeout=15)
        self.records += [json.loads(line) for line in rest.splitlines()]
        return self.popen.returncode

    @property
    def events(self) -> list[str]:
        """The names of the events so far."""
        return [record["event"] for record in self.records]


@contextlib.contextmanager
def service(mode: str, **env: str) -> Generator[Process]:
    """Start the program above."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(PROGRAM), mode]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GREENROOM_", "OTEL_"))}
    with subprocess.Popen(command, env=environment | env, stderr=subprocess.PIPE, text=True) as popen:
        try:
            yield Process(popen)
        finally:
            popen.kill()


def fetch(port: int, path: str) -> tuple[int, bytes]:
    """Ask another process for a path."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()


def test_life_of_a_service() -> None:
    """A service starts, is alive and ready, stops in order on SIGTERM with exit code 0, and flushes its spans."""
    with otlp_stub() as receiver, service("normal", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url) as process:
        port = process.wait_for("service_started")["health_port"]
        process.wait_for("service_ready")
        assert fetch(port, "/livez")[0] == 200
        assert fetch(port, "/readyz")[0] == 200
        assert b"process_resident_memory_bytes" in fetch(port, "/metrics")[1]
        process.popen.send_signal(signal.SIGTERM)
        assert process.end() == 0
        assert [span.name for span in receiver.spans] == ["setup"]
        assert receiver.spans[0].service == "greenroom-example"
    assert process.events == [
        "service_started",
        "service_ready",
        "service_stopping",
        "service_drained",
        "service_stopped",
    ]
    assert process.records[2]["cause"] == "SIGTERM"
    assert process.records[4]["uptime_s"] > 0


def test_alive_but_not_ready_while_draining() -> None:
    """A draining service stays alive, is no longer ready, and ends at once on the second signal."""
    with service("slow") as process:
        port = process.wait_for("service_started")["health_port"]
        process.wait_for("service_ready")
        process.popen.send_signal(signal.SIGINT)
        process.wait_for("service_stopping")
        assert fetch(port, "/livez")[0] == 200
        status, body = fetch(port, "/readyz")
        assert (status, json.loads(body)["reasons"]) == (503, {"service": "stopping"})
        began = time.monotonic()
        process.popen.send_signal(signal.SIGTERM)
        assert process.end() == 128 + signal.SIGTERM
        assert time.monotonic() - began < 2
    assert process.events[-1] == "service_killed"


def test_the_health_port_can_be_chosen() -> None:
    """The health server listens on the port that the settings name."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with service("normal", GREENROOM_HEALTH_PORT=str(port)) as process:
        assert process.wait_for("service_started")["health_port"] == port
        assert fetch(port, "/livez")[0] == 200


def test_wrong_settings_are_one_line() -> None:
    """A service with wrong settings says so in one line, names all of them and exits with 78."""
    with service("normal", GREENROOM_LOG_LEVEL="loud", GREENROOM_HEALTH_PORT="x") as process:
        _, told = process.popen.communicate(timeout=15)
        assert process.popen.returncode == EXIT_SETTINGS
    (line,) = told.splitlines()
    assert line.startswith("greenroom-example: settings-invalid: ")
    assert "GREENROOM_LOG_LEVEL" in line
    assert "GREENROOM_HEALTH_PORT" in line


def test_known_failures_are_told_by_code() -> None:
    """A service that one of our errors ends logs its code without a traceback, and exits with 1."""
    with service("broker") as process:
        assert process.end() == 1
    failed = process.records[-1]
    assert (failed["event"], failed["code"], failed["detail"]) == ("service_failed", "broker-unavailable", "no servers")
    assert "exception" not in failed


def test_bugs_are_told_with_a_traceback() -> None:
    """A service that a bug ends logs where it was, and exits with 1."""
    with service("bug") as process:
        assert process.end() == 1
    assert "LookupError: nothing there" in process.records[-1]["exception"]


def test_stuck_tasks_do_not_keep_the_process() -> None:
    """A task that swallows its cancellation is named, and the process ends without it."""
    with service("stubborn") as process:
        process.wait_for("service_ready")
        process.popen.send_signal(signal.SIGTERM)
        assert process.end() == 1
    stuck = next(record for record in process.records if record["event"] == "service_tasks_stuck")
    assert stuck["tasks"] == ["stubborn"]


# ---------------------------------------------------------------------------- clock


async def test_system_clock() -> None:
    """The system's clock is in UTC, goes on, and waits."""
    clock = SystemClock()
    began = clock.monotonic()
    await clock.sleep(0.01)
    await clock.sleep(-1)
    assert clock.monotonic() - began >= 0.009
    assert clock.now().utcoffset() == utcnow().utcoffset()
    assert str(clock.now().tzinfo) == "UTC"


def test_garbage_is_collected_seldom() -> None:
    """What there is stays out of collections; ten thousand objects more don't start one, and cycles still go."""
    code = """if True:
        import gc, weakref
        from greenroom.common.service import settle_garbage

        class Knot: pass

        before = [Knot() for _ in range(1000)]
        settle_garbage()
        assert gc.get_freeze_count() > 1000
        counts = [generation["collections"] for generation in gc.get_stats()]
        kept = [[] for _ in range(10_000)]
        assert [generation["collections"] for generation in gc.get_stats()] == counts
        knot = Knot()
        knot.itself, seen = knot, weakref.ref(knot)
        del knot
        kept += [[] for _ in range(100_000)]
        assert seen() is None
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
