"""NATS servers as jobs/nats.nomad.hcl runs them: from its own templates, on loopback instead of three nodes."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

from greenroom.common.nats_broker import NatsBroker
from greenroom.devtools.embedded.child import Child
from greenroom.devtools.embedded.nats import find_nats_server
from greenroom.runner.isolation.callout import Issuer, new_seed
from tests.support import nomad_templates
from tests.support.deployed_jobs import job_of, main_task
from tests.support.deployed_nats import LOGINS, password, quiet_port
from tests.support.jobspec import Body
from tests.support.nomad_templates import Nomad
from tests.support.throwaway_ca import ThrowawayCa

_ADDRESS: Final = "127.0.0.1"
_START_TIMEOUT_S: Final = 30.0


class Server:
    """One server of a cluster; may be killed, and started again on the same ports and streams."""

    def __init__(self, number: int, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder: Final = folder
        self.number: Final = number
        self.client_port: Final = quiet_port()
        self.route_port: Final = quiet_port()
        self.monitor_port: Final = quiet_port()
        self.child: Final = Child("nats-server", folder / "nats.log")

    async def start(self) -> None:
        """Start, and return when it listens."""
        self.child.start(
            [find_nats_server(), "--config", str(self.folder / "server.conf")],
            env=os.environ,
            orphan_signal=signal.SIGKILL,
        )
        listening = asyncio.create_task(self._listening())
        try:
            await self.child.wait_ready(listening.done, _START_TIMEOUT_S)
        finally:
            listening.cancel()

    async def _listening(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(_ADDRESS, self.client_port)
                writer.close()
                return
            await asyncio.sleep(0.02)


class Cluster:
    """Servers that know of each other.

    Args:
        folder: everything of them lies here.
        count: how many.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.ca: Final = ThrowawayCa(folder / "ca")
        self.servers: Final = [Server(number, folder / f"nats-{number}") for number in range(count)]
        self.configure(count)

    def configure(self, count: int) -> None:
        """Write the servers' files, as for a job with so many of them."""
        job = job_of("nats", "prod" if count > 1 else "dev")
        for server in self.servers:
            self._write(server, main_task(job))

    def url(self, login: str) -> str:
        """Return where `login` connects: to any of them."""
        return ",".join(f"tls://{login}:{password(login)}@{_ADDRESS}:{each.client_port}" for each in self.servers)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Run all servers for the time of the block."""
        try:
            await asyncio.gather(*(server.start() for server in self.servers))
            yield
        finally:
            await asyncio.gather(*(server.child.kill() for server in self.servers))

    @contextlib.asynccontextmanager
    async def broker(self, login: str) -> AsyncGenerator[NatsBroker]:
        """Give a connection for the time of the block."""
        broker = await NatsBroker.connect(self.url(login), name=f"test {login}", timeout_s=5)
        try:
            yield broker
        finally:
            await broker.close()

    def _write(self, server: Server, task: Body) -> None:
        certificate, key = self.ca.issue(f"nats-{server.number}", address=_ADDRESS)
        nomad = Nomad(
            env={
                "NOMAD_ALLOC_INDEX": str(server.number),
                "NOMAD_ADDR_client": f"{_ADDRESS}:{server.client_port}",
                "NOMAD_ADDR_route": f"{_ADDRESS}:{server.route_port}",
                "NOMAD_SECRETS_DIR": str(server.folder),
            },
            services={"nats-route": [(_ADDRESS, each.route_port) for each in self.servers]},
            variables={
                "nomad/jobs": {"nats_ca": self.ca.certificate.read_text()},
                "nomad/jobs/nats": {
                    "server_certificate": certificate.read_text(),
                    "server_key": key.read_text(),
                    **{f"{login}_password": password(login) for login in LOGINS},
                    "session_issuer": Issuer(new_seed()).public_key,
                },
            },
        )
        here = {
            "0.0.0.0:4222": f"{_ADDRESS}:{server.client_port}",
            "0.0.0.0:6222": f"{_ADDRESS}:{server.route_port}",
            "0.0.0.0:8222": f"{_ADDRESS}:{server.monitor_port}",
            '"/data/': f'"{server.folder}/',
        }
        for template in task["template"]:
            text = nomad_templates.render(template["data"], nomad)
            for there, instead in here.items():
                text = text.replace(there, instead)
            (server.folder / Path(template["destination"]).name).write_text(text)
