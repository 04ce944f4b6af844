"""A TURN server on loopback: coturn, with the secret that it shares with whoever makes credentials.

    async with coturn(folder, secret="north") as server:
        server.urls  # ("turn:127.0.0.1:40123?transport=udp", …)

Without the program tests fail: `.ci/run` says which package has it.
"""

import asyncio
import contextlib
import shutil
import socket
import struct
import subprocess
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Final

from greenroom.devtools.process import free_port

REALM: Final = "greenroom.test"
_HOST: Final = "127.0.0.1"
_PATIENCE_S: Final = 30.0
_LOOK_EVERY_S: Final = 0.1
# Somebody may ask for the very port that is held, and for no other.
_ATTEMPTS: Final = 5
_BINDING_REQUEST: Final = struct.pack("!HHI12s", 0x0001, 0, 0x2112A442, b"are-you-here")
_BINDING_SUCCESS: Final = 0x0101


class Coturn:
    """A running server.

    Args:
        port: where it listens, over UDP and TCP.
        log: what it says.
    """

    def __init__(self, port: int, log: Path) -> None:
        self.port = port
        self._log = log

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return (_HOST, self.port)

    @property
    def urls(self) -> tuple[str, ...]:
        """How clients are told of it."""
        return tuple(f"turn:{_HOST}:{self.port}?transport={transport}" for transport in ("udp", "tcp"))

    @property
    def log(self) -> str:
        """What it has said."""
        return self._log.read_text(errors="replace")


@contextlib.asynccontextmanager
async def coturn(folder: Path, *, secret: str) -> AsyncGenerator[Coturn]:
    """Run a server for the time of the block.

    Args:
        folder: for its log and its database.
        secret: its `static-auth-secret`.
    """
    program = shutil.which("turnserver")
    assert program, "no TURN server: apt-get install coturn"
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "coturn.log"
    for _ in range(_ATTEMPTS):
        with contextlib.ExitStack() as held:
            server = Coturn(held.enter_context(held_port()), log)
            process = await _started(program, server, folder, secret)
            try:
                if await _answers(server, process):
                    # Now the server keeps it by itself.
                    held.close()
                    yield server
                    return
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
    raise AssertionError(f"coturn doesn't start:\n{log.read_text(errors='replace')}")


async def _started(program: str, server: Coturn, folder: Path, secret: str) -> asyncio.subprocess.Process:
    with (folder / "coturn.log").open("wb") as output:
        return await asyncio.create_subprocess_exec(
            program,
            "-n",  # what the package has put into /etc is for a service
            f"--listening-ip={_HOST}",
            f"--relay-ip={_HOST}",
            f"--listening-port={server.port}",
            "--use-auth-secret",
            f"--static-auth-secret={secret}",
            f"--realm={REALM}",
            "--allow-loopback-peers",
            "--no-cli",
            "--no-tls",
            "--no-dtls",
            "--no-tcp-relay",
            "--no-rfc5780",
            f"--pidfile={folder / 'coturn.pid'}",
            f"--userdb={folder / 'turndb'}",
            "--log-file=stdout",
            "--verbose",
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )


async def _answers(server: Coturn, process: asyncio.subprocess.Process) -> bool:
    """Wait until the server answers over UDP and takes connections; False: it has ended, or doesn't for too long.

    One that isn't given its port tries for ever.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE_S):
            while process.returncode is None:
                with contextlib.suppress(OSError, TimeoutError):
                    reply = await _asked(server)
                    # It may be another program's port.
                    return struct.unpack_from("!H", reply)[0] == _BINDING_SUCCESS
                await asyncio.sleep(_LOOK_EVERY_S)
    return False


async def _asked(server: Coturn) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.setblocking(False)  # noqa: FBT003 the standard library's own signature
        asking.connect(server.address)
        asking.send(_BINDING_REQUEST)
        reply = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(asking, 1500), _LOOK_EVERY_S)
    _, writer = await asyncio.open_connection(*server.address)
    writer.close()
    return reply


@contextlib.contextmanager
def held_port() -> Generator[int]:
    """Find a port of loopback that nobody has for TCP and UDP, and have nobody else given it for the time of the block.

    A server that reuses addresses, as coturn does, may have it meanwhile.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        while True:
            port = free_port()
            with contextlib.suppress(OSError):
                datagrams.bind((_HOST, port))
                break
        # Only now: of two who both reuse addresses neither would be in the other's way.
        datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        yield port
