"""A launcher of runners that come up after a while, or don't: what a scenario says of it."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from datetime import datetime
from random import Random
from typing import Final

import msgspec

from greenroom.devtools.sim.clockwork import Clockwork
from greenroom.devtools.sim.faults import LauncherAway, LauncherSlow
from greenroom.devtools.sim.scenario import Launcher, Pool, Scenario
from greenroom.scheduler.launchers.base import (
    ColdStart,
    Instance,
    InstanceState,
    LauncherUnavailable,
    LaunchRefused,
    Retires,
)

_RETRY_S: Final = 1.0


class Launched(msgspec.Struct, kw_only=True, eq=False):
    """One instance, and what it was asked for with."""

    id: str
    pool: Pool
    state: InstanceState
    since: datetime
    ordinal: int | None = None
    start: ColdStart | None = None

    @property
    def shown(self) -> Instance:
        """What the scheduler is told of it."""
        return Instance(
            id=self.id,
            pool=self.pool.name,
            state=self.state,
            launch_id=self.start.launch_id if self.start else None,
            ordinal=self.ordinal,
            since=self.since,
        )


class VirtualLauncher:
    """A `Launcher`.

    Args:
        scenario: has its times and faults.
        spec: of it.
        clock: virtual time.
        chance: draws times.
        up: called when an instance has come up.
        down: called with the id of an instance that is to end.
    """

    name = "simulated"

    def __init__(
        self,
        scenario: Scenario,
        spec: Launcher,
        clock: Clockwork,
        chance: Random,
        *,
        up: Callable[[Launched], None],
        down: Callable[[str], None],
    ) -> None:
        self.asked = 0
        self._spec = spec
        self._clock = clock
        self._chance = chance
        self._up = up
        self._down = down
        self._pools = {pool.name: pool for pool in reversed(scenario.pools)}
        self._away = [each for each in scenario.faults if isinstance(each, LauncherAway)]
        self._slow = [each for each in scenario.faults if isinstance(each, LauncherSlow)]
        self._instances: dict[str, Launched] = {}
        self._launched: set[str] = set()
        self._numbers = itertools.count(1)

    @property
    def retires(self) -> Retires:
        """Which instance of a group may be retired."""
        return self._spec.retires

    # ------------------------------------------------------------------------ what the scheduler asks for

    async def cold_start(self, start: ColdStart) -> None:
        """Launch a runner for a session, once.

        Raises:
            LauncherUnavailable: it is away.
        """
        self._answer()
        if start.launch_id not in self._launched:
            self._launched.add(start.launch_id)
            self.asked += 1
            self._launch(self._pools[start.pool], start=start)

    async def cancel(self, launch_id: str) -> None:
        """End what a launch made.

        Raises:
            LauncherUnavailable: it is away.
        """
        self._answer()
        for each in [each for each in self._instances.values() if each.start and each.start.launch_id == launch_id]:
            self._end(each)

    async def instances(self, pool: str) -> Sequence[Instance]:
        """Return what is there.

        Raises:
            LauncherUnavailable: it is away.
        """
        self._answer()
        return [each.shown for each in self._instances.values() if each.pool.name == pool]

    async def set_count(self, pool: str, count: int) -> None:
        """Make a group larger.

        Raises:
            LauncherUnavailable: it is away.
        """
        self._answer()
        taken = self._ordinals(pool)
        for ordinal in itertools.islice((n for n in itertools.count() if n not in taken), max(count - len(taken), 0)):
            self._launch(self._pools[pool], ordinal=ordinal)

    async def retire(self, instance: Instance) -> None:
        """End an instance of a group.

        Raises:
            LauncherUnavailable: it is away.
            LaunchRefused: there is no such instance.
        """
        self._answer()
        known = self._instances.get(instance.id)
        if known is None:
            raise LaunchRefused(f"there is no instance {instance.id}")
        self._end(known)

    def held_back(self, pool: str) -> str | None:
        """Return None: there is always room."""
        del pool

    async def run(self) -> None:
        """Wait until cancelled."""
        await asyncio.Event().wait()

    def _answer(self) -> None:
        if self._is_away():
            raise LauncherUnavailable("it is away, as the scenario says")

    def _is_away(self) -> bool:
        return any(each.from_s <= self._clock.now_s < each.to_s for each in self._away)

    def _ordinals(self, pool: str) -> set[int | None]:
        return {each.ordinal for each in self._instances.values() if each.pool.name == pool and each.start is None}

    # ------------------------------------------------------------------------ what becomes of it

    def adopted(self, pool: Pool, ordinal: int) -> Launched:
        """Return an instance that was up before the scenario began."""
        return self._new(pool, "running", ordinal=ordinal)

    def lost(self, instance_id: str) -> None:
        """Take in that an instance is gone with its host. It shows as running until that is noticed."""
        self._clock.after(self._spec.notices_s, self._notice, instance_id)

    def _notice(self, instance_id: str) -> None:
        known = self._instances.pop(instance_id, None)
        if known is not None and known.start is None:
            # The size of the group hasn't changed, so its place is filled again.
            self._launch(known.pool, ordinal=known.ordinal)

    def left(self, instance_id: str) -> None:
        """Take in that an instance has ended by itself."""
        self._instances.pop(instance_id, None)

    def _launch(self, pool: Pool, *, ordinal: int | None = None, start: ColdStart | None = None) -> None:
        launched = self._new(pool, "pending", ordinal=ordinal, start=start)
        self._clock.after(self._takes_s(), self._come_up, launched)

    def _new(
        self, pool: Pool, state: InstanceState, *, ordinal: int | None = None, start: ColdStart | None = None
    ) -> Launched:
        instance_id = f"i-{next(self._numbers):06d}"
        launched = Launched(
            id=instance_id, pool=pool, state=state, since=self._clock.now(), ordinal=ordinal, start=start
        )
        self._instances[instance_id] = launched
        return launched

    def _takes_s(self) -> float:
        now_s = self._clock.now_s
        times = [each.times for each in self._slow if each.from_s <= now_s < each.to_s]
        return self._spec.cold_start.draw(self._chance) * (max(times) if times else 1.0)

    def _come_up(self, launched: Launched) -> None:
        if launched.id not in self._instances:
            return
        if self._is_away():
            self._clock.after(_RETRY_S, self._come_up, launched)
            return
        launched.state = "running"
        self._up(launched)

    def _end(self, launched: Launched) -> None:
        del self._instances[launched.id]
        self._down(launched.id)
