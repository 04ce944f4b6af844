"""The runner as a process: parse the settings, build the parts, run until stopped."""

import asyncio
import functools
import os
import signal
import sys
from typing import Final

import structlog

from greenroom.common.clock import SystemClock
from greenroom.common.ledger import Ledger
from greenroom.common.nats_broker import NatsBroker
from greenroom.common.service import Service, run_service
from greenroom.runner.app import Runner
from greenroom.runner.discovery import discover
from greenroom.runner.instruments import Instruments
from greenroom.runner.settings import RunnerSettings
from greenroom.runner.supervisor import Supervisor

_log = structlog.get_logger()

# The drain ends by itself before the service would cancel it.
_MARGIN_S: Final = 0.3


async def serve(service: Service[RunnerSettings]) -> None:
    """Build the runner and run it until it is drained."""
    settings, clock = service.settings, SystemClock()
    broker = await NatsBroker.connect(settings.nats_url, name=f"runner {settings.runner_id}")
    bots = discover(settings.bots)
    supervisor = Supervisor(settings, bots, clock=clock, environment=os.environ, owns_children=True)
    runner = Runner(
        settings,
        broker=broker,
        ledger=Ledger(broker, clock=clock),
        supervisor=supervisor,
        clock=clock,
        instruments=Instruments(service.metrics),
    )
    service.readiness.add("broker", lambda: None if broker.connected else "broker-unavailable")
    service.readiness.add("zygote", lambda: None if supervisor.available else "zygote-not-warm")
    service.readiness.add("draining", lambda: "draining" if runner.draining else None)
    drain_s = settings.drain_timeout_s
    service.on_drain("sessions", lambda: runner.drain(drain_s - _MARGIN_S), timeout_s=drain_s)
    _take_signals(service, runner)
    running = service.spawn("runner", runner.run())
    service.mark_ready()
    await service.drained.wait()
    running.cancel()
    await asyncio.wait({running})
    await broker.close()


def _take_signals(service: Service[RunnerSettings], runner: Runner) -> None:
    """First signal: drain. Second: end the sessions now. Third: leave at once, and let them end within a second."""
    signals = 0

    def take(number: signal.Signals) -> None:
        nonlocal signals
        signals += 1
        match signals:
            case 1:
                service.stop(number.name)
            case 2:
                _log.warning("runner_hurries", cause=number.name)
                runner.end_all()
            case _:
                os._exit(128 + number)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, functools.partial(take, number))


def main() -> None:
    """Run the runner; the exit code is the process's."""
    sys.exit(run_service("runner", RunnerSettings, serve))


if __name__ == "__main__":
    main()
