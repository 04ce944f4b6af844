"""uvicorn, set up for this service: a socket of ours, signals left to the shell, no paths in logs, peers bounded."""

import contextlib
import logging
import os
import socket
from collections.abc import Generator
from typing import Any, Final, cast

import uvicorn

from greenroom.api.media_protocol import MediaProtocol
from greenroom.api.settings import ApiSettings
from greenroom.common.errors import SettingsInvalid

# A peer that acknowledges nothing, or has no room for anything, is cut off by the kernel after this.
_USER_TIMEOUT_MS: Final = 120_000
_PING_S: Final = 20.0
_KEEP_ALIVE_S: Final = 30
_BACKLOG: Final = 2048
# What goes on after the drain is cut off.
_SHUTDOWN_S: Final = 2


class Server(uvicorn.Server):
    """Serves until told to stop, by `should_exit`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals to the shell of the service."""
        yield


def make_server(app: Any, settings: ApiSettings) -> Server:
    """Return a server for an ASGI app; `serve(sockets=[…])` runs it."""
    config = uvicorn.Config(
        app,
        loop="none",
        http="httptools",
        ws=cast("Any", MediaProtocol),
        ws_max_size=settings.media_max_frame_bytes,
        ws_ping_interval=_PING_S,
        ws_ping_timeout=_PING_S,
        # 20 ms of audio don't become smaller, but each frame would cost 0.1 ms and each socket 100 kB.
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        # Below `warning` uvicorn logs the paths of WebSockets, which hold tickets.
        log_level="warning",
        access_log=False,
        server_header=False,
        # Behind a proxy the scheme of URLs comes from GREENROOM_PUBLIC_URL; nobody's headers are believed.
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_SHUTDOWN_S,
        # Requests must not inherit the trace of whoever opened the connection.
        reset_contextvars=True,
    )
    server = Server(config)
    logging.getLogger("uvicorn.error").addFilter(_worth_logging)
    return server


def _worth_logging(record: logging.LogRecord) -> bool:
    """Leave out what uvicorn says of every handshake that is refused with an HTTP answer."""
    return record.msg != "ASGI callable returned without completing handshake."


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes any that is free.

    Raises:
        SettingsInvalid: the address can't be listened on.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; connections inherit it
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else "not an address"
        raise SettingsInvalid(
            f"GREENROOM_API_HOST and GREENROOM_API_PORT: can't listen on {host}:{port} ({reason})"
        ) from error
    listening.setblocking(False)  # noqa: FBT003 it has no keyword
    return listening
