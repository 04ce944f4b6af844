"""The recorder as a process."""

import asyncio
import contextlib
import sys
from functools import partial

from greenroom.common.nats_broker import NatsBroker
from greenroom.common.service import Service, run_service
from greenroom.recorder import database, troubles
from greenroom.recorder.app import Recorder
from greenroom.recorder.settings import RecorderSettings
from greenroom.recorder.tracing import trace_statements_inside_spans

# Of the connections to the database, for the statement at hand.
CLOSE_TIMEOUT_S = 2.0
STOP_TIMEOUT_S = 10.0


async def serve(service: Service[RecorderSettings]) -> None:
    """Build the parts, and run them until the service is drained."""
    settings = service.settings
    trace_statements_inside_spans()
    async with contextlib.AsyncExitStack() as parts:
        broker = await NatsBroker.connect(settings.nats_url, name=f"recorder {settings.instance_id}")
        parts.push_async_callback(broker.close)
        pool = await database.open_pool(settings.database_url, size=settings.database_connections)
        parts.push_async_callback(database.close_pool, pool, timeout_s=CLOSE_TIMEOUT_S)

        recorder = Recorder(broker=broker, pool=pool, settings=settings, metrics=service.metrics)
        service.readiness.add("broker", recorder.check_broker)
        service.readiness.add("postgres", recorder.check_postgres)
        service.readiness.add("topology", recorder.check_topology)
        for place in (troubles.LIVE_AUDIO, troubles.SEALING):
            service.readiness.add(place, partial(recorder.troubles.of, place))
        work = service.spawn("recorder", recorder.run())

        async def stop() -> None:
            """Give leadership back, so that a standby takes over at once."""
            work.cancel()
            await asyncio.wait({work})

        service.on_drain("recorder", stop, timeout_s=STOP_TIMEOUT_S)
        service.mark_ready()
        await service.drained.wait()


def main() -> None:
    """Run the `greenroom-recorder` command."""
    sys.exit(run_service("recorder", RecorderSettings, serve))


if __name__ == "__main__":
    main()
