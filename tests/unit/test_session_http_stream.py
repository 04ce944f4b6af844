"""Answers in parts: nothing is lost, nothing is kept without bound, nobody waits for ever."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenroom.common.commands import MAX_HTTP_PART_BYTES
from greenroom.runner.session.commands.http_stream import MAX_PIPE_BYTES, ClientGone, HttpPipe


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(0, 3 * MAX_PIPE_BYTES // 2), max_size=6))
def test_what_is_put_is_taken_in_order_and_in_bounded_parts(sizes: list[int]) -> None:
    """Whatever the pieces are, their bytes come out as they went in, and the last part says that it is the last."""

    async def play() -> None:
        pipe = HttpPipe()
        pieces = [bytes([index]) * size for index, size in enumerate(sizes)]

        async def say() -> None:
            for piece in pieces:
                await pipe.put(piece)
            await pipe.end()

        saying = asyncio.create_task(say())
        got = bytearray()
        more = True
        while more:
            part = await pipe.take(10.0)
            assert len(part.body) <= MAX_HTTP_PART_BYTES
            assert not part.broken
            got += part.body
            more = part.more
        await saying
        assert bytes(got) == b"".join(pieces)
        assert pipe.over.is_set()

    asyncio.run(play())


async def test_a_full_pipe_holds_the_route_until_something_is_taken() -> None:
    """More than the bound isn't taken from it."""
    pipe = HttpPipe()
    putting = asyncio.create_task(pipe.put(bytes(MAX_PIPE_BYTES + 1)))
    await asyncio.sleep(0)
    assert not putting.done()
    await pipe.take(1.0)
    await putting


async def test_what_nobody_asks_for_is_given_up() -> None:
    """The route, which waits for room, hears that its client has gone."""
    pipe = HttpPipe(idle_s=0.05)
    putting = asyncio.create_task(pipe.put(bytes(MAX_PIPE_BYTES + 1)))
    await pipe.abandoned()
    with pytest.raises(ClientGone):
        await putting
    assert (await pipe.take(1.0)).broken


async def test_a_question_that_waits_keeps_the_answer_alive() -> None:
    """Somebody who waits for the next part hasn't gone, however long the route is silent."""
    pipe = HttpPipe(idle_s=0.05)
    watching = asyncio.create_task(pipe.abandoned())
    assert (await pipe.take(0.2)).more
    assert not pipe.over.is_set()
    watching.cancel()


async def test_too_much_is_broken_off() -> None:
    """What the bound has room for is given, and then said to be incomplete."""
    pipe = HttpPipe(max_bytes=10)
    with pytest.raises(ClientGone):
        await pipe.put(bytes(11))
    part = await pipe.take(1.0)
    assert (len(part.body), part.more, part.broken) == (10, False, True)
