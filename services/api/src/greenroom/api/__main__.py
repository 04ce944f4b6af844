"""`greenroom-api`: settings, parts, run."""

import asyncio
import sys
from contextlib import AsyncExitStack
from typing import Final

import structlog

from greenroom.api.parts import Parts
from greenroom.api.server import listen, make_server
from greenroom.api.settings import ApiSettings
from greenroom.api.store import open_store
from greenroom.common import topology_admin
from greenroom.common.errors import BrokerUnavailable, TopologyMissing
from greenroom.common.nats_broker import NatsBroker
from greenroom.common.service import Service, run_service

_log = structlog.get_logger()

_TOPOLOGY_RETRY_S: Final = 0.5
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
        await _wait_for_topology(broker, service)
        service.mark_ready()
        await service.drained.wait()
        server.should_exit = True
        await asyncio.wait([serving])


async def _wait_for_topology(broker: NatsBroker, service: Service[ApiSettings]) -> None:
    """Return once the streams are there, or the service stops; somebody runs `greenroom topology apply` meanwhile."""
    while not service.stopping.is_set():
        try:
            await topology_admin.check(broker)
        except (TopologyMissing, BrokerUnavailable) as error:
            _log.warning("topology_awaited", code=error.code, detail=error.detail)
            await asyncio.sleep(_TOPOLOGY_RETRY_S)
        else:
            return


def main() -> None:
    """Run the service; the exit code says how it went."""
    sys.exit(run_service("api", ApiSettings, serve))


if __name__ == "__main__":
    main()
