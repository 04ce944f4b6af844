"""The shell all services live in: settings, logs, traces, health, signals, drain, and the end of the process.

The `__main__` of a service is little more than this:

    async def serve(service: Service[SchedulerSettings]) -> None:
        async with connect(service.settings.nats_url) as broker:
            service.readiness.add("broker", lambda: None if broker.connected else "broker-unavailable")
            service.on_drain("finish", scheduler.finish, timeout_s=5)
            service.spawn("scheduler", scheduler.run())
            service.mark_ready()
            await service.drained.wait()

    def main() -> None:
        sys.exit(run_service("scheduler", SchedulerSettings, serve))
"""

import asyncio
import functools
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from typing import Any, Final, cast

import structlog
import uvloop

from greenroom.common.errors import GreenroomError, SettingsInvalid
from greenroom.common.health import HealthServer, Readiness
from greenroom.common.log import configure_logging
from greenroom.common.metrics import Metrics
from greenroom.common.settings import ServiceSettings, load
from greenroom.common.tracing import setup_tracing

EXIT_FAILED: Final = 1
# EX_CONFIG of sysexits.h: a supervisor can tell "fix the settings" from "try again".
EXIT_SETTINGS: Final = 78
# What `main` may take to close its parts after the drain, and its tasks to end when cancelled.
CLOSE_TIMEOUT_S: Final = 5.0

# How many objects are made beyond those freed (some 10 MB), and of how many collections each looks at more.
_GARBAGE_THRESHOLDS: Final = (50_000, 20, 100)

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

type DrainStep = Callable[[], Awaitable[None]]


