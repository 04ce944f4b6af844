"""A launcher whose instances are simulated runners, in virtual time, and which fails in every way that one can."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Final, Literal

import msgspec

from greenroom.common import messages, subjects
from greenroom.common.broker import Message
from greenroom.common.clock import Clock
from greenroom.common.messages import Done
from greenroom.scheduler.launchers.base import ColdStart, Instance, LauncherUnavailable, LaunchRefused, Retires
from tests.support.memory_broker import MemoryBroker, MemoryServer
from tests.support.simulated_runner import SimulatedRunner


class Launched:
    """One instance and what runs in it."""

    def __init__(self, instance: Instance, broker: MemoryBroker) -> None:
        self.instance = instance
        self.broker = broker
        self.runner: SimulatedRunner | None = None
        self.task: asyncio.Task[None] | None = None


class VirtualLauncher:
    """See the module.

    Args:
        server: where its runners are.
        clock: time.
        delay_s: from the request until an instance runs and is heard.
        cold: fields of cold runners, e.g. `call_s`.
        baseline: the same of those of the group.

    Attributes:
        delay_s: as above; what is asked for from now on.
        refuses: what a cold start is refused with.
        refuses_count: what another size of a group is refused with.
        away: whether nothing is answered, and nothing done.
        hangs: whether a cold start gets no answer: it was never heard (`before`), or was carried out (`after`).
        loses: of so many next cold starts only the answer gets lost.
        comes_up: whether an instance gets beyond `pending`.
        crashes: whether an instance ends as soon as it has started.
        reports: whether a runner is in an instance that runs.
        holds: what it says that holds it back.
        asked: all cold starts it heard of, repeated ones too.
        ever: all instances there ever were.
        most: how many cold instances there were at once at most.
        counts: sizes that it was asked for, refused ones too.
        canceled: launches that it was told to end.
        retired: ids of instances it let go.
    """

    def __init__(
        self,
        server: MemoryServer,
        clock: Clock,
        *,
        delay_s: float = 3.0,
        cold: dict[str, Any] | None = None,
        baseline: dict[str, Any] | None = None,
        retires: Retires = "any",
    ) -> None:
        self.name: Final = "virtual"
        self.retires: Retires = retires
        self.delay_s = delay_s
        self.refuses: LaunchRefused | None = None
        self.refuses_count: LaunchRefused | None = None
        self.away = False
        self.hangs: Literal["no", "before", "after"] = "no"
        self.loses = 0
        self.comes_up = self.reports = True
        self.crashes = False
        self.holds: str | None = None
        self.asked: list[ColdStart] = []
        self.ever: list[Launched] = []
        self.most = 0
        self.counts: list[int] = []
        self.canceled: list[str] = []
        self.retired: list[str] = []
        self._server = server
        self._clock = clock
        self._cold: dict[str, Any] = {"call_s": 5.0} | (cold or {})
        self._baseline: dict[str, Any] = {"slots": 1} | (baseline or {})
        self._up: dict[str, Launched] = {}

    # ------------------------------------------------------------------------ what tests ask

    @property
    def up(self) -> list[Launched]:
        """What is there."""
        return list(self._up.values())

    @property
    def cold(self) -> list[Launched]:
        """What of it is for single sessions."""
        return [each for each in self.up if each.instance.launch_id is not None]

    @property
    def group(self) -> list[Launched]:
        """What of it is of baseline groups."""
        return [each for each in self.up if each.instance.launch_id is None]

    def runners(self) -> list[SimulatedRunner]:
        """Return all runners there ever were."""
        return [each.runner for each in self.ever if each.runner is not None]

    def cut_off(self, *, connected: bool) -> None:
        """Cut the connections of all that is there, or bring them back."""
        for each in self.up:
            each.broker.connected = connected

    async def end(self, instance_id: str) -> None:
        """Have an instance gone, as after SIGKILL."""
        launched = self._up.pop(instance_id, None)
        if launched is None:
            return
        if launched.task is not None:
            launched.task.cancel()
        if launched.runner is not None:
            await launched.runner.kill()

    async def stop(self) -> None:
        """End everything."""
        for each in self.up:
            await self.end(each.instance.id)

    # ------------------------------------------------------------------------ the port

    async def cold_start(self, start: ColdStart) -> None:
        """See `Launcher.cold_start`."""
        await self._answer()
        self.asked.append(start)
        if self.hangs == "before":
            await asyncio.Event().wait()
        if self.refuses is not None:
            raise self.refuses
        known = {each.instance.launch_id for each in self.ever}
        if start.launch_id not in known:
            instance = self._instance(f"alloc-{start.launch_id}", start.pool, launch_id=start.launch_id)
            self._begin(instance, self._serve_one(instance, start))
            self.most = max(self.most, len(self.cold))
        if self.hangs == "after":
            await asyncio.Event().wait()
        if self.loses:
            self.loses -= 1
            raise LauncherUnavailable

    async def cancel(self, launch_id: str) -> None:
        """See `Launcher.cancel`."""
        await self._answer()
        self.canceled.append(launch_id)
        await self.end(f"alloc-{launch_id}")

    async def instances(self, pool: str) -> Sequence[Instance]:
        """See `Launcher.instances`."""
        await self._answer()
        return [each.instance for each in self.up if each.instance.pool == pool]

    async def set_count(self, pool: str, count: int) -> None:
        """See `Launcher.set_count`; never makes a group smaller."""
        await self._answer()
        self.counts.append(count)
        if self.refuses_count is not None:
            raise self.refuses_count
        taken = {each.instance.ordinal for each in self.group if each.instance.pool == pool}
        free = (number for number in range(count) if number not in taken)
        for _, ordinal in zip(range(count - len(taken)), free, strict=False):
            instance = self._instance(f"group-{len(self.ever)}", pool, ordinal=ordinal)
            self._begin(instance, self._serve_on(instance))

    async def retire(self, instance: Instance) -> None:
        """See `Launcher.retire`; what isn't drained and idle isn't asked for."""
        await self._answer()
        launched = self._up[instance.id]
        assert launched.runner is None or (launched.runner.draining and not launched.runner.held), "it was in use"
        self.retired.append(instance.id)
        await self.end(instance.id)

    def held_back(self, pool: str) -> str | None:
        """See `Launcher.held_back`."""
        del pool
        return self.holds

    async def run(self) -> None:
        """Wait until canceled: there is nothing to follow."""
        await asyncio.Event().wait()

    # ------------------------------------------------------------------------ instances

    async def _answer(self) -> None:
        await asyncio.sleep(0)
        if self.away:
            raise LauncherUnavailable

    def _instance(self, name: str, pool: str, *, launch_id: str | None = None, ordinal: int | None = None) -> Instance:
        now = self._clock.now()
        return Instance(id=name, pool=pool, state="pending", launch_id=launch_id, ordinal=ordinal, since=now)

    def _begin(self, instance: Instance, work: Coroutine[Any, Any, None]) -> None:
        launched = Launched(instance, self._server.connect())
        self._up[instance.id] = launched
        self.ever.append(launched)
        launched.task = asyncio.create_task(work)

    async def _come_up(self, instance: Instance) -> Launched | None:
        """Return the instance once it runs; None: there will be no runner in it."""
        comes_up, crashes, reports = self.comes_up, self.crashes, self.reports
        await self._clock.sleep(self.delay_s)
        if not comes_up:
            return None
        if crashes:
            self._up.pop(instance.id, None)
            return None
        launched = self._up[instance.id]
        launched.instance = msgspec.structs.replace(instance, state="running")
        return launched if reports else None

    async def _serve_one(self, instance: Instance, start: ColdStart) -> None:
        launched = await self._come_up(instance)
        if launched is None:
            return
        runner = SimulatedRunner.cold(
            launched.broker,
            self._clock,
            tenant=start.tenant,
            session_id=start.session_id,
            epoch=start.epoch,
            pool=start.pool,
            instance=instance.id,
            **self._cold,
        )
        launched.runner = runner
        await runner.start()
        await runner.left.wait()
        self._up.pop(instance.id, None)

    async def _serve_on(self, instance: Instance) -> None:
        launched = await self._come_up(instance)
        if launched is None:
            return
        runner = SimulatedRunner(
            launched.broker,
            self._clock,
            f"runner-{instance.id}",
            pool=instance.pool,
            instance=instance.id,
            ordinal=instance.ordinal,
            **self._baseline,
        )
        launched.runner = runner

        async def drain(message: Message) -> None:
            runner.draining = True
            await launched.broker.publish(message.reply, messages.encode(Done()))
            await runner.beat()

        command = subjects.RUNNER_CMD.format(pool=instance.pool, runner_id=runner.id, name="drain")
        subscription = await launched.broker.subscribe(command, drain)
        try:
            await runner.start()
            await asyncio.Event().wait()
        finally:
            await subscription.unsubscribe()
