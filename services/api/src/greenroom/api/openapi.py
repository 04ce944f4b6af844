"""The OpenAPI document, made from the routes themselves.

`python -m greenroom.api.openapi docs/openapi.json` writes it; a test fails when the file is out of date.
"""

import argparse
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import msgspec
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.spec import Components, License, SecurityScheme, Server, Tag

from greenroom.api.routes import all_routes
from greenroom.api.settings import ApiSettings

_DESCRIPTION: Final = """
Voice sessions with Pipecat agents: ask for one, connect to it, follow it, and fetch what was kept of it.

Every request needs a key, `Authorization: Bearer gr_…`. Errors are problem details (RFC 9457) whose `code` is stable;
`retryable` says whether the same request may succeed later. Every answer has `X-Request-Id`, and `X-Trace-Id` where
it was traced. The media WebSocket is described in docs/api.md.
"""


def document(routes: Sequence[HTTPRouteHandler]) -> dict[str, Any]:
    """Return the document for the routes."""
    app = Litestar(
        route_handlers=routes,
        logging_config=None,
        openapi_config=OpenAPIConfig(
            title="Greenroom",
            version=metadata.version("greenroom-api"),
            description=_DESCRIPTION.strip(),
            license=License(name="Apache-2.0", identifier="Apache-2.0"),
            servers=[Server(url="/")],
            tags=[
                Tag(name="sessions", description="Ask, look, follow, stop"),
                Tag(name="pipecat", description="The same for clients of Pipecat and its like, by their paths"),
                Tag(name="recordings", description="What was said"),
                Tag(name="agents", description="What can be asked for"),
                Tag(name="calls", description="Phone numbers, and what telephone carriers ask"),
                Tag(name="policy", description="What operators decide about scheduling, and how it stands"),
                Tag(name="retention", description="How long sessions are kept, and erasing them"),
                Tag(name="tenants", description="Who there is, and who gets new sessions"),
                Tag(name="webhooks", description="What providers tell"),
                Tag(name="system", description="For operators"),
            ],
            components=Components(
                security_schemes={"key": SecurityScheme(type="http", scheme="bearer", description="`gr_…`")}
            ),
            security=[{"key": []}],
            use_handler_docstrings=True,
        ),
    )
    return app.openapi_schema.to_schema()


def render() -> bytes:
    """Return the document as the file has it. The routes are only looked at, so nothing is behind them."""
    nothing: Any = None
    routes = all_routes(
        sessions=nothing,
        daily_rooms=nothing,
        daily_goers=nothing,
        commands=nothing,
        moves=nothing,
        bot_http=nothing,
        listen_tickets=nothing,
        store=nothing,
        policies=nothing,
        scheduler=nothing,
        policy=nothing,
        spending=nothing,
        streams=nothing,
        reading=nothing,
        offers=nothing,
        peer_tokens=nothing,
        agents=nothing,
        fleet=nothing,
        transports=(),
        numbers=nothing,
        calls=nothing,
        broker=nothing,
        readiness=nothing,
        settings=ApiSettings(database_url=""),
        schema=nothing,
    )
    return msgspec.json.format(msgspec.json.encode(document(routes)), indent=2) + b"\n"


def main() -> None:
    """Write the document."""
    parser = argparse.ArgumentParser(prog="python -m greenroom.api.openapi", description="Write the OpenAPI document.")
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    arguments.file.write_bytes(render())


if __name__ == "__main__":
    main()
