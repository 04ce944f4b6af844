"""Requests before anything is done with them: bodies, cursors, ranges, handshakes, schemas of bodies."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.api import cursor, handshake, ranges
from greenroom.api.body import decode, pointer
from greenroom.api.bodycheck import AgentSchemaBroken, body_check
from greenroom.api.ranges import RangeNotSatisfiable, Span
from greenroom.api.schemas import CreateSession, trace_id_of
from greenroom.common.errors import BodyTooLarge, Forbidden, InvalidBody, InvalidQuery, MalformedJson, UnknownField
from greenroom.common.lifecycle import Limits

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)

# ---------------------------------------------------------------------------- bodies


def refusal(raw: bytes) -> MalformedJson | UnknownField | InvalidBody | None:
    """Return why a body isn't taken; None: it is."""
    try:
        decode(raw, CreateSession)
    except (MalformedJson, UnknownField, InvalidBody) as error:
        return error
    return None


@given(st.binary(max_size=60))
def test_any_bytes_are_a_body_or_refused(raw: bytes) -> None:
    """Whatever is sent, the answer is a struct or an error of the caller's."""
    error = refusal(raw)
    assert error is None or 400 <= error.status < 500


@given(st.dictionaries(st.sampled_from([*CreateSession.__struct_fields__, "odd"]) | st.text(max_size=5), values))
def test_any_object_is_a_body_or_its_faults_are_named(given_: dict[str, Any]) -> None:
    """Unknown fields are all named, wherever they are; other faults point into the body."""
    match refusal(msgspec.json.encode(given_)):
        case UnknownField(errors=problems):
            unknown = {pointer(name) for name in given_ if name not in CreateSession.__struct_fields__}
            assert unknown <= {problem.pointer for problem in problems}
        case InvalidBody(errors=(problem,)):
            place = problem.pointer
            assert place == "" or place.split("/")[1] in CreateSession.__struct_fields__
        case error:
            assert error is None


@pytest.mark.parametrize("raw", [b"[" * 5000, b'{"a":' * 5000, b'"\\ud800"', b'{"agent":"\xff"}', b"nul"])
def test_what_is_barely_json_is_none(raw: bytes) -> None:
    """Deep nesting, lone surrogates and broken encodings are refused like any other text."""
    with pytest.raises((MalformedJson, InvalidBody)):
        decode(raw, CreateSession)


def test_limits_that_are_left_out_are_the_agents() -> None:
    """A wish changes what it names."""
    wish = decode(b'{"agent":"a","limits":{"join_timeout_s":5}}', CreateSession)
    base = Limits(queue_timeout_s=7)
    assert wish.limits.over(base) == Limits(queue_timeout_s=7, join_timeout_s=5)


@pytest.mark.parametrize("name", ["a.b", "a b", "ü", "", "a\n", "x" * 65])
def test_a_pool_is_a_token(name: str) -> None:
    """A pool's name becomes a part of a subject."""
    with pytest.raises(InvalidBody):
        decode(msgspec.json.encode({"agent": "a", "pool": name}), CreateSession)


@given(st.lists(st.text(max_size=5) | st.integers(0, 9), max_size=5))
def test_a_pointer_can_be_followed(steps: list[str | int]) -> None:
    """Slashes and tildes in names are escaped, so that each step is found again (RFC 6901)."""
    found = [step.replace("~1", "/").replace("~0", "~") for step in pointer(*steps).split("/")[1:]]
    assert found == [str(step) for step in steps]


# ---------------------------------------------------------------------------- schemas of bodies


def test_a_body_is_checked_against_a_schema() -> None:
    """All problems are told, each with its place."""
    check = body_check({"properties": {"a": {"type": "integer"}, "b": {"items": {"maxLength": 1}}}, "required": ["c"]})
    check({"c": 1, "a": 2})
    with pytest.raises(InvalidBody) as refused:
        check({"a": "x", "b": ["y", "zz"]})
    assert {problem.pointer for problem in refused.value.errors} == {"/body", "/body/a", "/body/b/1"}


def test_without_a_schema_any_body_will_do() -> None:
    """An agent need not say what it takes."""
    body_check(None)({"anything": [1, {"goes": None}]})


