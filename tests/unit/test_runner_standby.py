"""When a process is forked to wait, and which one a start gets."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import cast

from greenroom.common.clock import SystemClock
from greenroom.runner.processes import SessionProcess
from greenroom.runner.standby import StandbyPool
from greenroom.runner.supervisor import NoProcess
from greenroom.runner.verdicts import Exit


class FakeProcess:
    """As much of a session process as the pool asks for."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.alive = True
        self.hung_up = False
        self.hangs = False
        self.forked_at = time.monotonic()
        self.standby = asyncio.Event()
        self._exited = asyncio.Event()
        self._calls: list[Callable[[Exit], None]] = []

    def answers(self, _within_s: float) -> bool:
        """Whether it doesn't hang."""
        return not self.hangs

    def on_exit(self, call: Callable[[Exit], None]) -> None:
        """Remember whom to tell."""
        self._calls.append(call)

    async def wait(self) -> Exit:
        """Wait for its end."""
        await self._exited.wait()
        return Exit(code=0)

    def hang_up(self) -> None:
        """Remember."""
        self.hung_up = True

    def kill(self) -> None:
        """Die."""
        self.die()

    def die(self, *, seen: bool = True) -> None:
        """Die; `seen`: and be seen to have."""
        self.alive = False
        if seen:
            self._exited.set()
            for call in self._calls:
                call(Exit(code=-9))


class World:
    """A pool, and the processes it has forked."""

    def __init__(self, target: int, *, ready: bool = True, max_age_s: float = 0.0) -> None:
        self.forked: list[FakeProcess] = []
        self.target = target
        self.ready = ready
        self.failing = False
        # More than this are let go; more than the target only wait for slots.
        self.most = 64
        self.pool = StandbyPool(
            self.fork,
            lambda: self.target,
            clock=SystemClock(),
            on_change=lambda: None,
            most=lambda: self.most,
            max_age_s=max_age_s,
        )

    async def fork(self) -> SessionProcess:
        """Make a process."""
        await asyncio.sleep(0)
        if self.failing:
            raise NoProcess("no memory")
        process = FakeProcess(len(self.forked))
        self.forked.append(process)
        if self.ready:
            process.standby.set()
        return cast("SessionProcess", process)

    async def until(self, condition: Callable[[], bool], patience_s: float = 3.0) -> None:
        """Wait until something is true."""
        async with asyncio.timeout(patience_s):
            while not condition():
                await asyncio.sleep(0.002)


@asynccontextmanager
async def world(target: int = 2, *, ready: bool = True, max_age_s: float = 0.0) -> AsyncGenerator[World]:
    """A running pool."""
    made = World(target, ready=ready, max_age_s=max_age_s)
    running = asyncio.create_task(made.pool.run())
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_as_many_wait_as_are_wanted() -> None:
    """The pool is filled to its target, no further, and again after one was taken."""
    async with world() as it:
        await it.until(lambda: it.pool.ready == 2)
        assert it.pool.take_ready() is not None
        assert it.pool.ready == 1
        await it.until(lambda: it.pool.ready == 2)
        await asyncio.sleep(0.1)
        assert len(it.forked) == 3


async def test_one_is_forked_at_a_time() -> None:
    """However many are wanted: the next is begun when the one before stands by."""
    async with world(3, ready=False) as it:
        for count in (1, 2, 3):
            await it.until(lambda: len(it.forked) == count)  # noqa: B023 it is called before the next turn
            await asyncio.sleep(0.2)
            assert (len(it.forked), it.pool.ready) == (count, count - 1)
            it.forked[-1].standby.set()
        await it.until(lambda: it.pool.ready == 3)


async def test_nothing_is_forked_for_later_while_a_start_is_under_way() -> None:
    """The processor belongs to the start; the pool is filled when it has been quiet for a moment."""
    async with world() as it:
        await it.until(lambda: it.pool.ready == 2)
        with it.pool.starting():
            it.pool.take_ready()
            await asyncio.sleep(0.3)
            assert len(it.forked) == 2
        await it.until(lambda: it.pool.ready == 2, 0.5)


async def test_a_start_that_hangs_does_not_keep_the_pool_empty() -> None:
    """After a second a start doesn't count as being in a hurry any more."""
    async with world() as it:
        await it.until(lambda: it.pool.ready == 2)
        with it.pool.starting():
            it.pool.take_ready()
            await it.until(lambda: it.pool.ready == 2, 2.0)


async def test_a_dead_process_is_never_handed_out() -> None:
    """One that has died without being seen to yet is passed over."""
    async with world() as it:
        await it.until(lambda: it.pool.ready == 2)
        for process in it.forked[:2]:
            process.die(seen=False)
        assert it.pool.take_ready() is None


