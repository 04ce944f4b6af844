"""A priority queue whose items may be ranked anew or taken out at any time."""

import heapq
import itertools
from collections.abc import Hashable, Iterator
from typing import Any, Final

# Below this a heap isn't worth tidying up.
_SMALL: Final = 64


class Ranking[T: Hashable, K: tuple[Any, ...]]:
    """Items in the order of their keys; the least is first.

    What is ranked anew or dropped leaves its former entry in the heap, to be passed over when it comes up; when such
    entries are more than half, the heap is made anew. So every operation is O(log n), averaged over many.

    Keys are tuples that differ from item to item, e.g. because they end with an id: nothing else orders the items.
    """

    __slots__ = ("_entries", "_heap", "_keys")

    def __init__(self) -> None:
        self._keys: dict[T, K] = {}
        # The number is there for entries that are passed over, whose key another item may have by now.
        self._heap: list[tuple[K, int, T]] = []
        self._entries = itertools.count()

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, item: T) -> bool:
        return item in self._keys

    def __iter__(self) -> Iterator[T]:
        """Yield the items, in no order that means anything."""
        return iter(self._keys)

    def put(self, item: T, key: K) -> None:
        """Rank an item, whether it was in already or not."""
        if self._keys.get(item) == key:
            return
        self._keys[item] = key
        heapq.heappush(self._heap, (key, next(self._entries), item))
        if len(self._heap) > _SMALL and len(self._heap) > 2 * len(self._keys):
            self._heap = [(key, next(self._entries), item) for item, key in self._keys.items()]
            heapq.heapify(self._heap)

    def drop(self, item: T) -> None:
        """Take an item out, if it is in."""
        self._keys.pop(item, None)

    def first(self) -> T | None:
        """Return the item with the least key, or None when there is none."""
        heap, keys = self._heap, self._keys
        while heap:
            key, _, item = heap[0]
            if keys.get(item) is key:
                return item
            heapq.heappop(heap)
        return None

    def key(self, item: T) -> K:
        """Return the key of an item that is in."""
        return self._keys[item]
