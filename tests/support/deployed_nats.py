"""A nats-server as deploy/nomad runs it: its own server.conf and users.conf, TLS, a password for each login."""

import asyncio
import contextlib
import os
import random
import signal
import socket
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

from greenroom.common.nats_broker import NatsBroker
from greenroom.devtools.embedded.child import Child
from greenroom.devtools.embedded.nats import find_nats_server
from greenroom.runner.isolation.callout import Issuer, new_seed
from tests.support.throwaway_ca import ThrowawayCa
from tests.support.workspace import ROOT

CONF: Final = ROOT / "deploy" / "nomad" / "nats"
LOGINS: Final = ("api", "scheduler", "runner", "recorder", "operator", "publisher", "admin")
_ADDRESS: Final = "127.0.0.1"
_START_TIMEOUT_S: Final = 30.0


class DeployedNats:
    """One server, not clustered.

    Args:
        folder: everything of it lies here.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.ca: Final = ThrowawayCa(folder / "ca")
        self.port: Final = quiet_port()
        # Signs the logins of session processes.
        self.issuer: Final = Issuer(new_seed())
        self._folder = folder
        self._child = Child("nats-server", folder / "nats.log")

    def url(self, login: str, *, scheme: str = "tls") -> str:
        """Return where `login` connects."""
        return f"{scheme}://{login}:{password(login)}@{_ADDRESS}:{self.port}"

    @contextlib.asynccontextmanager
    async def broker(self, login: str) -> AsyncGenerator[NatsBroker]:
        """Give a connection for the time of the block."""
        broker = await NatsBroker.connect(self.url(login), name=f"test {login}", timeout_s=5)
        try:
            yield broker
        finally:
            await broker.close()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator["DeployedNats"]:
        """Run the server for the time of the block."""
        self._write_configuration()
        self._child.start(
            [find_nats_server(), "--config", str(self._folder / "server.conf")],
            env=os.environ,
            orphan_signal=signal.SIGKILL,
        )
        listening = asyncio.create_task(self._listening())
        try:
            await self._child.wait_ready(listening.done, _START_TIMEOUT_S)
            yield self
        finally:
            listening.cancel()
            await self._child.stop((signal.SIGTERM, 5.0))

    def _write_configuration(self) -> None:
        certificate, key = self.ca.issue("nats-0", address=_ADDRESS)
        files = {
            # Only the ports are the test's: fixed ones could be taken.
            "server.conf": (CONF / "server.conf")
            .read_text()
            .replace("0.0.0.0:4222", f"{_ADDRESS}:{self.port}")
            .replace("0.0.0.0:8222", f"{_ADDRESS}:{quiet_port()}"),
            "users.conf": (CONF / "users.conf").read_text(),
            "passwords.conf": "".join(f'{login.upper()}_PASSWORD: "{password(login)}"\n' for login in LOGINS)
            + f'SESSION_ISSUER: "{self.issuer.public_key}"\n',
            "site.conf": f'server_name: "nats-0"\n'
            f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}\n'
            f'jetstream {{ store_dir: "{self._folder / "jetstream"}" }}\n',
        }
        for name, text in files.items():
            (self._folder / name).write_text(text)

    async def _listening(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(_ADDRESS, self.port)
                writer.close()
                return
            await asyncio.sleep(0.01)


def quiet_port() -> int:
    """Return a port that is free, and that no connection of others is given meanwhile: below the kernel's own range."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((_ADDRESS, port))
            return port


def password(login: str) -> str:
    """Return the password of a login of the test server: begins with a digit, which a variable must survive."""
    return f"1e5{login}"
