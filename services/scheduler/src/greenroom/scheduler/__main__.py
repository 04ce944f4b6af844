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
from greenroom.common.spool import Spool
from greenroom.scheduler.answers import Answers
from greenroom.scheduler.app import Scheduler
from greenroom.scheduler.counters import Counters
from greenroom.scheduler.decisions import Decisions
from greenroom.scheduler.executor import Executor
from greenroom.scheduler.keeper import Keeper
from greenroom.scheduler.launchers.base import Launcher
from greenroom.scheduler.launchers.settings import launcher_for
from greenroom.scheduler.moves import Moves
from greenroom.scheduler.picture import Picture
from greenroom.scheduler.pin_keeper import PinKeeper
from greenroom.scheduler.settings import SchedulerSettings

# To finish what was begun (2 s), to hand over leadership (2 s at most), so that the next one plans at once, and to send
# the last decisions (1 s).
_HAND_OVER_S = 5.5
# Decisions, of half a kilobyte each: tens of thousands may wait for a broker that is away.
_SPOOL_BYTES = 16 * 1024 * 1024
# The 20 ms behind a decision belong to the start that it brings about.
_LINGER_S = 0.1


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
        async with launcher_for(settings, clock) as launcher:
            scheduler = compose(settings, broker, clock, Counters(service.metrics), launcher)
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


def compose(
    settings: SchedulerSettings, broker: Broker, clock: Clock, counters: Counters, launcher: Launcher
) -> Scheduler:
    """Return a scheduler made of its parts."""
    pool = settings.scheduler_pool or None
    ledger, limits = Ledger(broker, clock=clock, on_corrupt=counters.corrupt.inc), settings.plan_limits
    picture, spool = Picture(pool, limits=limits), Spool(broker, max_bytes=_SPOOL_BYTES, linger_s=_LINGER_S)
    decisions = Decisions(spool, clock=clock)
    keeper = Keeper(broker, launcher, picture, decisions, clock=clock, lost_s=limits.runner_lost_s)
    executor = Executor(
        broker,
        ledger,
        picture,
        keeper=keeper,
        launcher=launcher,
        decisions=decisions,
        counters=counters,
        clock=clock,
        start_timeout_s=settings.scheduler_start_timeout_s,
    )
    pins = PinKeeper(broker, ledger, picture, decisions, clock=clock)
    return Scheduler(
        moves=Moves(broker, picture, executor, pool=pool),
        broker=broker,
        ledger=ledger,
        leadership=Leadership(broker, settings.leadership, settings.instance_id, clock=clock),
        executor=executor,
        picture=picture,
        keeper=keeper,
        pins=pins,
        answers=Answers(broker, picture, keeper, pins, clock=clock, leader=settings.instance_id, pool=pool),
        launcher=launcher,
        spool=spool,
        decisions=decisions,
        counters=counters,
        clock=clock,
        pool=pool,
    )


def main() -> None:
    """Run the service; the exit code says how it went."""
    sys.exit(run_service("scheduler", SchedulerSettings, serve))


if __name__ == "__main__":
    main()
