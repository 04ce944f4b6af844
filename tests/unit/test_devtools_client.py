"""The API as the commands use it: event streams that are taken up again where they broke."""

from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from greenroom.devtools import client as client_module
from greenroom.devtools.client import ApiClient, ApiProblem, ApiUnreachable
from greenroom.devtools.state import Connection

END = b"event: end\ndata: {}\n\n"


def sse(*ids: int) -> bytes:
    """Return events as the API sends them."""
    return b"".join(b'id: %d\nevent: note\ndata: {"n": %d}\n\n' % (each, each) for each in ids)


class Broken(httpx.AsyncByteStream):
    """A body that breaks after its first part."""

    def __init__(self, first: bytes) -> None:
        self._first = first

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the part, and break."""
        yield self._first
        raise httpx.ReadError("connection reset")


class Api:
    """Answers one request after the other, and keeps what was asked for."""

    def __init__(self, *answers: Callable[[], httpx.Response]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer."""
        self.asked.append(request.headers["Last-Event-ID"])
        return self.answers.pop(0)() if len(self.answers) > 1 else self.answers[0]()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_RESUME_AFTER_S", 0.001)


async def followed(api: Api, *, after: int = 0) -> list[int]:
    """Return the ids of the events that come."""
    client = ApiClient(Connection(api_url="http://api", api_key="gr_x"))
    client._http = httpx.AsyncClient(base_url="http://api", transport=httpx.MockTransport(api))
    async with client:
        return [int(event.id) async for event in client.events("s1", after=after)]


def down() -> httpx.Response:
    """Be away."""
    raise httpx.ConnectError("refused")


async def test_a_stream_is_followed_to_its_end() -> None:
    """The API says when nothing more comes; beats and what it says for browsers are passed over."""
    body = b"retry: 1000\n\n" + sse(3, 5) + b": still here\n\n" + sse(8) + END
    api = Api(lambda: httpx.Response(200, content=body))
    assert await followed(api, after=2) == [3, 5, 8]
    assert api.asked == ["2"]


async def test_a_stream_that_broke_is_taken_up_where_it_was() -> None:
    """Broken, ended by an instance that shuts down, refused while none is there: nothing is missed or doubled."""
    api = Api(
        lambda: httpx.Response(200, stream=Broken(sse(1, 2))),
        down,
        lambda: httpx.Response(503),
        lambda: httpx.Response(200, content=sse(3)),
        lambda: httpx.Response(200, content=sse(4) + END),
    )
    assert await followed(api) == [1, 2, 3, 4]
    assert api.asked == ["0", "2", "2", "2", "3"]


async def test_an_api_that_stays_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a minute without a sign of life; at once, if it was never there."""
    monkeypatch.setattr(client_module, "_RESUME_WITHIN_S", 0.05)
    with pytest.raises(ApiUnreachable):
        await followed(Api(lambda: httpx.Response(200, stream=Broken(sse(1))), down))
    never = Api(down)
    with pytest.raises(ApiUnreachable):
        await followed(never)
    assert len(never.asked) == 1


async def test_a_refusal_is_not_tried_again() -> None:
    """The session isn't there: its code is told at once."""
    api = Api(lambda: httpx.Response(404, json={"code": "session-not-found", "detail": "no session s1"}))
    with pytest.raises(ApiProblem) as caught:
        await followed(api)
    assert caught.value.api_code == "session-not-found"
    assert len(api.asked) == 1