class Service[S: ServiceSettings]:
    """What the shell offers to the `main` of a service.

    Attributes:
        name: of the service, e.g. `scheduler`.
        settings: parsed.
        metrics: its metrics, shown on /metrics.
        readiness: what /readyz asks.
        stopping: set by the first SIGTERM or SIGINT, or by `stop`: take nothing new from here on.
        drained: set when the drain steps are done or out of time: `main` closes its parts and returns.
    """

    def __init__(self, name: str, settings: S, tasks: asyncio.TaskGroup) -> None:
        """Make the shell; `tasks` holds whatever is spawned."""
        self.name = name
        self.settings = settings
        self.metrics = Metrics()
        self.readiness = Readiness()
        self.stopping = asyncio.Event()
        self.drained = asyncio.Event()
        self._tasks = tasks
        self._spawned: set[asyncio.Task[None]] = set()
        self._steps: list[tuple[str, DrainStep, float]] = []
        self._drain_failed = False
        self._began = time.monotonic()

    @property
    def uptime_s(self) -> float:
        """Seconds since the shell was made."""
        return round(time.monotonic() - self._began, 3)

    def mark_ready(self) -> None:
        """Say that the service is set up; from now on /readyz follows its checks."""
        if self.readiness.phase == "starting":
            self.readiness.phase = None
            settle_garbage()
            log.info("service_ready", took_s=self.uptime_s)

    def spawn(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` until the end of the service, where it is cancelled; an error in it ends the service."""
        task = self._tasks.create_task(work, name=name)
        self._spawned.add(task)
        task.add_done_callback(self._spawned.discard)
        return task

    def on_drain(self, name: str, step: DrainStep, *, timeout_s: float) -> None:
        """Add a step to what is done between `stopping` and `drained`; steps run one by one, in the order added.

        Args:
            name: for the log.
            step: what to do.
            timeout_s: after that it is cancelled; all steps together have `drain_timeout_s` of the settings.
        """
        self._steps.append((name, step, timeout_s))

    def stop(self, cause: str) -> None:
        """Begin to stop, as a signal would."""
        if not self.stopping.is_set():
            self.readiness.phase = "stopping"
            log.info("service_stopping", cause=cause, drain_timeout_s=self.settings.drain_timeout_s)
            self.stopping.set()

    async def run(self, main: Callable[["Service[S]"], Awaitable[None]]) -> bool:
        """Run `main` until it returns, and the drain once `stopping` is set; return whether all went in order.

        Raises:
            TimeoutError: `main` went on for `CLOSE_TIMEOUT_S` after the drain.
        """
        try:
            async with asyncio.timeout(None) as limit:
                self.spawn("drain", self._drain_when_stopping(limit))
                await main(self)
        finally:
            await self._end_tasks()
        return not self._drain_failed

    async def _drain_when_stopping(self, limit: asyncio.Timeout) -> None:
        await self.stopping.wait()
        began = time.monotonic()
        deadline = began + self.settings.drain_timeout_s
        for name, step, timeout_s in self._steps:
            await self._drain_step(name, step, min(timeout_s, deadline - time.monotonic()))
        log.info("service_drained", drain_s=round(time.monotonic() - began, 3), complete=not self._drain_failed)
        limit.reschedule(asyncio.get_running_loop().time() + CLOSE_TIMEOUT_S)
        self.drained.set()

    async def _drain_step(self, name: str, step: DrainStep, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await step()
        except TimeoutError:
            self._drain_failed = True
            log.warning("drain_step_timed_out", step=name, timeout_s=round(timeout_s, 3))
        except Exception:
            # One part that can't stop in order mustn't keep the others from it.
            self._drain_failed = True
            log.exception("drain_step_failed", step=name)

    async def _end_tasks(self) -> None:
        tasks = set(self._spawned)
        for task in tasks:
            task.cancel()
        if tasks:
            _, stuck = await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)
            if stuck:
                log.error("service_tasks_stuck", tasks=sorted(task.get_name() for task in stuck))
                os._exit(EXIT_FAILED)  # a task that swallows its cancellation can be ended in no other way


def settle_garbage() -> None:
    """Have the garbage collector look seldom, and never at what is there by now.

    What a service is made of stays to its end: left out of collections, these take 1 ms instead of 30. What it makes
    afterwards is nearly all freed by its count, or lives for long; with Python's own thresholds a plan for 10,000
    sessions was collected for hundreds of times, which took as long again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GARBAGE_THRESHOLDS)


def run_service[S: ServiceSettings](
    name: str,
    settings_type: type[S],
    main: Callable[[Service[S]], Awaitable[None]],
    *,
    env: Mapping[str, str] | None = None,
) -> int:
    """Run a service from its settings to its end and return the exit code of the process.

    0: stopped in order; 1: failed, or couldn't drain in order; 78: the settings are wrong. The second SIGTERM or
    SIGINT ends the process at once (128 + signal).

    Args:
        name: of the service: `api`, `scheduler`, `runner`, `recorder`.
        settings_type: what its settings are.
        main: builds the parts, marks the service ready, waits for `drained`, closes the parts.
        env: the environment; default the process's own.
    """
    try:
        settings = load(settings_type, os.environ if env is None else env)
    except SettingsInvalid as error:
        return _settings_invalid(name, error)
    configure_logging(name, level=settings.log_level, form=settings.log_format, instance_id=settings.instance_id)
    logging.captureWarnings(capture=True)
    tracing = setup_tracing(
        f"greenroom-{name}", settings.instance_id, settings.otlp_endpoint, trace_content=settings.trace_content
    )
    try:
        return 0 if uvloop.run(_serve(name, settings, main)) else EXIT_FAILED
    except SettingsInvalid as error:
        return _settings_invalid(name, error)
    except Exception as error:  # noqa: BLE001 the end of the line: whatever it was, it is logged and becomes the exit code
        return _failed(name, error)
    finally:
        tracing.shutdown()


async def _serve[S: ServiceSettings](name: str, settings: S, main: Callable[[Service[S]], Awaitable[None]]) -> bool:
    async with asyncio.TaskGroup() as tasks:
        service = Service(name, settings, tasks)
        service.metrics.watch_process()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, functools.partial(_on_signal, service, number))
        async with HealthServer(
            name, settings.health_host, settings.health_port, service.readiness, service.metrics
        ) as health:
            log.info("service_started", pid=os.getpid(), health_host=settings.health_host, health_port=health.port)
            in_order = await service.run(main)
            log.info("service_stopped", uptime_s=service.uptime_s, in_order=in_order)
    return in_order


def _on_signal[S: ServiceSettings](service: Service[S], number: signal.Signals) -> None:
    if service.stopping.is_set():
        log.warning("service_killed", cause=number.name, uptime_s=service.uptime_s)
        os._exit(128 + number)
    service.stop(number.name)


def _settings_invalid(name: str, error: SettingsInvalid) -> int:
    sys.stderr.write(f"greenroom-{name}: {error.code}: {error.detail}\n")
    return EXIT_SETTINGS


def _failed(name: str, error: Exception) -> int:
    causes = list(_leaves(error))
    for cause in causes:
        if isinstance(cause, SettingsInvalid):
            return _settings_invalid(name, cause)
    for cause in causes:
        if isinstance(cause, GreenroomError):
            log.error("service_failed", code=cause.code, detail=cause.detail, retryable=cause.retryable)
        else:
            log.error("service_failed", code="internal-error", error=type(cause).__name__, exc_info=cause)
    return EXIT_FAILED


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions a task group has gathered, however deep."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        for inner in group.exceptions:
            yield from _leaves(inner)
    else:
        yield error
