"""Keeps a zygote alive, has it fork, and knows every process that came of it.

A zygote that dies is replaced while the sessions it has forked live on: the runner adopts them (it is the subreaper)
and sees their exits as before. A bot that breaks its zygote while it is imported or warmed is left out of the next.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from greenroom.common.clock import Clock
from greenroom.common.messages import BotOffer
from greenroom.runner import childlife
from greenroom.runner.control import ToSession
from greenroom.runner.discovery import BotSpec
from greenroom.runner.forkwire import PeerGone, Prepare
from greenroom.runner.isolation.groups import SessionGroups
from greenroom.runner.processes import SessionProcess
from greenroom.runner.settings import RunnerSettings
from greenroom.runner.strays import kill_strays
from greenroom.runner.zygote_process import ForkRefused, NotWarm, ZygoteProcess

_log = structlog.get_logger()

DEFAULT_RUN: Final = "greenroom.runner.session.process:run"
# A fork takes some milliseconds; on a host that swaps, tens.
FORK_TIMEOUT_S: Final = 5.0
_BACKOFF_S: Final = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
# A zygote that was warm for this long didn't die of what it had imported.
_STABLE_S: Final = 60.0
_STRAYS_EVERY_S: Final = 1.0
# What a stray has started becomes one when that is dead.
_STRAYS_AGAIN_S: Final = 0.02


class NoProcess(Exception):
    """There was no zygote in time, or the kernel refused to fork."""


class Supervisor:
    """See the module.

    Args:
        settings: of the runner; the zygote gets them too.
        bots: what the zygote imports; None: it is told later (`supply`), and begins with what all bots need.
        clock: time.
        environment: of the zygote, beside what the recipe sets.
        on_change: called when `offers` or `available` has changed.
        run: `module:function` that each fork calls.
        rehearse: whether the zygote rehearses a turn.
        owns_children: whether every child of this process is a zygote or a session: strays are killed then.
        groups: makes the control groups of the sessions; None: there are none.

    Attributes:
        offers: the bots that can run, and those that can't with the reason; of the last zygote that was warm.
        restarts: how many zygotes were started after the first.
        stages_ms: how long the stages of the last zygote that was warm took.
    """

    def __init__(
        self,
        settings: RunnerSettings,
        bots: tuple[BotSpec, ...] | None,
        *,
        clock: Clock,
        environment: Mapping[str, str],
        on_change: Callable[[], None] = lambda: None,
        run: str = DEFAULT_RUN,
        rehearse: bool = True,
        owns_children: bool = False,
        groups: SessionGroups | None = None,
    ) -> None:
        self.offers: tuple[BotOffer, ...] = ()
        self.restarts = 0
        self.stages_ms: Mapping[str, float] = {}
        self.on_change = on_change
        self._settings = settings
        self._bots = bots
        self._clock = clock
        self._environment = environment
        self._target = run
        self._rehearse = rehearse
        self._owns_children = owns_children
        self._groups = groups
        self._spoiled: dict[str, str] = {}
        self._zygote: ZygoteProcess | None = None
        self._available = asyncio.Event()
        self._processes: set[SessionProcess] = set()

    @property
    def available(self) -> bool:
        """Whether there is a warm zygote now."""
        return self._available.is_set()

    @property
    def zygote_pid(self) -> int | None:
        """The process id of the zygote, if there is one."""
        return self._zygote.pid if self._zygote else None

    @property
    def processes(self) -> frozenset[SessionProcess]:
        """The processes that were forked and haven't been seen to exit."""
        return frozenset(self._processes)

    async def until_available(self) -> None:
        """Wait until there is a warm zygote."""
        await self._available.wait()

    def supply(self, bots: tuple[BotSpec, ...]) -> None:
        """Say which bots the zygote is to import, where that wasn't known when it was started."""
        self._bots = bots
        if self._zygote is not None:
            self._zygote.supply(bots)

    async def run(self) -> None:
        """Keep a zygote alive until canceled."""
        childlife.adopt_orphans()
        async with asyncio.TaskGroup() as tasks:
            if self._owns_children:
                tasks.create_task(self._hunt_strays(), name="strays")
            failures = 0
            while True:
                await self._clock.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
                stable = await self._live_once()
                failures = 1 if stable else failures + 1
                self.restarts += 1

    async def fork(self, first: ToSession | None = None, *, timeout_s: float = FORK_TIMEOUT_S) -> SessionProcess:
        """Fork a session process, from the next zygote if there is none now.

        Args:
            first: what it is told first, before it even begins.
            timeout_s: how long it may take.

        Raises:
            NoProcess: there was no zygote in `timeout_s`, or the kernel refused.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    await self._available.wait()
                    process = await self._fork(first)
                    if process is not None:
                        return process
        except (TimeoutError, ForkRefused) as error:
            raise NoProcess(str(error) or f"no process could be forked in {timeout_s:g} s") from error

    async def _fork(self, first: ToSession | None) -> SessionProcess | None:
        if self._zygote is None:
            return None
        try:
            process = await self._zygote.fork(first)
        except PeerGone:
            self._available.clear()
            return None
        self._processes.add(process)
        if self._groups is not None:
            process.shut_into(self._groups)
        process.on_exit(lambda _: self._processes.discard(process))
        return process

    async def _live_once(self) -> bool:
        """Start a zygote and wait for its end; return whether it was of use for long."""
        order = Prepare(
            settings=self._settings,
            run=self._target,
            bots=self._bots,
            spoiled=self._spoiled,
            rehearse=self._rehearse,
        )
        began = self._clock.monotonic()
        zygote = self._zygote = ZygoteProcess.start(order, self._environment)
        try:
            await zygote.warm(self._settings.warmup_timeout_s)
            warm_at = self._clock.monotonic()
            self.stages_ms = zygote.stages_ms
            self.offers = tuple(zygote.offers)
            _log.info(
                "zygote_warm",
                pid=zygote.pid,
                took_s=round(warm_at - began, 3),
                stages_ms=zygote.stages_ms,
                bots=[offer.name for offer in self.offers if offer.error is None],
            )
            self._available.set()
            self.on_change()
            await zygote.gone.wait()
            return self._clock.monotonic() - warm_at > _STABLE_S
        except NotWarm as error:
            _log.error("zygote_not_warm", stage=error.stage, bot=error.bot, detail=error.detail)
            if error.bot:
                self._spoiled[error.bot] = error.detail
            return False
        finally:
            self._available.clear()
            how = await zygote.bury()
            self._zygote = None
            _log.warning("zygote_ended", pid=zygote.pid, how=how, live_processes=len(self._processes))
            self.on_change()

    async def _hunt_strays(self) -> None:
        before: frozenset[int] = frozenset()
        while True:
            await self._clock.sleep(_STRAYS_AGAIN_S if before else _STRAYS_EVERY_S)
            known = {process.pid for process in self._processes} | {self.zygote_pid or 0}
            strays = kill_strays(frozenset(known))
            if new := strays - before:
                _log.warning("stray_processes_killed", processes=len(new))
            before = strays
