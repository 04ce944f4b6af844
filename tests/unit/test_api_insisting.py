"""Sessions that must end although somebody else is told something else, and the broker is away just then."""

import asyncio

import pytest

from greenroom.api.insisting import Insisting, insist
from greenroom.common.clock import SystemClock
from greenroom.common.errors import BrokerUnavailable, GreenroomError, LedgerConflict, LedgerCorrupt, SessionNotFound
from tests.support.leaping_time import run_virtual


class _End:
    """Fails with what it is given, one after the other, and then doesn't."""

    def __init__(self, *errors: GreenroomError) -> None:
        self.errors = list(errors)
        self.tries: list[float] = []

    async def __call__(self) -> None:
        self.tries.append(round(asyncio.get_running_loop().time(), 3))
        if self.errors:
            raise self.errors.pop(0)

    def insist(self) -> list[float]:
        """Return when it was tried."""
        run_virtual(insist(self, "s-1", SystemClock()))
        return self.tries


def test_it_is_tried_until_it_is_done() -> None:
    """Whatever the broker says meanwhile."""
    assert _End().insist() == [0.0]
    assert _End(BrokerUnavailable(), LedgerConflict()).insist() == [0.0, 1.0, 2.0]


def test_it_is_not_tried_for_ever() -> None:
    """Such a session ends by its time limits."""
    assert len(_End(*[BrokerUnavailable()] * 100).insist()) == 30


@pytest.mark.parametrize("error", [SessionNotFound(), LedgerCorrupt()])
def test_what_nobody_can_end_is_left(error: GreenroomError) -> None:
    """It isn't there, or it isn't known what is there."""
    assert _End(error).insist() == [0.0]


def test_it_is_waited_for_while_it_takes_no_longer_than_usual() -> None:
    """After a second whoever waits goes on, and the end is still worked at."""

    async def play() -> tuple[float, float, int]:
        loop, insisting = asyncio.get_running_loop(), Insisting()
        await insisting.end(_End(), "s-1")
        at_once = loop.time()
        slow = _End(*[BrokerUnavailable()] * 5)
        await insisting.end(slow, "s-2")
        waited = loop.time()
        await asyncio.sleep(10)
        await insisting.close()
        return at_once, waited, len(slow.tries)

    assert run_virtual(play()) == (0.0, 1.0, 6)


def test_what_is_left_at_the_end_of_the_service_is_left() -> None:
    """Nothing is tried any more."""

    async def play() -> int:
        insisting, end = Insisting(), _End(*[BrokerUnavailable()] * 9)
        await insisting.end(end, "s-1")
        await insisting.close()
        tried = len(end.tries)
        await asyncio.sleep(10)
        return len(end.tries) - tried

    assert run_virtual(play()) == 0
