"""Topology on NATS: made, compared, mended, checked."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, RePublish, StoreCompression

from greenroom.common import topology, topology_admin
from greenroom.common.errors import BrokerUnavailable, TopologyMissing
from greenroom.common.nats_broker import NatsBroker
from greenroom.common.topology_admin import Difference
from greenroom.devtools.embedded.nats import EmbeddedNats

EVERYTHING = len(topology.STREAMS) + len(topology.CONSUMERS)


@pytest.fixture
async def broker(nats_url: str) -> AsyncGenerator[NatsBroker]:
    """A connection to a server without streams."""
    connection = await NatsBroker.connect(nats_url, name="test-topology")
    yield connection
    await connection.close()


@pytest.fixture
async def made(broker: NatsBroker) -> JetStreamContext:
    """The administration of a server that has everything."""
    await topology_admin.apply(broker)
    return broker.client.jetstream()


async def test_an_empty_server_lacks_everything(broker: NatsBroker) -> None:
    """Each stream and each consumer is named; looking changes nothing."""
    differences = await topology_admin.diff(broker)
    assert len(differences) == EVERYTHING
    assert all(difference.field is None for difference in differences)
    assert str(differences[0]) == "stream SESSIONS is missing"
    assert await topology_admin.diff(broker) == differences


async def test_after_apply_there_is_no_difference(broker: NatsBroker) -> None:
    """What was made is returned, and the check is passed."""
    with pytest.raises(TopologyMissing, match=f"stream SESSIONS is missing .and {EVERYTHING - 1} more"):
        await topology_admin.check(broker)
    assert len(await topology_admin.apply(broker)) == EVERYTHING
    assert await topology_admin.diff(broker) == []
    await topology_admin.check(broker)


async def test_apply_may_be_repeated(broker: NatsBroker, made: JetStreamContext) -> None:
    """The second time there is nothing to do, and what is stored stays."""
    await broker.append("gr.v1.leader.x", b"1")
    created = (await made.stream_info("SESSIONS")).created
    assert await topology_admin.apply(broker) == []
    assert (await made.stream_info("SESSIONS")).created == created
    assert await broker.count("LEADERS", "gr.v1.leader.x") == 1


async def test_a_missing_consumer_is_found_and_made(broker: NatsBroker, made: JetStreamContext) -> None:
    """The check says what is missing and what to do about it."""
    await made.delete_consumer("AUDIO", "recorder-audio")
    assert await topology_admin.diff(broker) == [Difference(kind="consumer", name="recorder-audio")]
    with pytest.raises(TopologyMissing, match=r"consumer recorder-audio is missing: run `greenroom topology apply`"):
        await topology_admin.check(broker)
    assert len(await topology_admin.apply(broker)) == 1
    assert await topology_admin.diff(broker) == []


async def test_a_missing_stream_takes_its_consumers_with_it(broker: NatsBroker, made: JetStreamContext) -> None:
    """Both are found, and made in the order in which that is possible."""
    await made.delete_stream("AUDIO")
    assert [str(difference) for difference in await topology_admin.diff(broker)] == [
        "stream AUDIO is missing",
        "consumer recorder-audio is missing",
    ]
    await topology_admin.apply(broker)
    assert await topology_admin.diff(broker) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("subjects", ["gr.v1.leader.*", "gr.v1.former_leader.*"]),
        ("max_age", 60.0),
        ("max_msgs_per_subject", 5),
        ("max_msg_size", 1000),
        ("duplicate_window", 1.0),
        ("allow_direct", False),
        ("republish", RePublish(src="gr.v1.leader.*", dest="gr.v1.led.{{wildcard(1)}}")),
    ],
)
async def test_a_changed_stream_is_found_and_mended(
    broker: NatsBroker, made: JetStreamContext, field: str, value: object
) -> None:
    """The difference names field, value and what it should be; messages stay."""
    await broker.append("gr.v1.leader.x", b"1")
    config = (await made.stream_info("LEADERS")).config
    wanted = getattr(config, field)
    changed = config.evolve(**{field: value})
    if field == "max_age":
        changed.duplicate_window = 10.0
    await made.update_stream(changed)
    found = {difference.field: difference for difference in await topology_admin.diff(broker)}
    assert field in found
    assert (found[field].kind, found[field].name) == ("stream", "LEADERS")
    assert str(found[field]).startswith(f"stream LEADERS: {field} is ")
    with pytest.raises(TopologyMissing, match="LEADERS"):
        await topology_admin.check(broker)
    await topology_admin.apply(broker)
    assert await topology_admin.diff(broker) == []
    assert getattr((await made.stream_info("LEADERS")).config, field) == wanted
    assert await broker.count("LEADERS", "gr.v1.leader.x") == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("filter_subjects", ["gr.v1.session.*.*.lifecycle"]),
        ("ack_wait", 1.0),
        ("max_ack_pending", 1),
        ("max_deliver", 3),
    ],
)
async def test_a_changed_consumer_is_found_and_mended(
    broker: NatsBroker, made: JetStreamContext, field: str, value: object
) -> None:
    """It goes on where it was: what was acknowledged doesn't come again."""
    await broker.append("gr.v1.session.acme.s1.lifecycle", b"{}")
    pull = await broker.pull("SESSIONS", "recorder-sessions")
    (delivery,) = await pull.fetch(10, 0.2)
    await delivery.ack()
    config = (await made.consumer_info("SESSIONS", "recorder-sessions")).config
    await made.add_consumer("SESSIONS", config.evolve(**{field: value}))
    assert [difference.field for difference in await topology_admin.diff(broker)] == [field]
    await topology_admin.apply(broker)
    assert await topology_admin.diff(broker) == []
    assert await pull.fetch(10, 0.1) == ()


