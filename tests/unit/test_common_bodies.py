"""Large bodies of sessions, over the broker in memory."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.common import bodies, subjects, topology
from greenroom.common.bodies import MAX_BYTES, STREAM, Bodies, BodyUnavailable
from greenroom.common.broker import Message
from greenroom.common.errors import BodyTooLarge, BrokerUnavailable
from greenroom.common.lifecycle import BodyRef, Session
from tests.support.memory_broker import MemoryBroker, MemoryServer
from tests.support.session_rig import new_session

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(_TEXT, inside, max_size=3),
    max_leaves=10,
)
BODIES = st.dictionaries(_TEXT, _VALUES, max_size=4)


def a_session(body: dict[str, Any]) -> Session:
    """Return a session that is given `body`."""
    return new_session("echo", body=body)


def of_size(size: int) -> dict[str, Any]:
    """Return a body of so many bytes."""
    return {"text": "x" * (size - len('{"text":""}'))}


@pytest.fixture
def broker() -> MemoryBroker:
    """A broker of its own."""
    return MemoryServer().connect()


@given(body=BODIES)
async def test_what_comes_out_is_what_went_in(body: dict[str, Any]) -> None:
    """Whatever JSON it is; in between the session has its size and digest, and nothing of it."""
    kept = Bodies(MemoryServer().connect())
    session = a_session(body)
    put = await kept.put(session)
    assert (put.body, put.body_ref is not None) == ({}, True)
    assert msgspec.structs.replace(put, body=body, body_ref=None) == session
    assert put.body_ref is not None
    assert put.body_ref.size_bytes == len(msgspec.json.encode(body))
    # As the ledger has it, and once more for another try.
    stored = msgspec.json.decode(msgspec.json.encode(put), type=Session)
    for _ in range(2):
        assert (await kept.fetch(stored)).body == body


async def test_a_body_that_came_with_the_session_is_left_alone() -> None:
    """Nothing is asked of the broker for it."""
    session = a_session({"a": 1})
    server = MemoryServer()
    broker = server.connect()
    await broker.close()
    assert await Bodies(broker).fetch(session) is session


async def test_each_session_has_its_own(broker: MemoryBroker) -> None:
    """Another session, or another tenant's of the same id, finds nothing."""
    kept = Bodies(broker)
    put = await kept.put(a_session({"a": 1}))
    for other in ({"id": new_session("echo").id}, {"tenant": "other"}):
        with pytest.raises(BodyUnavailable, match="isn't there"):
            await kept.fetch(msgspec.structs.replace(put, **other))


async def test_what_is_forgotten_is_gone(broker: MemoryBroker) -> None:
    """As often as it is asked to, also where there never was any; the stream has no byte of it left."""
    kept = Bodies(broker)
    put = await kept.put(a_session(of_size(100_000)))
    for _ in range(2):
        await kept.forget(put.tenant, put.id)
    await kept.forget("default", new_session("echo").id)
    subject = subjects.BODY.format(tenant=put.tenant, session_id=put.id)
    left = await broker.last(STREAM, subject)
    assert left is not None
    assert left.data == b""
    assert await broker.count(STREAM, subjects.BODY.wildcard()) == 1
    with pytest.raises(BodyUnavailable, match="isn't there"):
        await kept.fetch(put)


async def test_another_body_than_was_asked_for_is_not_taken(broker: MemoryBroker) -> None:
    """The digest of the session decides, and what isn't a body at all is none."""
    kept = Bodies(broker)
    first = await kept.put(a_session({"a": 1}))
    await kept.put(msgspec.structs.replace(first, body={"a": 2}))
    with pytest.raises(BodyUnavailable, match="isn't the one"):
        await kept.fetch(first)
    await broker.append(subjects.BODY.format(tenant=first.tenant, session_id=first.id), b"[]")
    with pytest.raises(BodyUnavailable, match="can't be read"):
        await kept.fetch(first)


async def test_a_broker_that_is_away_is_a_body_that_cant_be_had(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session ends with that reason, rather than its process with an exception."""
    put = await Bodies(broker).put(a_session({"a": 1}))

    async def away(_stream: str, _subject: str) -> Message | None:
        raise BrokerUnavailable("no answer in time")

    monkeypatch.setattr(broker, "last", away)
    with pytest.raises(BodyUnavailable, match="now: no answer in time"):
        await Bodies(broker).fetch(put)


def test_a_million_bytes_are_taken_and_not_one_more() -> None:
    """As JSON without spaces: characters count as they are in UTF-8."""
    assert len(bodies.encoded(of_size(MAX_BYTES))) == MAX_BYTES
    assert len(bodies.encoded({"text": "ü" * 499_990})) <= MAX_BYTES
    for body in (of_size(MAX_BYTES + 1), {"text": "ü" * 500_000}):
        with pytest.raises(BodyTooLarge, match="1000000 are taken"):
            bodies.encoded(body)


def test_the_largest_body_fits_into_its_stream_and_a_message() -> None:
    """With its envelope and headers, below NATS's own limit for a message."""
    stream = next(stream for stream in topology.STREAMS if stream.name == STREAM)
    assert MAX_BYTES + 4096 < stream.max_msg_size <= 1024 * 1024
    # Longer than any session waits, starts, is put elsewhere, and takes: a day each at most.
    assert stream.max_age_s >= 5 * topology.DAY_S
    assert BodyRef(size_bytes=1, sha256="00").size_bytes <= bodies.INLINE_BYTES < MAX_BYTES
