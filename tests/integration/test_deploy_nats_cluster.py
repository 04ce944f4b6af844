"""What the nats job says makes a cluster of real servers, which loses what docs/runbooks says, and no more."""

import array
import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from pathlib import Path

import httpx
import pytest

from greenroom.common import subjects, topology_admin
from greenroom.common.broker import Broker
from greenroom.common.consumer import Consumer
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.ids import uuid7
from greenroom.common.nats_broker import NatsBroker
from greenroom.devtools.embedded.nats import find_nats_server
from tests.support.leader_changes import LEADERS, PIECE_BYTES, ClusterWorld
from tests.support.nats_cluster import Cluster, Server
from tests.support.recorder_world import eventually, wav_channels

# Electing anew takes 5 to 20 s, and longer where the servers have to wait for a core.
_DEADLINE_S = 90.0


@pytest.fixture(scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Cluster]:
    """Run three servers with streams on all of them; every test leaves all three running."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), 3)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SSL_CERT_DIR", str(cluster.ca.hashed_folder()))
        async with cluster.running():
            await _all_healthy(cluster)
            async with cluster.broker("operator") as operator:
                await topology_admin.apply(operator, replicas=3)
            yield cluster


@pytest.mark.parametrize("count", [1, 3])
def test_the_templates_become_files_that_nats_takes(tmp_path: Path, count: int) -> None:
    """For one server and for three; nothing of the template language is left in them."""
    cluster = Cluster(tmp_path, count)
    for server in cluster.servers:
        files = list(server.folder.iterdir())
        assert not [file.name for file in files if "{{" in file.read_text()]
        assert ("cluster {" in (server.folder / "site.conf").read_text()) == (count > 1)
        checked = subprocess.run(
            [find_nats_server(), "-t", "--config", str(server.folder / "server.conf")],
            check=False, capture_output=True, text=True, timeout=10,
        )  # fmt: skip
        assert checked.returncode == 0, checked.stderr


async def test_one_server_may_go_and_come_back(cluster: Cluster) -> None:
    """Its clients go to the others before it has ended (lame duck), appends go on, and it catches up by itself."""
    first = cluster.servers[0]
    async with cluster.broker("api") as api:
        await _eventually(lambda: _stored(api))
        first.child.signal(signal.SIGUSR2)
        await _eventually(lambda: _without(api, first))
        await first.child.kill()
        await _eventually(lambda: _stored(api))
    await first.start()
    await _all_healthy(cluster)


@pytest.mark.timeout(150)  # raft takes its time
async def test_a_consumer_outlasts_its_leader(cluster: Cluster) -> None:
    """The server that leads the recorder's consumer is killed: whatever was published is handled all the same."""
    event = subjects.SESSION_EVENT.format(tenant="acme", session_id=uuid7(), type="crm.note")
    handled: list[bytes] = []

    async def handle(batch: Sequence[bytes]) -> None:
        handled.extend(batch)

    async with cluster.broker("publisher") as publisher, cluster.broker("recorder") as recorder:
        consumer = Consumer(
            recorder, "SESSIONS", "recorder-sessions", decode=lambda message: message.data, handle=handle, max_batch=7
        )
        working = asyncio.create_task(consumer.run())
        texts = [f"{number}".encode() for number in range(60)]
        for text in texts[:30]:
            await _eventually(lambda text=text: publisher.append(event, text, msg_id=f"{event} {text.decode()}"))
        await _eventually(lambda: _at_least(handled, 10))
        leader = await _leader_of_the_consumer(cluster)
        await leader.child.kill()
        for text in texts[30:]:
            await _eventually(lambda text=text: publisher.append(event, text, msg_id=f"{event} {text.decode()}"))
        await _eventually(lambda: _at_least(set(handled), 60))
        working.cancel()
        await asyncio.wait({working})
    assert set(handled) == set(texts)
    await leader.start()
    await _all_healthy(cluster)


async def _at_least(found: Collection[bytes], count: int) -> None:
    assert len(found) >= count


async def _leader_of_the_consumer(cluster: Cluster) -> Server:
    async with cluster.broker("operator") as operator:
        info = await operator.client.jetstream().consumer_info("SESSIONS", "recorder-sessions")
    assert info.cluster is not None
    return next(server for server in cluster.servers if str(info.cluster.leader).endswith(str(server.number)))


