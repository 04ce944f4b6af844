"""The shell all services live in: settings, logs, traces, health, signals, drain, and the end of the process.

A service's `__main__` is one function:

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
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final

import structlog
import uvloop

from greenroom.common import settings as settings_module
from greenroom.common.errors import GreenroomError, SettingsInvalid
from greenroom.common.health import HealthServer, Readiness
from greenroom.common.log import configure_logging
from greenroom.common.metrics import Metrics
from greenroom.common.settings import ServiceSettings
from greenroom.common.tracing import setup_tracing

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
# EX_CONFIG of sysexits.h: a supervisor may tell "fix the settings" from "try again".
EXIT_SETTINGS: Final = 78
# What `main` may take to close its parts after the drain.
CLOSE_TIMEOUT_S: Final = 5.0

log = structlog.get_logger(__name__)

type DrainStep = Callable[[], Awaitable[None]]


class Service[S: ServiceSettings]:
    """What the shell offers to a service's `main`.

    Attributes:
        name: of the service, e.g. `scheduler`.
        settings: parsed.
        metrics: its metrics, shown on /metrics.
        readiness: what /readyz asks.
        stopping: set by the first SIGTERM or SIGINT, or by `stop`; take nothing new from here on.
        drained: set when the drain steps are done or out of time; `main` closes its parts and returns.
    """

    def __init__(self, name: str, settings: S, metrics: Metrics, tasks: asyncio.TaskGroup) -> None:
        """Made by `run_service`; tests make their own."""
        self.name = name
        self.settings = settings
        self.metrics = metrics
        self.readiness = Readiness()
        self.stopping = asyncio.Event()
        self.drained = asyncio.Event()
        self._tasks = tasks
        self._spawned: set[asyncio.Task[None]] = set()
        self._steps: list[tuple[str, DrainStep, float]] = []
        self._began = time.monotonic()
        self._drain_failed = False

    def mark_ready(self) -> None:
        """Say that the service is set up; from now on /readyz follows its checks."""
        if self.readiness.phase == "starting":
            self.readiness.phase = None
            log.info("service_ready", took_s=self._uptime_s())

    def spawn(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` until the end of the service, where it is cancelled; an error of it ends the service."""
        task = self._tasks.create_task(work, name=name)
        self._spawned.add(task)
        task.add_done_callback(self._spawned.discard)
        return task

    def on_drain(self, name: str, step: DrainStep, *, timeout_s: float) -> None:
        """Add a step to what is done between `stopping` and `drained`; steps run one by one, in the order added.

        Args:
            name: for the log.
            step: what to do.
            timeout_s: after that it is cancelled; all steps share `drain_timeout_s` of the settings.
        """
        self._steps.append((name, step, timeout_s))

    def stop(self, cause: str) -> None:
        """Begin to stop, as a signal would."""
        if not self.stopping.is_set():
            self.readiness.phase = "stopping"
            log.info("service_stopping", cause=cause, drain_timeout_s=self.settings.drain_timeout_s)
            self.stopping.set()

    async def supervise(self, main: Callable[["Service[S]"], Awaitable[None]]) -> int:
        """Run `main` and the drain; return the exit code. For `run_service` and tests."""
        drain = self._tasks.create_task(self._drain_when_stopping(), name="drain")
        began_close = 0.0
        try:
            async with asyncio.timeout(None) as closing:
                watch = self._tasks.create_task(self._limit_close(closing), name="close-limit")
                await main(self)
                began_close = time.monotonic()
        except TimeoutError:
            log.error("service_close_timed_out", timeout_s=CLOSE_TIMEOUT_S)  # noqa: TRY400 where it hung isn't in this trace
            return EXIT_FAILED
        finally:
            for task in (drain, *self._spawned):
                task.cancel()
        watch.cancel()
        del began_close
        return EXIT_FAILED if self._drain_failed else EXIT_OK
