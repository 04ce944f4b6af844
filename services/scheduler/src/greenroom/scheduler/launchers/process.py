"""Runners as child processes of this host: for development, and for all of a single machine.

Nothing is kept in memory that the next leader needs: what runs is in a state folder (`process_state`), entered there
by the processes themselves (`process_birth`), so that a scheduler may be killed between any two lines of this file.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
import structlog

from greenroom.common import telemetry
from greenroom.common.clock import Clock
from greenroom.scheduler.launchers import process_children
from greenroom.scheduler.launchers.base import ColdStart, Instance, LauncherUnavailable, LaunchRefused, Retires
from greenroom.scheduler.launchers.process_children import Children
from greenroom.scheduler.launchers.process_crashes import crash_loop
from greenroom.scheduler.launchers.process_env import runner_command, runner_env
from greenroom.scheduler.launchers.process_state import Record, StateFolder, usable_name

_log = structlog.get_logger()

# An idle runner ends within a second; one that doesn't hangs.
KILL_AFTER_S: Final = 30.0
# Longer than runners take by default for the calls they have (their GREENROOM_DRAIN_TIMEOUT_S is 3600).
DRAIN_S: Final = 3660.0
_TEND_EVERY_S: Final = 0.5
# A bare interpreter enters its process within 30 ms of an idle machine.
_BIRTH_TIMEOUT_S: Final = 5.0
_BIRTH_POLL_S: Final = 0.005

type Command = Callable[[], Sequence[str]]


class ProcessLauncher:
    """See `base.Launcher`; may retire any instance.

    Args:
        folder: where the state is; what uses the same folder manages the same processes.
        clock: time.
        env: the environment that the runners' is made of: the scheduler's own.
        command: returns the arguments that start a runner.
        kill_after_s: what a runner that has no call may take to end, before it is ended by force.
        drain_s: the same for one that may have calls.
    """

    name = "process"
    retires: Retires = "any"

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock,
        env: Mapping[str, str],
        command: Command = runner_command,
        kill_after_s: float = KILL_AFTER_S,
        drain_s: float = DRAIN_S,
    ) -> None:
        self._folder = StateFolder(folder)
        self._clock = clock
        self._env = dict(env)
        self._command = command
        self._kill_after_s = kill_after_s
        self._drain_s = drain_s
        self._children = Children(self._folder)
        self._held_back: dict[str, str] = {}
        # One change of a group at a time; between schedulers the entries see to it.
        self._changing = asyncio.Lock()
        self._folder.make()

    async def cold_start(self, start: ColdStart) -> None:
        """Start a runner for one session, unless it was before."""
        id_ = _cold_id(start.launch_id)
        record = Record(id=id_, pool=start.pool, launch_id=start.launch_id, since=self._clock.now())
        env = runner_env(self._env, instance_id=start.runner_id, pool=start.pool, claim=start.claim)
        with telemetry.session_span(
            "process.launch", session_id=start.session_id, tenant=start.tenant, traceparent=start.traceparent
        ):
            await self._launch(record, env)

    async def cancel(self, launch_id: str) -> None:
        """End the runner of a cold start; one that is just being born ends at its birth."""
        await _on_disk(self._cancel, _cold_id(launch_id), launch_id)

    async def instances(self, pool: str) -> Sequence[Instance]:
        """Return the processes of a pool that live."""
        return [_instance(record) for record in await _on_disk(self._living) if record.pool == pool]

    async def set_count(self, pool: str, count: int) -> None:
        """Note how large the group is to be, and start or end what differs; the highest ordinals go first.

        What goes may have calls, and is given the time for them.
        """
        _checked(pool)
        async with self._changing:
            await _on_disk(self._shrink, pool, count)
            await self._fill(pool, count)

    async def retire(self, instance: Instance) -> None:
        """End one instance, and make its group smaller by it. One that is gone or going already changes nothing."""
        async with self._changing:
            await _on_disk(self._retire, instance)

    def held_back(self, pool: str) -> str | None:
        """Return that the runners of the group end at once, if they do."""
        return self._held_back.get(pool)

    async def run(self) -> None:
        """See who has ended, end by force who should have, and start whom a group lacks."""
        while True:
            try:
                async with self._changing:
                    for pool, count in (await _on_disk(self._tend)).items():
                        await self._fill(pool, count)
            except (LaunchRefused, LauncherUnavailable) as error:
                _log.warning("launcher_trouble", launcher=self.name, code=error.code, detail=error.detail)
            await self._clock.sleep(_TEND_EVERY_S)

    # ------------------------------------------------------------------------ starting

    async def _launch(self, record: Record, env: Mapping[str, str]) -> None:
        """Start a process and wait until it has entered itself.

        Raises:
            LaunchRefused: it can't be started.
            LauncherUnavailable: it isn't there in time.
        """
        _checked(record.id)
        if await _on_disk(self._folder.knows, record.id):
            return
        try:
            pid = await asyncio.to_thread(self._children.start, record, self._command(), env)
        except OSError as error:
            raise LaunchRefused(f"{record.id} can't be started: {error.strerror}", permanent=False) from error
        deadline = self._clock.monotonic() + _BIRTH_TIMEOUT_S
        while not await _on_disk(self._folder.knows, record.id):
            self._children.reap()
            if not self._children.running(pid) and not await _on_disk(self._folder.knows, record.id):
                log = self._folder.log_path(record.id)
                raise LaunchRefused(f"{record.id} ended before it was entered, see {log}", permanent=False)
            if self._clock.monotonic() > deadline:
                raise LauncherUnavailable(f"{record.id} wasn't started within {_BIRTH_TIMEOUT_S:g} s")
            await self._clock.sleep(_BIRTH_POLL_S)
        _log.info("process_launched", instance=record.id, pool=record.pool, launch_id=record.launch_id, pid=pid)

    async def _fill(self, pool: str, count: int) -> None:
        """Start what a group lacks, unless its runners end as soon as they are started."""
        ended = await _on_disk(self._folder.ended_records)
        loop, now = crash_loop(ended, pool), self._clock.now()
        if loop is not None and now < loop.next_try_at:
            self._held_back[pool] = loop.text(now)
            return
        self._held_back.pop(pool, None)
        living = [each for each in await _on_disk(self._living) if _in_group(each, pool)]
        taken = {each.ordinal for each in living}
        missing = count - sum(each.stopping_at is None for each in living)
        free = (ordinal for ordinal in range(len(taken) + max(missing, 0)) if ordinal not in taken)
        for _, ordinal in zip(range(missing), free, strict=False):
            # The same for whoever looks at the same folder: of two schedulers that fill a place, one does.
            earlier = (each.generation for each in ended if _in_group(each, pool) and each.ordinal == ordinal)
            generation = 1 + max(earlier, default=0)
            id_ = f"{pool}-{ordinal}-{generation}"
            record = Record(id=id_, pool=pool, ordinal=ordinal, generation=generation, since=now)
            await self._launch(record, runner_env(self._env, instance_id=id_, pool=pool, ordinal=ordinal))

    # ------------------------------------------------------------------------ ending; all of it blocks

    def _living(self) -> list[Record]:
        return [record for record in self._folder.records() if record.lives()]

    def _cancel(self, id_: str, launch_id: str) -> None:
        found = [record for record in self._folder.records() if record.launch_id == launch_id]
        now = self._clock.now()
        if not found and usable_name(id_) and not self._folder.knows(id_):
            # It may be on its way: with this it ends at its birth.
            self._folder.end(Record(id=id_, pool="", launch_id=launch_id, since=now, stopping_at=now, ended_at=now))
        for record in found:
            process_children.ask_to_end(record, self._folder, now, self._kill_after_s)

    def _retire(self, instance: Instance) -> None:
        record = next((each for each in self._living() if each.id == instance.id), None)
        if record is None or record.stopping_at is not None:
            return
        if record.launch_id is not None:
            raise LaunchRefused(f"{record.id} is of no group: a cold start ends by itself")
        # In this order: what is killed in between starts one too many, and never ends one that is in use.
        process_children.ask_to_end(record, self._folder, self._clock.now(), self._kill_after_s)
        count = self._folder.count(record.pool) or 0
        self._folder.set_count(record.pool, max(count - 1, 0))

    def _shrink(self, pool: str, count: int) -> None:
        self._folder.set_count(pool, count)
        group = [each for each in self._living() if _in_group(each, pool) and each.stopping_at is None]
        for record in sorted(group, key=lambda each: each.ordinal or 0)[count:]:
            process_children.ask_to_end(record, self._folder, self._clock.now(), self._drain_s)

    def _tend(self) -> dict[str, int]:
        """Move who has ended, kill who is over time, and return how large each group is to be."""
        now = self._clock.now()
        gone = [record for record in self._folder.records() if not record.lives()]
        self._children.reap()
        for record in gone:
            self._see_end(record, now)
        for record in self._folder.records():
            if record.kill_at is not None and now >= record.kill_at:
                _log.warning("process_killed", instance=record.id, pool=record.pool, pid=record.pid)
                process_children.kill(record)
        if gone:
            self._folder.prune(now)
        return self._folder.counts()

    def _see_end(self, record: Record, now: datetime) -> None:
        code = self._children.exit_code(record.pid)
        self._folder.end(msgspec.structs.replace(record, ended_at=now, exit_code=code))
        _log.info(
            "process_ended", instance=record.id, pool=record.pool, exit_code=code, asked=record.stopping_at is not None
        )


async def stop_all(folder: Path, *, clock: Clock, timeout_s: float) -> int:
    """End everything that was launched from a folder: in order first, by force after `timeout_s`.

    Who fills groups (a scheduler with this folder) must have been stopped before.

    Returns:
        How many processes had to be ended by force.
    """
    state = StateFolder(folder)
    state.forget_groups()
    for record in state.records():
        process_children.ask_to_end(record, state, clock.now(), timeout_s)
    deadline = clock.monotonic() + timeout_s
    while any(record.lives() for record in state.records()) and clock.monotonic() < deadline:
        await clock.sleep(_BIRTH_POLL_S)
    left = [record for record in state.records() if record.lives()]
    for record in left:
        process_children.kill(record)
    for record in state.records():
        state.end(msgspec.structs.replace(record, ended_at=clock.now()))
    return len(left)


async def _on_disk[**P, T](work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do what waits for the disk where nobody waits for it."""
    try:
        return await asyncio.to_thread(work, *args, **kwargs)
    except OSError as error:
        raise LauncherUnavailable(f"the launcher's folder can't be used: {error.strerror}") from error


def _instance(record: Record) -> Instance:
    return Instance(
        id=record.id,
        pool=record.pool,
        state="running" if record.stopping_at is None else "stopping",
        launch_id=record.launch_id,
        ordinal=record.ordinal,
        since=record.since,
    )


def _in_group(record: Record, pool: str) -> bool:
    return record.pool == pool and record.launch_id is None


def _cold_id(launch_id: str) -> str:
    return f"cold-{launch_id}"


def _checked(name: str) -> None:
    if not usable_name(name):
        raise LaunchRefused(f"{name!r} can't be the name of a file: letters, digits, _ and - only")
