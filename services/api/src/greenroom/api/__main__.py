"""`greenroom-api`: settings, parts, run."""

import asyncio
import sys
from contextlib import AsyncExitStack
from typing import Final

import structlog

from greenroom.api.parts import Parts
from greenroom.api.prerequisites import Prerequisites
from greenroom.api.server import listen, make_server
from greenroom.api.settings import ApiSettings
from greenroom.api.store import open_store
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.nats_broker import NatsBroker
from greenroom.common.service import Service, run_service

_log = structlog.get_logger()

_STARTED_POLL_S: Final = 0.01
_STREAMS_TIMEOUT_S: Final = 1.0


async def serve(service: Service[ApiSettings]) -> None:
    """Serve until the service is drained.

    Raises:
        SettingsInvalid: the address can't be listened on.
        BrokerUnavailable: there is no NATS server.
    """
    settings = service.settings
    # Before anything else: whoever starts us wants to know at once that the port is taken.
    listening = listen(settings.api_host, settings.api_port)
    async with AsyncExitStack() as closing:
        closing.callback(listening.close)
        broker = await NatsBroker.connect(settings.nats_url, name=f"api {settings.instance_id}")
        closing.push_async_callback(broker.close)
        store = await open_store(settings.database_url)
        closing.push_async_callback(store.close)

        service.readiness.add("broker", lambda: None if broker.connected else BrokerUnavailable.code)
        prerequisites = Prerequisites(broker, store, service.readiness)
        parts = Parts(
            broker=broker, store=store, settings=settings, metrics=service.metrics, readiness=service.readiness
        )
        await closing.enter_async_context(parts.running())
        service.on_drain("events", parts.streams.drain, timeout_s=_STREAMS_TIMEOUT_S)
        service.on_drain("bot_http", parts.bot_http.drain, timeout_s=_STREAMS_TIMEOUT_S)
        service.on_drain("listening", parts.listening.drain, timeout_s=_STREAMS_TIMEOUT_S)
        service.on_drain("media", parts.media.drain, timeout_s=settings.drain_timeout_s)

        server = make_server(parts.app, settings)
        serving = service.spawn("http", server.serve(sockets=[listening]))
        while not server.started and not serving.done():  # noqa: ASYNC110 uvicorn has nothing to wait on
            await asyncio.sleep(_STARTED_POLL_S)
        host, port = listening.getsockname()[:2]
        _log.info("api_listening", host=host, port=port)
        await prerequisites.streams(service.stopping)
        if not await prerequisites.look_at_schema():
            service.spawn("schema", prerequisites.schema())
        service.mark_ready()
        await service.drained.wait()
        server.should_exit = True
        await asyncio.wait([serving])


def main() -> None:
    """Run the service; the exit code says how it went."""
    sys.exit(run_service("api", ApiSettings, serve))


if __name__ == "__main__":
    main()
