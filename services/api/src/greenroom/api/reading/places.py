"""How many bundles and exports this process makes at a time: each takes compression, disk and database from others."""

from collections.abc import AsyncGenerator

from greenroom.common.errors import GreenroomError
from greenroom.common.metrics import Metrics


class TooManyDownloads(GreenroomError):
    """This instance makes as many bundles and exports as it may; ask again, or ask another one.

    If it lasts, run more instances, or raise GREENROOM_API_MAX_DOWNLOADS.
    """

    code = "too-many-downloads"
    status = 503
    title = "This instance makes no more bundles and exports now"
    retryable = True
    default_retry_after_s = 5.0


class Places:
    """Counts what is being made; `taken` is how many there are now."""

    def __init__(self, most: int, metrics: Metrics) -> None:
        """Allow `most` at a time."""
        self._most = most
        self.taken = 0
        self._gauge = metrics.gauge("api_downloads", "Bundles and exports that are being made now")

    def check(self) -> None:
        """Make sure that there is a place.

        Raises:
            TooManyDownloads: there is none.
        """
        if self.taken >= self._most:
            raise TooManyDownloads

    async def occupy(self, chunks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        """Yield `chunks` in a place of theirs, which is free again when they end, however they do."""
        self._count(1)
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            self._count(-1)
            await chunks.aclose()

    def _count(self, change: int) -> None:
        self.taken += change
        self._gauge.set(self.taken)
