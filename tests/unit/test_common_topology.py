"""Streams and consumers as data."""

import itertools

from greenroom.common import topology
from greenroom.common.leadership import STREAM as LEADERS_STREAM
from greenroom.common.ledger import STREAM as LEDGER_STREAM
from greenroom.recorder.post_call.step_runner import STREAM as POST_CALL_STREAM
from tests.support.memory_streams import matches

STREAMS = {stream.name: stream for stream in topology.STREAMS}


def test_names_are_there_once() -> None:
    """Two of one name would overwrite each other."""
    assert len(STREAMS) == len(topology.STREAMS)
    consumers = [consumer.name for consumer in topology.CONSUMERS]
    assert len(set(consumers)) == len(consumers)
    kept = {"AUDIO", "TICKETS", "IDEMPOTENCY", "SECRETS", "RELEASES", "CALLS", "DIALS", "POLICY", "DECISIONS", "PARKED"}
    kept |= {"NOTICES", "BODIES", "COMMANDS"}
    assert {LEDGER_STREAM, LEADERS_STREAM, POST_CALL_STREAM} | kept == set(STREAMS)


def test_streams_do_not_overlap() -> None:
    """A message is stored in one stream; the server refuses anything else."""
    for left, right in itertools.combinations(topology.STREAMS, 2):
        for pattern, other in itertools.product(left.subjects, right.subjects):
            sample = pattern.replace("*", "x").replace(">", "x.y")
            assert not matches(other, sample), (left.name, right.name)


def test_consumers_read_what_their_stream_holds() -> None:
    """A filter outside of the stream's subjects would never see a message."""
    for consumer in topology.CONSUMERS:
        assert set(consumer.filters) <= set(STREAMS[consumer.stream].subjects)


def test_a_work_queue_has_one_consumer_for_each_subject() -> None:
    """With two of them the server refuses the second."""
    for stream in topology.STREAMS:
        if stream.retention == "workqueue":
            filters = [
                each for consumer in topology.CONSUMERS if consumer.stream == stream.name for each in consumer.filters
            ]
            assert sorted(filters) == sorted(stream.subjects)


def test_what_is_bounded_by_age_is_remembered_long_enough() -> None:
    """The duplicate window can't be longer than the age, and a used ticket outlives the ticket."""
    for stream in topology.STREAMS:
        assert not stream.max_age_s or stream.duplicate_window_s <= stream.max_age_s
    assert STREAMS["TICKETS"].max_age_s >= 2 * 300
    assert STREAMS["IDEMPOTENCY"].max_age_s == topology.DAY_S


def test_the_ledger_keeps_every_transition() -> None:
    """Its history is all messages of a subject; leaders, tickets and answers are their last one."""
    assert STREAMS["SESSIONS"].max_msgs_per_subject == -1
    assert STREAMS["SESSIONS"].retention == "limits"
    for name in ("LEADERS", "TICKETS", "IDEMPOTENCY", "COMMANDS"):
        assert STREAMS[name].max_msgs_per_subject == 1
