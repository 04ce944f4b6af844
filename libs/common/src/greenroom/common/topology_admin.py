"""Compares the streams and consumers of `topology` with what a NATS server has, and makes what is missing."""

from typing import Any, Final, Literal

import msgspec
import nats.errors
from nats.js import JetStreamContext
from nats.js import errors as js_errors
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RePublish,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)

from greenroom.common import topology
from greenroom.common.errors import BrokerUnavailable, TopologyMissing
from greenroom.common.nats_broker import NatsBroker

_TIMEOUT_S: Final = 10.0

# What of a stream or consumer is compared; everything else is the operator's (placement, replicas, compression).
_STREAM_FIELDS: Final = (
    "subjects",
    "retention",
    "max_age",
    "max_msgs_per_subject",
    "max_msg_size",
    "duplicate_window",
    "allow_direct",
    "republish",
)
_CONSUMER_FIELDS: Final = ("filter_subjects", "ack_policy", "ack_wait", "max_ack_pending", "max_deliver")


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that isn't as it should be."""

    kind: Literal["stream", "consumer"]
    name: str
    # None where the whole thing is missing.
    field: str | None = None
    actual: str = ""
    wanted: str = ""

    def __str__(self) -> str:
        """Return it as a line for the terminal."""
        if self.field is None:
            return f"{self.kind} {self.name} is missing"
        return f"{self.kind} {self.name}: {self.field} is {self.actual}, should be {self.wanted}"


async def diff(broker: NatsBroker) -> list[Difference]:
    """Return what is missing or different, in the order in which `apply` mends it.

    Raises:
        BrokerUnavailable: the server doesn't answer, or has no JetStream.
    """
    if not broker.connected:
        raise BrokerUnavailable("the connection to NATS is down")
    js = broker.client.jetstream(timeout=_TIMEOUT_S)
    found: list[Difference] = []
    try:
        for stream in topology.STREAMS:
            found += await _diff_stream(js, stream)
        for consumer in topology.CONSUMERS:
            found += await _diff_consumer(js, consumer)
    except (nats.errors.Error, TimeoutError) as error:
        raise BrokerUnavailable(f"JetStream doesn't answer: {type(error).__name__}") from error
    return found


async def apply(broker: NatsBroker, *, replicas: int = 1) -> list[Difference]:
    """Make what is missing, change what differs, and return what that was.

    Nothing is ever deleted, and what is the operator's to decide stays as it is.

    Args:
        broker: the connection, with the permission to administer streams.
        replicas: for streams that are made now; 3 in a cluster.

    Raises:
        BrokerUnavailable: the server doesn't answer, or refuses a change.
    """
    js = broker.client.jetstream(timeout=_TIMEOUT_S)
    differences = await diff(broker)
    missing = {(difference.kind, difference.name) for difference in differences if difference.field is None}
    changed = {(difference.kind, difference.name) for difference in differences if difference.field is not None}
    try:
        for stream in topology.STREAMS:
            if ("stream", stream.name) in missing:
                await js.add_stream(_stream_config(stream, replicas))
            elif ("stream", stream.name) in changed:
                actual = (await js.stream_info(stream.name)).config
                await js.update_stream(_changed(actual, _stream_config(stream, replicas), _STREAM_FIELDS))
        for consumer in topology.CONSUMERS:
            wanted = _consumer_config(consumer)
            if ("consumer", consumer.name) in missing:
                await js.add_consumer(consumer.stream, wanted)
            elif ("consumer", consumer.name) in changed:
                actual = (await js.consumer_info(consumer.stream, consumer.name)).config
                config = _changed(actual, wanted, _CONSUMER_FIELDS).evolve(filter_subject=None)
                await js.add_consumer(consumer.stream, config)
    except (nats.errors.Error, TimeoutError) as error:
        raise BrokerUnavailable(f"JetStream refused: {error}") from error
    return differences


async def check(broker: NatsBroker) -> None:
    """Make sure that a service finds what it needs.

    Raises:
        TopologyMissing: something is missing or different; the text names it.
        BrokerUnavailable: the server doesn't answer.
    """
    differences = await diff(broker)
    if differences:
        more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
        raise TopologyMissing(f"{differences[0]}{more}: run `greenroom topology apply`")


async def _diff_stream(js: JetStreamContext, stream: topology.Stream) -> list[Difference]:
    try:
        actual = (await js.stream_info(stream.name)).config
    except js_errors.NotFoundError:
        return [Difference(kind="stream", name=stream.name)]
    return _differences("stream", stream.name, actual, _stream_config(stream, 1), _STREAM_FIELDS)


async def _diff_consumer(js: JetStreamContext, consumer: topology.Consumer) -> list[Difference]:
    try:
        actual = (await js.consumer_info(consumer.stream, consumer.name)).config
    except js_errors.NotFoundError:
        return [Difference(kind="consumer", name=consumer.name)]
    return _differences("consumer", consumer.name, actual, _consumer_config(consumer), _CONSUMER_FIELDS)


def _differences(
    kind: Literal["stream", "consumer"], name: str, actual: Any, wanted: Any, fields: tuple[str, ...]
) -> list[Difference]:
    found: list[Difference] = []
    for field in fields:
        is_, should = _plain(getattr(actual, field)), _plain(getattr(wanted, field))
        if field == "filter_subjects" and is_ is None and actual.filter_subject:
            is_ = [actual.filter_subject]
        if is_ != should:
            found.append(Difference(kind=kind, name=name, field=field, actual=str(is_), wanted=str(should)))
    return found


def _changed[C: StreamConfig | ConsumerConfig](actual: C, wanted: C, fields: tuple[str, ...]) -> C:
    return actual.evolve(**{field: getattr(wanted, field) for field in (*fields, "description")})


def _plain(value: Any) -> Any:
    value = getattr(value, "value", value)
    if isinstance(value, RePublish):
        return (value.src, value.dest)
    # nats-py hands durations back as floats of seconds, sizes as ints: 30.0 and 30 are the same.
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _stream_config(stream: topology.Stream, replicas: int) -> StreamConfig:
    return StreamConfig(
        name=stream.name,
        subjects=list(stream.subjects),
        description=stream.description,
        retention=RetentionPolicy.WORK_QUEUE if stream.retention == "workqueue" else RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.OLD,
        max_age=stream.max_age_s,
        max_msgs_per_subject=stream.max_msgs_per_subject,
        max_msg_size=stream.max_msg_size,
        duplicate_window=stream.duplicate_window_s,
        num_replicas=replicas,
        allow_direct=True,
        republish=_republish(stream),
    )


def _republish(stream: topology.Stream) -> RePublish | None:
    if stream.republish is None:
        return None
    source, destination = stream.republish
    return RePublish(src=source, dest=destination)


def _consumer_config(consumer: topology.Consumer) -> ConsumerConfig:
    return ConsumerConfig(
        durable_name=consumer.name,
        name=consumer.name,
        description=consumer.description,
        filter_subjects=_filter_subjects(consumer),
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=consumer.ack_wait_s,
        max_ack_pending=consumer.max_ack_pending,
        max_deliver=-1,
    )


def _filter_subjects(consumer: topology.Consumer) -> list[str] | None:
    """Return what a consumer is to be told of its stream; None where that is everything.

    The server doesn't see that several filters together are the whole stream: it goes through them for each message,
    which was 25 times the work (ADR 18).
    """
    whole = next(stream.subjects for stream in topology.STREAMS if stream.name == consumer.stream)
    return None if set(consumer.filters) == set(whole) else list(consumer.filters)