def test_many_problems_are_cut_short() -> None:
    """A body of another kind doesn't make an endless answer."""
    with pytest.raises(InvalidBody) as refused:
        body_check({"additionalProperties": {"type": "integer"}})({f"k{i}": "x" * 500 for i in range(500)})
    assert len(refused.value.errors) == 20
    assert all(len(problem.detail) <= 200 for problem in refused.value.errors)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://example.org/schema.json"},
        {"$ref": "#/nowhere"},
        {"$ref": "#"},
        {"type": "thing"},
        {"properties": {"a": {"pattern": "("}}},
        {"properties": 1},
        {"required": 1},
    ],
)
def test_a_broken_schema_is_told_from_a_broken_body(schema: dict[str, Any]) -> None:
    """What the agent's author did wrong isn't blamed on the caller, and nothing is fetched."""
    with pytest.raises(AgentSchemaBroken):
        body_check(schema)({"a": "b"})


# ---------------------------------------------------------------------------- cursors


@given(st.datetimes(timezones=st.just(UTC)), st.uuids().map(str))
def test_a_cursor_leads_back(at: datetime, session_id: str) -> None:
    """What a cursor was made of comes out of it, to the microsecond."""
    assert cursor.decode(cursor.encode(at, session_id)) == (at, session_id)


@given(st.text(max_size=60))
def test_what_is_no_cursor_is_refused(text: str) -> None:
    """Nothing but what was given out is taken."""
    with pytest.raises(InvalidQuery):
        cursor.decode(text)


# ---------------------------------------------------------------------------- ranges


@given(
    st.integers(0, 300), st.text(alphabet="bytes=0123456789-, ", max_size=20) | st.from_regex(r"bytes=\d{0,4}-\d{0,4}")
)
def test_any_range_is_inside_the_file(size: int, header: str) -> None:
    """Whatever is asked for, what is sent exists."""
    try:
        span = ranges.parse(header, size)
    except RangeNotSatisfiable:
        return
    assert span is None or 0 <= span.start < span.stop <= size


def test_ranges_mean_what_they_say() -> None:
    """From, from to, and the last ones."""
    assert ranges.parse("bytes=2-", 10) == Span(start=2, stop=10)
    assert ranges.parse("bytes=2-3", 10) == Span(start=2, stop=4)
    assert ranges.parse("bytes=-3", 10) == Span(start=7, stop=10)
    assert ranges.parse(None, 10) is None


# ---------------------------------------------------------------------------- handshakes


def scope(headers: dict[str, str], query: str = "") -> Any:
    """Return a WebSocket scope."""
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "websocket", "headers": raw, "query_string": query.encode()}


def test_a_bot_sees_the_handshake_without_its_secrets() -> None:
    """What identifies the caller to us, or belongs to the connection, isn't the bot's business."""
    headers = {"authorization": "x", "cookie": "x", "sec-websocket-key": "x", "host": "x", "x-caller": "4711"}
    seen = handshake.read(scope(headers, "lang=en&x=%20y&lang=de"), ())
    assert seen.headers == {"x-caller": "4711"}
    assert seen.query == {"lang": "de", "x": " y"}


def test_a_huge_handshake_is_cut() -> None:
    """A bot is shown 16 KiB of headers at most: they travel in one message."""
    seen = handshake.read(scope({f"x-{i}": "y" * 1000 for i in range(100)}), ())
    assert 10 <= len(seen.headers) <= 16


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 100_000])
def test_a_long_url_opens_nothing(size: int) -> None:
    """What a bot is shown of a URL is shown whole, or nobody is let in."""
    query = ("q=" + "x" * (size - 2))[:size]
    if size <= 4096:
        assert "".join(handshake.read(scope({}, query), ()).query.values()) == query[2:]
    else:
        with pytest.raises(BodyTooLarge, match="4096"):
            handshake.read(scope({}, query), ())


def test_an_origin_must_be_on_the_list_if_there_is_one() -> None:
    """Clients that are no browsers have no origin."""
    allowed = ("https://app.example.org",)
    handshake.read(scope({"origin": "https://other.example.org"}), ())
    handshake.read(scope({"origin": "https://app.example.org"}), allowed)
    handshake.read(scope({}), allowed)
    for origin in ("https://other.example.org", "https://app.example.org.evil.org", "null", ""):
        with pytest.raises(Forbidden):
            handshake.read(scope({"origin": origin}), allowed)


# ---------------------------------------------------------------------------- traces


@pytest.mark.parametrize(
    ("traceparent", "trace_id"),
    [
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "4bf92f3577b34da6a3ce929d0e0e4736"),
        (None, None),
        ("nonsense", None),
    ],
)
def test_a_trace_id_is_found_in_a_traceparent(traceparent: str | None, trace_id: str | None) -> None:
    """The second part, where there are four."""
    assert trace_id_of(traceparent) == trace_id