@pytest.mark.timeout(240)  # raft takes its time
async def test_a_recorder_outlasts_changes_of_leaders(cluster: Cluster, database: str, tmp_path: Path) -> None:
    """All leaders that it depends on change in mid-call: nothing is lost, stored twice or parked; audio to the bit."""
    spoken, pieces = os.urandom(40 * PIECE_BYTES), 40
    async with contextlib.AsyncExitStack() as stack:
        operator = await stack.enter_async_context(cluster.broker("operator"))
        runner = await stack.enter_async_context(cluster.broker("runner"))
        here = ClusterWorld(runner, database, tmp_path / "recordings", cluster)
        await stack.enter_async_context(here.recorder())
        parked = await operator.count("PARKED", subjects.PARKED.wildcard())
        entry, changed = await here.call_through_changes(operator, spoken, within_s=_DEADLINE_S)
        assert changed >= len(LEADERS)
        await eventually(lambda: here.stored(entry.session), lambda row: row.get("sealed_at"), within_s=_DEADLINE_S)
        await eventually(
            lambda: here.event_types(entry.session), lambda types: types[-1] == "recording_saved", within_s=_DEADLINE_S
        )
        told = await here.rows(
            "SELECT id FROM session_events WHERE session_id = $1 AND type = 'user_spoke' ORDER BY stream_seq",
            entry.session.id,
        )
        assert [each["id"] for each in told] == [f"e{number}" for number in range(1, pieces + 1)]
        assert len(await here.event_types(entry.session)) == 4 + pieces + 2
        (row,) = await here.recordings(entry.session)
        assert await operator.count("PARKED", subjects.PARKED.wildcard()) == parked
    left, _ = wav_channels(here.folder / row["path"])
    assert (array.array("h", left).tobytes(), row["gaps"]) == (spoken, "[]")
    await _all_healthy(cluster)


@pytest.mark.timeout(300)  # raft takes its time: all streams and consumers elect anew
async def test_two_of_three_may_be_lost_for_good(cluster: Cluster) -> None:
    """Meanwhile nothing is stored and core messages flow; then new servers of the old names take everything over."""
    last, lost = cluster.servers[2], cluster.servers[:2]
    subject = subjects.TICKET.format(key=uuid7())
    async with cluster.broker("api") as api:
        kept = await _eventually(lambda: api.append(subject, b"{}"))
        await _all_healthy(cluster)
        for server in lost:
            await server.child.kill()
            shutil.rmtree(server.folder / "jetstream")
        await _eventually(lambda: _connected_to(api, last))
        with pytest.raises(BrokerUnavailable):
            await _stored(api)
        await _hears_itself(cluster)
        # Both at once: an empty server has no say of its own, so one of them and the last are no majority.
        await asyncio.gather(*(server.start() for server in lost))
        await _eventually(lambda: _holds(api, subject, kept))
        assert await _eventually(lambda: _stored(api)) > kept
        await _all_healthy(cluster)
        await _eventually(lambda: topology_admin.check(api))


async def _stored(broker: Broker) -> int:
    return await broker.append(subjects.TICKET.format(key=uuid7()), b"{}", timeout_s=2)


async def _holds(broker: Broker, subject: str, sequence: int) -> None:
    message = await broker.last("TICKETS", subject)
    assert message is not None
    assert message.stream_seq == sequence


async def _without(broker: NatsBroker, server: Server) -> None:
    url = broker.client.connected_url
    assert broker.connected
    assert url is not None
    assert url.port != server.client_port


async def _connected_to(broker: NatsBroker, server: Server) -> None:
    url = broker.client.connected_url
    assert broker.connected
    assert url is not None
    assert url.port == server.client_port


async def _all_healthy(cluster: Cluster) -> None:
    for server in cluster.servers:
        await _eventually(lambda server=server: _healthy(server))


async def _healthy(server: Server) -> None:
    async with httpx.AsyncClient() as client:
        response = await client.get(f"http://127.0.0.1:{server.monitor_port}/healthz")
    assert response.status_code == httpx.codes.OK


async def _hears_itself(cluster: Cluster) -> None:
    """Messages that nobody keeps go from one client to another."""
    heard = asyncio.Event()

    async def hear(_: object) -> None:
        heard.set()

    async with cluster.broker("runner") as runner, cluster.broker("api") as api:
        await api.subscribe(subjects.RUNNER_HEARTBEAT.wildcard(), hear)
        # nats-py's first ping may overtake the subscription, the second can't;
        await api.client.flush(5)
        await api.client.flush(5)
        await runner.publish(subjects.RUNNER_HEARTBEAT.format(pool="default", runner_id="r1"), b"{}")
        await asyncio.wait_for(heard.wait(), 20)


async def _eventually[T](attempt: Callable[[], Awaitable[T]]) -> T:
    """Return what `attempt` returns once it doesn't fail any more."""
    async with asyncio.timeout(_DEADLINE_S):
        while True:
            with contextlib.suppress(BrokerUnavailable, AssertionError, httpx.HTTPError, TimeoutError):
                return await attempt()
            await asyncio.sleep(0.1)
