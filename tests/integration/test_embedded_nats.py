"""The embedded NATS server."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import nats
import psutil
import pytest
from nats.js.api import StreamConfig

from greenroom.devtools.embedded.child import EmbeddedServerFailed
from greenroom.devtools.embedded.nats import EmbeddedNats
from tests.support.processes import assert_gone
from tests.support.servers import wipe

STREAM = StreamConfig(name="KEPT", subjects=["kept.>"])

# Starts a server and says who and where it is, then lives until it is killed.
ORPHAN_MAKER = """
import asyncio, pathlib, sys, time
from greenroom.devtools.embedded.nats import EmbeddedNats
server = EmbeddedNats(pathlib.Path(sys.argv[1]))
asyncio.run(server.start())
print(server.pid, flush=True)
time.sleep(60)
"""


async def publish(server: EmbeddedNats, count: int) -> None:
    """Publish messages and wait for their acknowledgements."""
    client = await nats.connect(server.url)
    jetstream = client.jetstream()
    await jetstream.add_stream(STREAM)
    for number in range(count):
        await jetstream.publish("kept.it", str(number).encode())
    await client.close()


async def stored(server: EmbeddedNats) -> int:
    """Return how many messages the stream has."""
    client = await nats.connect(server.url)
    count = (await client.jetstream().stream_info("KEPT")).state.messages
    await client.close()
    return count


async def test_acknowledged_messages_survive_a_kill(own_nats: EmbeddedNats) -> None:
    """What was acknowledged is there after a kill and a restart, on the same ports."""
    await publish(own_nats, 50)
    url, monitor_url, pid = own_nats.url, own_nats.monitor_url, own_nats.pid
    await own_nats.kill()
    assert not own_nats.running
    await own_nats.start()
    assert (own_nats.url, own_nats.monitor_url) == (url, monitor_url)
    assert own_nats.pid != pid
    assert await stored(own_nats) == 50


async def test_streams_survive_a_stop_in_order(tmp_path: Path) -> None:
    """A server that is started in the folder of an earlier one has its streams and its password."""
    async with EmbeddedNats(tmp_path) as first:
        await publish(first, 3)
    async with EmbeddedNats(tmp_path) as second:
        assert await stored(second) == 3


async def test_only_whoever_knows_the_password_gets_in(own_nats: EmbeddedNats) -> None:
    """A client without the password is refused, and the files that hold it are for their owner only."""
    with socket.create_connection(("127.0.0.1", own_nats.port), timeout=5) as client:
        client.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
        said = b"".join(iter(lambda: client.recv(4096), b""))
    assert b"Authorization Violation" in said
    assert b"PONG" not in said
    for name in ("password", "nats.conf"):
        assert (own_nats.folder / name).stat().st_mode & 0o077 == 0


async def test_it_listens_on_loopback_only(own_nats: EmbeddedNats) -> None:
    """No port of it can be reached from another machine."""
    listening = [c for c in psutil.Process(own_nats.pid).net_connections() if c.status == psutil.CONN_LISTEN]
    assert {c.laddr.ip for c in listening} == {"127.0.0.1"}
    assert {c.laddr.port for c in listening} == {own_nats.port, own_nats.monitor_port}


async def test_monitoring_answers(own_nats: EmbeddedNats) -> None:
    """The monitoring port tells that the server and JetStream are well."""
    async with httpx.AsyncClient() as http:
        assert (await http.get(f"{own_nats.monitor_url}/healthz")).json() == {"status": "ok"}


async def test_it_has_a_quarter_of_the_processors(
    own_nats: EmbeddedNats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At least one; as many as `GOMAXPROCS` says where that is set."""
    assert await _threads(own_nats) == max(len(os.sched_getaffinity(0)) // 4, 1)
    monkeypatch.setenv("GOMAXPROCS", "3")
    async with EmbeddedNats(tmp_path / "3") as told:
        assert await _threads(told) == 3


async def _threads(server: EmbeddedNats) -> int:
    async with httpx.AsyncClient() as http:
        return (await http.get(f"{server.monitor_url}/varz")).json()["gomaxprocs"]


async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    """When the wanted port is taken, the error has the server's own words for it and nothing is left running."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        server = EmbeddedNats(tmp_path, other.getsockname()[1])
        with pytest.raises(EmbeddedServerFailed, match="address already in use"):
            await server.start()
    assert not server.running


async def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """When whoever started it is killed, the server is gone within a second."""
    with subprocess.Popen([sys.executable, "-c", ORPHAN_MAKER, str(tmp_path)], stdout=subprocess.PIPE) as maker:
        assert maker.stdout is not None
        server = psutil.Process(int(maker.stdout.readline()))
        maker.kill()
    assert_gone(server)


async def test_wiping_leaves_no_stream(nats_server: EmbeddedNats, nats_url: str) -> None:
    """The server of the run is empty again for the next test."""
    await publish(nats_server, 1)
    await wipe(nats_server)
    client = await nats.connect(nats_url)
    assert await client.jetstream().streams_info() == []
    await client.close()