async def test_a_process_that_dies_while_waiting_is_replaced() -> None:
    """The pool notices and forks another."""
    async with world() as it:
        await it.until(lambda: it.pool.ready == 2)
        it.forked[0].die()
        assert it.pool.ready == 1
        await it.until(lambda: it.pool.ready == 2)
        assert len(it.forked) == 3


async def test_a_start_in_a_hurry_takes_the_process_that_is_about_to_be_ready() -> None:
    """Rather than fork another, a start takes the one that is connecting to the broker."""
    async with world(1, ready=False) as it:
        await it.until(lambda: len(it.forked) == 1)
        taken = it.pool.take_ready()
        assert taken is not None
        assert taken.pid == 0
        it.forked[0].standby.set()
        await it.until(lambda: len(it.forked) == 2)
        assert it.pool.ready == 0


async def test_failures_are_tried_again_later_and_later() -> None:
    """While forking fails there are ever longer pauses; when it works again, the pool is filled."""
    async with world() as it:
        await it.until(lambda: it.pool.ready == 2)
        it.failing = True
        it.forked[0].die()
        await asyncio.sleep(0.5)
        it.failing = False
        await it.until(lambda: it.pool.ready == 2)


async def test_a_closed_pool_lets_its_processes_go() -> None:
    """Closing hangs up on all that wait, and makes no more."""
    async with world() as it:
        await it.until(lambda: it.pool.ready == 2)
        it.pool.close()
        assert all(process.hung_up for process in it.forked)
        await asyncio.sleep(0.2)
        assert (it.pool.ready, len(it.forked)) == (0, 2)


async def test_a_process_that_hangs_is_never_handed_out() -> None:
    """A start gets the next one, at once, and the one that hangs is killed later."""
    async with world() as it:
        await it.until(lambda: it.pool.ready == 2)
        it.forked[0].hangs = True
        taken = it.pool.take_ready()
        assert taken is not None
        assert taken.pid == 1
        assert it.pool.take_ready() is None
        await it.until(lambda: not it.forked[0].alive)


async def test_a_process_that_hangs_is_replaced_before_anybody_wants_it() -> None:
    """The pool looks after those that wait."""
    async with world() as it:
        await it.until(lambda: it.pool.ready == 2)
        it.forked[0].hangs = True
        await it.until(lambda: len(it.forked) == 3 and it.pool.ready == 2)
        assert not it.forked[0].alive


async def test_an_old_process_is_replaced_by_its_successor() -> None:
    """One that has waited for long goes when another is there, so that there are never fewer; the others stay."""
    async with world(max_age_s=1000.0) as it:
        await it.until(lambda: it.pool.ready == 2)
        it.forked[0].forked_at -= 2000.0
        fewest = it.pool.ready

        def replaced() -> bool:
            nonlocal fewest
            fewest = min(fewest, it.pool.ready)
            return it.forked[0].hung_up

        await it.until(replaced)
        await it.until(lambda: it.pool.ready == 2)
        assert fewest == 2
        assert len(it.forked) == 3
        assert not it.forked[1].hung_up


async def test_those_that_are_too_many_are_let_go() -> None:
    """A lower target lets the oldest go; fewer free slots don't, for they come back."""
    async with world(3) as it:
        await it.until(lambda: it.pool.ready == 3)
        it.target = 1
        it.pool.wake()
        await asyncio.sleep(0.1)
        assert it.pool.ready == 3
        it.most = 2
        it.pool.wake()
        await it.until(lambda: it.pool.ready == 2)
        assert [process.hung_up for process in it.forked] == [True, False, False]


async def test_a_released_pool_is_filled_again_when_it_is_wanted() -> None:
    """Unlike a closed one."""
    async with world() as it:
        await it.until(lambda: it.pool.ready == 2)
        it.target = 0
        it.pool.release()
        assert all(process.hung_up for process in it.forked)
        await asyncio.sleep(0.1)
        assert it.pool.ready == 0
        it.target = 2
        it.pool.wake()
        await it.until(lambda: it.pool.ready == 2)


async def test_one_that_comes_to_be_after_the_end_is_let_go() -> None:
    """It was being forked when the pool was closed, and nobody will ever take it; nor those that wait."""
    async with world(3, ready=False) as it:
        await it.until(lambda: len(it.forked) == 1)
        it.forked[0].standby.set()
        await it.until(lambda: len(it.forked) == 2)
        # The runner has let all go that there were, and its tasks still run.
        it.pool._closed = True
    assert [process.hung_up for process in it.forked] == [True, True]
