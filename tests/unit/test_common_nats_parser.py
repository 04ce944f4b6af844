"""What is taken raw is what nats-py would have made of the same bytes, however they come."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.protocol.parser import Parser

from greenroom.common.nats_message import Headers, delivered, received, status_of
from greenroom.common.nats_parser import RawMessage, RawParser

_RAW_SID: Final = 7
_REPLY: Final = "$JS.ACK.SESSIONS.recorder-sessions.{}.{}.{}.{}.{}"

_tokens = st.text("abcxyz019_-", min_size=1, max_size=12)
_names = st.text("ABCabc-", min_size=1, max_size=8)
_values = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=12)
_blocks = st.lists(st.tuples(_names, _values), min_size=1, max_size=4).map(
    lambda fields: b"NATS/1.0\r\n" + b"".join(f"{name}: {value}\r\n".encode() for name, value in fields) + b"\r\n"
)
_bodies = st.one_of(st.binary(max_size=60), st.sampled_from([b"", b"\r\n", b"HMSG a 7 b 12 12\r\nNATS/1.0\r\n\r\n"]))
_replies = st.one_of(
    st.tuples(*[st.integers(1, 10**18)] * 5).map(lambda numbers: _REPLY.format(*numbers)),
    st.just("_INBOX.x.1"),
    st.just(""),
)
_sids = st.sampled_from([_RAW_SID, _RAW_SID, 8])


def _with_headers(subject: str, sid: int, reply: str, block: bytes, body: bytes) -> bytes:
    between = f" {reply} " if reply else " "
    line = f"HMSG {subject} {sid}{between}{len(block)} {len(block) + len(body)}\r\n"
    return line.encode() + block + body + b"\r\n"


def _bare(subject: str, sid: int, reply: str, body: bytes) -> bytes:
    between = f" {reply} " if reply else " "
    return f"MSG {subject} {sid}{between}{len(body)}\r\n".encode() + body + b"\r\n"


_wire = st.one_of(
    st.builds(_with_headers, _tokens, _sids, _replies, _blocks, _bodies),
    st.builds(_with_headers, _tokens, _sids, _replies, _blocks, _bodies),
    st.builds(_bare, _tokens, _sids, _replies, _bodies),
    st.builds(
        _with_headers,
        _tokens,
        _sids,
        st.just(""),
        st.sampled_from([b"NATS/1.0 404 No Messages\r\n\r\n", b"NATS/1.0 409 Batch Completed\r\nA: 1\r\n\r\n"]),
        st.just(b""),
    ),
    st.sampled_from(
        [b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b'INFO {"server_id": "x"}\r\n', b"-ERR 'Slow Consumer'\r\n"]
    ),
)


class _Told:
    """A client that keeps what its parser says."""

    def __init__(self) -> None:
        self.all: list[Any] = []

    def take(self, raw: RawMessage) -> None:
        """Take a message as the raw subscription does."""
        self.all.append((_RAW_SID, raw.subject, raw.reply, raw.headers, raw.data))

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        self.all.append((sid, subject, reply, headers or b"", data))

    async def _process_err(self, error: str) -> None:
        self.all.append(error)

    async def _process_ping(self) -> None:
        self.all.append("ping")

    async def _process_pong(self) -> None:
        self.all.append("pong")

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.all.append(info)


def _pieces(wire: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({min(cut, len(wire)) for cut in cuts} | {0, len(wire)})
    return [wire[begin:end] for begin, end in itertools.pairwise(places)]


async def _parsed(parser: Parser, pieces: Sequence[bytes]) -> None:
    for piece in pieces:
        await parser.parse(piece)


@settings(max_examples=150, deadline=None)
@given(wire=st.lists(_wire, max_size=12).map(b"".join), cuts=st.lists(st.integers(0, 1500), max_size=12))
def test_the_short_way_says_what_nats_py_says(wire: bytes, cuts: Sequence[int]) -> None:
    """Messages for both kinds of subscription, with and without headers, statuses and pings, cut anywhere."""
    expected, told = _Told(), _Told()
    asyncio.run(_parsed(Parser(expected), _pieces(wire, cuts)))
    asyncio.run(_parsed(RawParser(told, {_RAW_SID: told.take}), _pieces(wire, cuts)))
    assert told.all == expected.all


@given(wire=st.lists(_wire, min_size=1, max_size=4).map(b"".join), cut=st.integers(0, 400))
def test_what_is_not_whole_is_forgotten_with_its_connection(wire: bytes, cut: int) -> None:
    """The next connection begins with a line of its own, whatever the one before ended with."""
    told = _Told()
    parser = RawParser(told, {_RAW_SID: told.take})
    whole = _with_headers("s", _RAW_SID, "r", b"NATS/1.0\r\n\r\n", b"whole")

    async def scenario() -> None:
        await parser.parse(wire[: min(cut, len(wire) - 1)])
        parser.reset()
        told.all.clear()
        await parser.parse(whole)

    asyncio.run(scenario())
    assert told.all == [(_RAW_SID, b"s", b"r", b"NATS/1.0\r\n\r\n", b"whole")]


def test_what_is_behind_a_lost_connection_is_not_of_the_next_one() -> None:
    """Somebody reconnects while the end of a message is dealt with: what came behind it belonged to the old one."""

    class Reconnects(_Told):
        async def _process_msg(
            self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
        ) -> None:
            await super()._process_msg(sid, subject, reply, data, headers)
            parser.reset()

    told = Reconnects()
    parser = RawParser(told, {_RAW_SID: told.take})
    message = _bare("s", 8, "", b"body")

    async def scenario() -> None:
        await parser.parse(message[:-3])
        await parser.parse(message[-3:] + _with_headers("s", _RAW_SID, "r", b"NATS/1.0\r\n\r\n", b""))

    asyncio.run(scenario())
    assert told.all == [(8, b"s", b"", b"", b"body")]
    assert not parser.buf


@given(
    subject=_tokens,
    numbers=st.tuples(st.integers(1, 50), *[st.integers(1, 10**12)] * 2, st.integers(0, 2 * 10**18), st.integers(0, 9)),
    domain=st.sampled_from(["", "hub.ACCOUNT."]),
    block=st.one_of(st.just(b""), _blocks),
    body=_bodies,
)
def test_a_delivery_is_what_nats_py_would_have_made_of_it(
    subject: str, numbers: tuple[int, ...], domain: str, block: bytes, body: bytes
) -> None:
    """Headers, times and numbers of a message are the same both ways, in both layouts of its reply subject."""
    reply = _REPLY.format(*numbers).replace("SESSIONS", f"{domain}SESSIONS") + (".token" if domain else "")
    client = Client()
    headers = asyncio.run(client._process_headers(block))
    of_nats_py = received(Msg(_client=client, subject=subject, reply=reply, data=body, headers=headers))
    ours = delivered(RawMessage(subject.encode(), reply.encode(), block, body))
    assert ours == of_nats_py
    assert dict(ours.headers) == dict(of_nats_py.headers)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (RawMessage(b"i", b"", b"NATS/1.0 404 No Messages\r\n\r\n", b""), ("404", "No Messages")),
        (RawMessage(b"i", b"", b"NATS/1.0 503\r\n\r\n", b""), ("503", "")),
        (RawMessage(b"i", b"", b"NATS/1.0 409 Batch Completed\r\nA: 1\r\n\r\n", b""), ("409", "Batch Completed")),
        (RawMessage(b"i", b"$JS.ACK.S.c.1.1.1.1.0", b"NATS/1.0 404 x\r\n\r\n", b""), None),
        (RawMessage(b"i", b"", b"NATS/1.0\r\nStatus: 404\r\n\r\n", b""), None),
        (RawMessage(b"i", b"", b"NATS/1.0 404 x\r\n\r\n", b"body"), None),
        (RawMessage(b"i", b"", b"", b""), None),
    ],
)
def test_a_status_is_told_from_a_message(raw: RawMessage, status: tuple[str, str] | None) -> None:
    """A status has no body, is none of the stream's messages, and says its number in the first line."""
    assert status_of(raw) == status


def test_headers_are_a_mapping() -> None:
    """Whoever looks sees them as a dictionary."""
    headers = Headers(b"NATS/1.0\r\nA: 1\r\nB:2\r\n\r\n")
    assert (headers["A"], headers.get("C"), len(headers), list(headers)) == ("1", None, 2, ["A", "B"])
    assert headers == {"A": "1", "B": "2"}
    assert repr(headers) == "{'A': '1', 'B': '2'}"
