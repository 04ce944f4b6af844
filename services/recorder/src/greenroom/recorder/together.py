"""Work that is done for many at once: what is asked for at about the same time, and what can't be done found apart."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

# What is woken at about the same time asks within this.
LINGER_S: Final = 0.01


async def in_halves[T](
    items: Sequence[T],
    work: Callable[[Sequence[T]], Awaitable[None]],
    *,
    hopeless: tuple[type[Exception], ...],
    give_up: Callable[[T, Exception], Awaitable[None]],
) -> None:
    """Have work done for all items; what can't be done is looked for in halves.

    Args:
        items: what is to be done.
        work: does some of them, and leaves nothing half done of any; what is done already it passes over.
        hopeless: what it raises when one of them can't be done, now or ever.
        give_up: is told of that one.
    """
    try:
        await work(items)
    except hopeless as error:
        if len(items) == 1:
            await give_up(items[0], error)
            return
        middle = len(items) // 2
        for half in (items[:middle], items[middle:]):
            await in_halves(half, work, hopeless=hopeless, give_up=give_up)


class _Turn[K, V]:
    def __init__(self) -> None:
        self.keys: list[K] = []
        self.results: Sequence[V] | None = None
        self.error: Exception | None = None
        self.over = asyncio.Event()


class Together[K, V]:
    """Does for many at once what each of them asks for.

    Who asks while others are being answered is answered by the next turn, together with all that ask by then. So each
    answer is of a turn that began behind the question.

    Args:
        work: does it for some, and returns a result for each in their order; what it raises all of them get.
        most: how many in a turn.
        linger_s: how long a turn waits for others before it begins.
    """

    def __init__(
        self, work: Callable[[Sequence[K]], Awaitable[Sequence[V]]], *, most: int, linger_s: float = LINGER_S
    ) -> None:
        self._work = work
        self._most = most
        self._linger_s = linger_s
        self._busy = asyncio.Lock()
        self._next: _Turn[K, V] = _Turn()

    async def ask(self, key: K) -> V:
        """Return the result for `key`; raises what the work does."""
        while True:
            if len(self._next.keys) >= self._most:
                self._next = _Turn()
            turn, place = self._next, len(self._next.keys)
            turn.keys.append(key)
            if place == 0:
                await self._take(turn)
            else:
                await turn.over.wait()
            if turn.error is not None:
                raise turn.error
            if turn.results is not None:
                return turn.results[place]
            # Whoever had it was canceled: that was nothing to the others.

    async def _take(self, turn: _Turn[K, V]) -> None:
        try:
            async with self._busy:
                await asyncio.sleep(self._linger_s)
                self._close(turn)
                turn.results = await self._work(tuple(turn.keys))
        except Exception as error:  # noqa: BLE001 it is raised where it was asked
            turn.error = error
        finally:
            self._close(turn)
            turn.over.set()

    def _close(self, turn: _Turn[K, V]) -> None:
        """Let nobody join any more."""
        if turn is self._next:
            self._next = _Turn()
