"""Work for many at once: who shares a turn, what becomes of those whose turn goes wrong, and what can't be done."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.recorder.together import Together, in_halves


class Work:
    """Doubles numbers, when it is let; remembers its turns."""

    def __init__(self) -> None:
        self.turns: list[list[int]] = []
        self.go_on = asyncio.Event()
        self.begun = asyncio.Event()

    async def __call__(self, keys: Sequence[int]) -> list[int]:
        """Do a turn."""
        self.turns.append(list(keys))
        self.begun.set()
        await self.go_on.wait()
        if 13 in keys:
            raise RuntimeError("not this one")
        return [2 * key for key in keys]


async def test_who_comes_while_others_are_answered_shares_the_next_turn() -> None:
    """No answer is of a turn that had begun before it was asked for; each gets its own."""
    work = Work()
    together = Together(work, most=100, linger_s=0)
    first = [asyncio.create_task(together.ask(key)) for key in (1, 2)]
    await work.begun.wait()
    later = [asyncio.create_task(together.ask(key)) for key in (3, 4, 1)]
    await asyncio.sleep(0.01)
    assert work.turns == [[1, 2]]
    work.go_on.set()
    assert await asyncio.gather(*first, *later) == [2, 4, 6, 8, 2]
    assert work.turns == [[1, 2], [3, 4, 1]]


async def test_a_turn_is_no_larger_than_it_may_be() -> None:
    """The rest has turns of its own."""
    work = Work()
    work.go_on.set()
    together = Together(work, most=4, linger_s=0)
    assert await asyncio.gather(*map(together.ask, range(10))) == [2 * key for key in range(10)]
    assert [len(turn) for turn in work.turns] == [4, 4, 2]


async def test_what_goes_wrong_is_told_to_those_of_the_turn_alone() -> None:
    """The next one is none the worse."""
    work = Work()
    together = Together(work, most=2, linger_s=0)
    asked = [asyncio.create_task(together.ask(key)) for key in (1, 13, 2)]
    work.go_on.set()
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(each) for each in found] == [RuntimeError, RuntimeError, int]


@pytest.mark.parametrize("when", ["waiting", "lingering", "working"])
async def test_who_is_canceled_takes_nobody_along(when: str) -> None:
    """Whether it was the one that did the work for all, or not: the others are answered."""
    work = Work()
    together = Together(work, most=100, linger_s=0.02 if when == "lingering" else 0)
    before = [asyncio.create_task(together.ask(0))] if when == "waiting" else []
    await asyncio.sleep(0.001)
    asked = [asyncio.create_task(together.ask(key)) for key in (1, 2, 3)]
    await asyncio.sleep(0.005)
    asked[0].cancel()
    asked[2].cancel()
    await asyncio.sleep(0.005)
    work.go_on.set()
    found = await asyncio.wait_for(asyncio.gather(*before, *asked, return_exceptions=True), 5)
    assert [type(each) for each in found[-3:]] == [asyncio.CancelledError, int, asyncio.CancelledError]
    assert await together.ask(5) == 10


async def test_nobody_joins_who_was_canceled() -> None:
    """A turn that nobody has any more is closed: who came to it would ask again and again."""
    together = Together(Work(), most=100, linger_s=1)
    asked = asyncio.create_task(together.ask(1))
    await asyncio.sleep(0.005)
    asked.cancel()
    await asyncio.wait({asked})
    assert together._next.keys == []


@given(st.sets(st.integers(0, 40)), st.integers(1, 41))
async def test_what_cannot_be_done_is_found_apart(hopeless: set[int], count: int) -> None:
    """All others are done, each once, and those are told of one by one; by few tries where they are few."""
    done: list[int] = []
    given_up: list[int] = []
    tries = 0

    async def work(items: Sequence[int]) -> None:
        nonlocal tries
        tries += 1
        if hopeless.intersection(items):
            raise ValueError
        done.extend(items)

    async def give_up(item: int, error: Exception) -> None:
        assert isinstance(error, ValueError)
        given_up.append(item)

    items = range(count)
    await in_halves(items, work, hopeless=(ValueError,), give_up=give_up)
    bad = hopeless.intersection(items)
    assert (done, given_up) == (sorted(set(items) - bad), sorted(bad))
    assert tries <= 1 + 12 * len(bad)


async def test_what_may_be_done_later_is_not_looked_for() -> None:
    """What is away for one is away for all: the error goes on at once."""
    tries = 0

    async def work(_items: Sequence[int]) -> None:
        nonlocal tries
        tries += 1
        raise ConnectionError

    async def give_up(_item: int, _error: Exception) -> None:
        raise AssertionError

    with pytest.raises(ConnectionError):
        await in_halves(range(8), work, hopeless=(ValueError,), give_up=give_up)
    assert tries == 1
