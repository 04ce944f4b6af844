"""Work that is done for many at once: what is asked for at about the same time, and what can't be done found apart."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec


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


class _Batch[K, V](msgspec.Struct):
    keys: list[K]
    results: Sequence[V] | None = None
    error: Exception | None = None


class Together[K, V]:
    """Does for many at once what each of them asks for.

    Who asks while others are being answered is answered by the next turn, together with all that ask by then. So each
    answer is of a turn that began behind the question.

    Args:
        work: does it for some, and returns a result for each in their order; what it raises all of them get.
        most: how many in a turn.
    """

    def __init__(self, work: Callable[[Sequence[K]], Awaitable[Sequence[V]]], *, most: int) -> None:
        self._work = work
        self._most = most
        self._turn = asyncio.Lock()
        self._next: _Batch[K, V] = _Batch([])

    async def ask(self, key: K) -> V:
        """Return the result for `key`; raises what the work does."""
        if len(self._next.keys) >= self._most:
            self._next = _Batch([])
        batch = self._next
        place = len(batch.keys)
        batch.keys.append(key)
        # The first of them to get here does it for all; if that one is canceled, the next one does.
        async with self._turn:
            if batch.results is None and batch.error is None:
                await self._do(batch)
        if batch.error is not None:
            raise batch.error
        assert batch.results is not None  # noqa: S101 either is there once it was done
        return batch.results[place]

    async def _do(self, batch: _Batch[K, V]) -> None:
        # Who was woken with us asks in this round of the loop.
        await asyncio.sleep(0)
        if batch is self._next:
            self._next = _Batch([])
        try:
            batch.results = await self._work(tuple(batch.keys))
        except Exception as error:  # noqa: BLE001 it is raised where it was asked
            batch.error = error
