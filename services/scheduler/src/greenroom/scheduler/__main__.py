"""`greenroom-scheduler`: settings, parts, run."""

import asyncio
import sys

from greenroom.common import topology_admin
from greenroom.common.broker import Broker
from greenroom.common.clock import Clock, SystemClock
from greenroom.common.leadership import Leadership
from greenroom.common.ledger import Ledger
from greenroom.common.nats_broker import NatsBroker
from greenroom.common.service import Service, run_service
from greenroom.scheduler.app import Scheduler
from greenroom.scheduler.counters import Counters
from greenroom.scheduler.executor import Executor
from greenroom.scheduler.picture import Picture
from greenroom.scheduler.settings import SchedulerSettings

# To finish what was begun (2 s) and to hand over leadership, so that the next one plans at once.
_HAND_OVER_S = 4.0


async def serve(service: Service[SchedulerSettings]) -> None:
    """Schedule until the service is drained.

    Raises:
        BrokerUnavailable: there is no NATS server.
        TopologyMissing: its streams aren't as they should be.
    """
    settings, clock = service.settings, SystemClock()
    broker = await NatsBroker.connect(settings.nats_url, name=settings.instance_id)
    try:
        await topology_admin.check(broker)
        scheduler = compose(settings, broker, clock, Counters(service.metrics))
        running = service.spawn("scheduler", scheduler.run())

        async def hand_over() -> None:
            running.cancel()
            await asyncio.wait([running])

        service.on_drain("hand-over", hand_over, timeout_s=_HAND_OVER_S)
        service.readiness.add("broker", lambda: None if broker.connected else "broker-unavailable")
        service.readiness.add("ledger", lambda: None if scheduler.caught_up.is_set() else "catching-up")
        service.mark_ready()
        await service.drained.wait()
    finally:
        await broker.close()


def compose(settings: SchedulerSettings, broker: Broker, clock: Clock, counters: Counters) -> Scheduler:
    """Return a scheduler made of its parts."""
    pool = settings.scheduler_pool or None
    ledger, picture = Ledger(broker, clock=clock), Picture(pool)
    executor = Executor(
        broker, ledger, picture, counters, clock=clock, start_timeout_s=settings.scheduler_start_timeout_s
    )
    return Scheduler(
        broker=broker,
        ledger=ledger,
        leadership=Leadership(broker, settings.leadership, settings.instance_id, clock=clock),
        executor=executor,
        picture=picture,
        counters=counters,
        limits=settings.plan_limits,
        clock=clock,
        pool=pool,
    )


def main() -> None:
    """Run the service; the exit code says how it went."""
    sys.exit(run_service("scheduler", SchedulerSettings, serve))


if __name__ == "__main__":
    main()
