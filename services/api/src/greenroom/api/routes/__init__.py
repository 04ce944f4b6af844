"""The routes: what HTTP says, turned into calls of the parts and back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from litestar.handlers import HTTPRouteHandler

from greenroom.api.agents import Agents
from greenroom.api.fleet import Fleet
from greenroom.api.routes.events import event_routes
from greenroom.api.routes.recordings import recording_routes
from greenroom.api.routes.sessions import session_routes
from greenroom.api.routes.system import system_routes
from greenroom.api.sessions import Sessions
from greenroom.api.settings import ApiSettings
from greenroom.api.sse import EventStreams
from greenroom.api.store import Store
from greenroom.common.broker import Broker
from greenroom.common.health import Readiness


def all_routes(
    *,
    sessions: Sessions,
    store: Store,
    streams: EventStreams,
    agents: Agents,
    fleet: Fleet,
    broker: Broker,
    readiness: Readiness,
    settings: ApiSettings,
    schema: Callable[[], dict[str, Any]],
) -> list[HTTPRouteHandler]:
    """Return all routes of HTTP; `schema` gives their OpenAPI document."""
    return [
        *session_routes(sessions, store, settings.public_url),
        *event_routes(sessions, store, streams, settings.api_max_streams),
        *recording_routes(sessions, store, Path(settings.recordings_dir)),
        *system_routes(
            agents=agents,
            fleet=fleet,
            store=store,
            broker=broker,
            readiness=readiness,
            instance_id=settings.instance_id,
            schema=schema,
        ),
    ]
