"""Follows Nomad's event stream, and lists everything anew whenever something may have been missed."""

import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog

from greenroom.common.clock import Clock
from greenroom.scheduler.launchers.base import LauncherUnavailable, LaunchRefused
from greenroom.scheduler.launchers.nomad_client import NomadClient
from greenroom.scheduler.launchers.nomad_names import JobNames
from greenroom.scheduler.launchers.nomad_picture import NomadPicture

_log = structlog.get_logger()

_FIRST_WAIT_S: Final = 0.5
_LONGEST_WAIT_S: Final = 15.0
# What events may have told wrongly doesn't stay wrong for longer.
_LIST_EVERY_S: Final = 60.0


class EventFollower:
    """Keeps a picture current while it runs.

    Attributes:
        current: whether the picture is as current as Nomad's events; if not, lists must be asked for.
        trouble: why it isn't, if it should be.

    Args:
        client: to Nomad.
        picture: that is kept.
        names: of the jobs.
        clock: time.
        check: called before each subscription; raises what keeps Nomad from being used.
    """

    def __init__(
        self,
        client: NomadClient,
        picture: NomadPicture,
        names: JobNames,
        *,
        clock: Clock,
        check: Callable[[], Awaitable[None]],
    ) -> None:
        self._client = client
        self._picture = picture
        self._names = names
        self._clock = clock
        self._check = check
        self.current = False
        self.trouble: str | None = None

    async def run(self) -> None:
        """Follow until cancelled: subscribe, list, fold, and from the beginning when the stream ends."""
        wait_s = _FIRST_WAIT_S
        try:
            while True:
                began = self._clock.monotonic()
                self._lost(await self._follow_until_lost())
                if self._clock.monotonic() - began > _LONGEST_WAIT_S:
                    wait_s = _FIRST_WAIT_S
                await self._clock.sleep(wait_s)
                wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
        finally:
            self.current = False
            self.trouble = None

    async def list_all(self) -> None:
        """Read everything there is.

        Raises:
            LaunchRefused: Nomad said no.
            LauncherUnavailable: it gave no usable answer.
        """
        allocations = await self._client.allocations()
        jobs = await self._client.jobs(self._names.children)
        blocked = await self._client.blocked()
        self._picture.replace(allocations, jobs, blocked)

    async def _follow_until_lost(self) -> str:
        """Follow, and return why it came to an end."""
        try:
            await self._follow()
        except (LauncherUnavailable, LaunchRefused) as error:
            return error.detail
        except msgspec.MsgspecError as error:
            return f"Nomad's events aren't understood: {error}"
        return "Nomad has ended the event stream"

    async def _follow(self) -> None:
        await self._check()
        async with self._client.events() as batches, contextlib.aclosing(batches):
            # The subscription begins before the lists are read, so whatever they don't hold comes as an event.
            await self.list_all()
            listed_at = self._clock.monotonic()
            self.current, self.trouble = True, None
            _log.info("nomad_events_followed")
            async for batch in batches:
                self._picture.apply(batch)
                if self._clock.monotonic() - listed_at > _LIST_EVERY_S:
                    await self.list_all()
                    listed_at = self._clock.monotonic()

    def _lost(self, why: str) -> None:
        self.current, self.trouble = False, why
        _log.warning("nomad_events_lost", detail=why)
