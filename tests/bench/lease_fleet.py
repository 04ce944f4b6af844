"""Simulated runners for measuring the scheduler: `python -m tests.bench.lease_fleet RUNNERS SLOTS` reads NATS_URL.

Prints a line once it may be told to begin, reads one, announces the runners, and lives until it is killed.
"""

import asyncio
import os
import sys

import uvloop

from greenroom.common.clock import SystemClock
from greenroom.common.log import configure_logging
from greenroom.common.nats_broker import NatsBroker
from tests.support.simulated_runner import SimulatedRunner


async def main() -> None:
    """Run the fleet."""
    configure_logging("bench", level="warning", form="console", instance_id="fleet")
    count, slots = int(sys.argv[1]), int(sys.argv[2])
    broker = await NatsBroker.connect(os.environ["NATS_URL"], name="fleet")
    clock = SystemClock()
    runners = [SimulatedRunner(broker, clock, f"r{index}", slots=slots, standby=slots) for index in range(count)]
    print("there", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for runner in runners:
        await runner.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
