"""A bounded cache of what PostgreSQL says, that goes on with what it knows while PostgreSQL is away."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from greenroom.common.clock import Clock, SystemClock
from greenroom.common.errors import DatabaseUnavailable

_MAX_ENTRIES: Final = 10_000


class Cache[K, V]:
    """Looks values up by `load`, and remembers them.

    Args:
        load: returns the value, or None where there is none; raises `DatabaseUnavailable`.
        ttl_s: how long a value is used without looking again.
        absent_ttl_s: the same for keys that have none.
        clock: time.
    """

    def __init__(
        self,
        load: Callable[[K], Awaitable[V | None]],
        *,
        ttl_s: float,
        absent_ttl_s: float,
        clock: Clock | None = None,
    ) -> None:
        self._load = load
        self._ttl_s = ttl_s
        self._absent_ttl_s = absent_ttl_s
        self._clock = clock or SystemClock()
        # Value and when it was loaded, least recently loaded first.
        self._entries: OrderedDict[K, tuple[V | None, float]] = OrderedDict()
        self._loading: dict[K, asyncio.Future[V | None]] = {}

    async def get(self, key: K) -> V | None:
        """Return the value of `key`, or None where there is none.

        Raises:
            DatabaseUnavailable: it isn't known and can't be looked up.
        """
        entry = self._entries.get(key)
        if entry is not None:
            value, loaded_at = entry
            ttl_s = self._absent_ttl_s if value is None else self._ttl_s
            if self._clock.monotonic() - loaded_at < ttl_s:
                return value
        try:
            return await self._load_once(key)
        except DatabaseUnavailable:
            # Better an answer of some minutes ago than none; that something is absent may have changed, though.
            if entry is None or entry[0] is None:
                raise
            return entry[0]

    def forget(self, key: K) -> None:
        """Look `key` up again the next time."""
        self._entries.pop(key, None)

    async def _load_once(self, key: K) -> V | None:
        """Load `key`; whoever asks meanwhile waits for the same answer."""
        loading = self._loading.get(key)
        if loading is not None:
            return await asyncio.shield(loading)
        loading = self._loading[key] = asyncio.get_running_loop().create_future()
        try:
            value = await self._load(key)
        except BaseException as error:
            # Those who wait are told that it failed, even if only the one who asked for them was cancelled.
            loading.set_exception(error if isinstance(error, DatabaseUnavailable) else DatabaseUnavailable())
            loading.exception()  # it is nobody's fault if nobody waited
            raise
        else:
            self._remember(key, value)
            loading.set_result(value)
            return value
        finally:
            del self._loading[key]

    def _remember(self, key: K, value: V | None) -> None:
        self._entries[key] = (value, self._clock.monotonic())
        self._entries.move_to_end(key)
        while len(self._entries) > _MAX_ENTRIES:
            self._entries.popitem(last=False)