async def test_a_consumer_of_the_whole_stream_has_no_filter(broker: NatsBroker, made: JetStreamContext) -> None:
    """Filters that make up the whole stream cost the server 25 times the work: one that has them loses them."""
    for stream, name in (("SESSIONS", "recorder-sessions"), ("AUDIO", "recorder-audio")):
        assert not (await made.consumer_info(stream, name)).config.filter_subjects
    config = (await made.consumer_info("SESSIONS", "recorder-sessions")).config
    both = ["gr.v1.session.*.*.lifecycle", "gr.v1.session.*.*.event.>"]
    await made.add_consumer("SESSIONS", config.evolve(filter_subjects=both))
    assert [difference.field for difference in await topology_admin.diff(broker)] == ["filter_subjects"]
    await topology_admin.apply(broker)
    config = (await made.consumer_info("SESSIONS", "recorder-sessions")).config
    assert (config.filter_subject, config.filter_subjects) == (None, None)


async def test_what_the_operator_decides_stays(broker: NatsBroker, made: JetStreamContext) -> None:
    """Compression, limits and labels are no differences, and mending something else leaves them alone."""
    stream = (await made.stream_info("SESSIONS")).config
    theirs = {"compression": StoreCompression.S2, "max_bytes": 10**9, "metadata": {"team": "voice"}}
    await made.update_stream(stream.evolve(**theirs))
    consumer = (await made.consumer_info("SESSIONS", "recorder-sessions")).config
    await made.add_consumer("SESSIONS", consumer.evolve(metadata={"team": "voice"}))
    assert await topology_admin.diff(broker) == []
    await made.update_stream((await made.stream_info("SESSIONS")).config, duplicate_window=1.0)
    await made.add_consumer("SESSIONS", (await consumer_of(made)).evolve(ack_wait=1.0))
    assert len(await topology_admin.apply(broker)) == 2
    assert await topology_admin.diff(broker) == []
    kept = (await made.stream_info("SESSIONS")).config
    assert (kept.compression, kept.max_bytes) == (StoreCompression.S2, 10**9)
    assert (kept.metadata or {})["team"] == "voice"
    assert ((await consumer_of(made)).metadata or {})["team"] == "voice"


async def consumer_of(made: JetStreamContext) -> ConsumerConfig:
    """Return how the recorder's consumer is."""
    return (await made.consumer_info("SESSIONS", "recorder-sessions")).config


async def test_what_cannot_be_changed_is_told(broker: NatsBroker, made: JetStreamContext) -> None:
    """The server doesn't make a consumer over that acknowledges otherwise: the operator must decide."""
    config = await consumer_of(made)
    await made.delete_consumer("SESSIONS", "recorder-sessions")
    await made.add_consumer("SESSIONS", config.evolve(ack_policy=AckPolicy.ALL))
    assert [difference.field for difference in await topology_admin.diff(broker)] == ["ack_policy"]
    with pytest.raises(BrokerUnavailable, match="ack policy"):
        await topology_admin.apply(broker)


async def test_without_a_server_nobody_is_told_that_something_is_missing(own_nats: EmbeddedNats) -> None:
    """An outage isn't a missing stream."""
    broker = await NatsBroker.connect(own_nats.url, name="test-topology")
    await topology_admin.apply(broker)
    await own_nats.kill()
    async with asyncio.timeout(3):
        while broker.connected:
            await asyncio.sleep(0.01)
        with pytest.raises(BrokerUnavailable):
            await topology_admin.check(broker)
    await broker.close()
