"""The zygote, and what keeps one alive."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from greenroom.common.clock import Clock, SystemClock
from greenroom.runner.discovery import BotSpec
from greenroom.runner.forkwire import Forked
from greenroom.runner.settings import RunnerSettings
from greenroom.runner.supervisor import NoProcess, Supervisor
from tests.support.runner_rig import STANDIN, environment, gone, until

PLAIN = BotSpec(name="plain", target="tests.support.standin_bots:plain")
# A zygote without a rehearsal is warm in half a second on a quiet machine.
PATIENCE_S = 90.0


def bad(name: str) -> BotSpec:
    """A bot of `tests.support.bad_bots`."""
    return BotSpec(name=name, target=f"tests.support.bad_bots.{name}:bot")


class Hurrying(SystemClock):
    """A clock whose pauses are ten times shorter than asked for; it keeps what was asked for before each zygote."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    async def sleep(self, delay_s: float) -> None:
        """Wait for a tenth of the time."""
        task = asyncio.current_task()
        if task is not None and task.get_name() != "strays":
            self.pauses.append(delay_s)
        await super().sleep(delay_s / 10)


@asynccontextmanager
async def supervisor(
    *bots: BotSpec, run: str = STANDIN, rehearse: bool = False, clock: Clock | None = None, **settings: Any
) -> AsyncGenerator[Supervisor]:
    """A supervisor for the time of the block."""
    clock = clock or SystemClock()
    made = Supervisor(
        RunnerSettings(**settings), bots, clock=clock, environment=environment(), run=run, rehearse=rehearse
    )
    running = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        left = made.processes
        for process in left:
            process.hang_up()
        for process in left:
            await process.wait()
        running.cancel()
        await asyncio.wait({running})


async def test_bots_that_break_the_zygote_are_left_out_of_the_next() -> None:
    """A bot that crashes, hangs or spoils the zygote is offered as broken, and the others run."""
    bots = (bad("crash"), bad("hang"), PLAIN, bad("threads"), bad("warm_raises"))
    async with supervisor(*bots, warmup_timeout_s=6.0) as it:
        await until(lambda: it.available, PATIENCE_S)
        offers = {offer.name: offer.error for offer in it.offers}
        assert offers == {
            "crash": "the process ended while it was being loaded (SIGSEGV)",
            "hang": "it wasn't loaded in 6 s",
            "plain": None,
            "threads": "threads were left running: left-behind",
            "warm_raises": "warm() failed: FileNotFoundError: no model.onnx",
        }
        assert it.restarts == 3


async def test_a_fork_is_a_process_of_its_own() -> None:
    """A session process leads its own group, holds no file of the zygote's, and goes first when memory is short."""
    async with supervisor(PLAIN) as it:
        processes = [await it.fork(timeout_s=PATIENCE_S) for _ in range(3)]
        for process in processes:
            await process.standby.wait()
            assert os.getpgid(process.pid) == os.getsid(process.pid) == process.pid
            names = sorted(str(entry.readlink()) for entry in Path(f"/proc/{process.pid}/fd").iterdir())
            assert [name.split(":")[0] for name in names if not name.startswith(("/", "pipe:"))] == ["socket", "socket"]
            assert Path(f"/proc/{process.pid}/oom_score_adj").read_text().strip() == "300"
        assert it.zygote_pid is not None
        assert len(list(Path(f"/proc/{it.zygote_pid}/task").iterdir())) == 1


async def test_exit_status_and_memory_are_reported() -> None:
    """How a process ended, and what it used, comes from the zygote that reaped it."""
    async with supervisor(PLAIN) as it:
        process = await it.fork(timeout_s=PATIENCE_S)
        await process.standby.wait()
        process.kill(signal.SIGTERM)
        exited = await process.wait()
        assert exited.signal_name == "SIGTERM"
        assert exited.max_rss_bytes > 10_000_000
        assert exited.cpu_s >= 0
        assert not process.alive
        assert it.processes == frozenset()


async def test_a_process_whose_runner_hangs_up_leaves() -> None:
    """A standby process that finds its control socket closed is gone within a second, whatever it does."""
    async with supervisor(PLAIN) as it:
        process = await it.fork(timeout_s=PATIENCE_S)
        await process.standby.wait()
        os.kill(process.pid, signal.SIGSTOP)
        process.hang_up()
        os.kill(process.pid, signal.SIGCONT)
        async with asyncio.timeout(1.0):
            await process.wait()


async def test_a_dead_zygote_is_replaced_and_its_processes_are_adopted() -> None:
    """After the zygote's death its processes live, their exits are seen as before, and there is a new zygote."""
    async with supervisor(PLAIN) as it:
        first, second = await it.fork(timeout_s=PATIENCE_S), await it.fork()
        zygote = it.zygote_pid
        assert zygote is not None
        os.kill(zygote, signal.SIGKILL)
        await until(lambda: not it.available)
        assert first.alive
        first.kill(signal.SIGUSR1)
        assert (await first.wait()).signal_name == "SIGUSR1"
        third = await it.fork(timeout_s=PATIENCE_S)
        assert it.zygote_pid != zygote
        assert it.restarts == 1
        assert {second.pid, third.pid} == {process.pid for process in it.processes}


async def test_a_fork_without_a_zygote_has_a_deadline() -> None:
    """When no zygote can be had, the one who asks for a process is told so in time."""
    async with supervisor(PLAIN, run="no.such.module:run") as it:
        with pytest.raises(NoProcess, match=r"in 0\.5 s"):
            await it.fork(timeout_s=0.5)


async def test_who_gives_up_as_a_process_comes_leaves_nothing_open() -> None:
    """The process was forked between the giving up and the word of it: it finds its socket closed, and leaves."""
    async with supervisor(PLAIN) as it:
        (await it.fork()).hang_up()
        zygote = it._zygote
        assert zygote is not None
        asked = asyncio.create_task(zygote.fork())
        await asyncio.sleep(0)
        [(request, pending)] = zygote._forks.items()
        asked.cancel()
        zygote._adopt(Forked(request=request, pid=os.getpid()), os.pidfd_open(os.getpid()))
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert pending.channel.fileno() == -1
        assert zygote._forks == {}


async def test_a_zygote_that_always_fails_is_tried_less_and_less_often() -> None:
    """A zygote that can't even load what it shall run isn't started over and over without a pause."""
    clock = Hurrying()
    async with supervisor(PLAIN, run="no.such.module:run", clock=clock) as it:
        await until(lambda: it.restarts >= 4, PATIENCE_S)
        pauses = clock.pauses[:4]
    assert pauses[0] == 0
    assert pauses[1] >= 0.5
    assert all(longer >= 2 * pause for pause, longer in pairwise(pauses))


async def test_the_zygote_goes_with_the_runner() -> None:
    """The zygote ends at once when its socket is closed."""
    async with supervisor(PLAIN) as it:
        await it.fork(timeout_s=PATIENCE_S)
        assert it.zygote_pid is not None
        zygote = psutil.Process(it.zygote_pid)
    assert gone(zygote)


async def test_what_is_warm_is_shared() -> None:
    """A process in waiting has little memory of its own, since it shares what the zygote has imported and rehearsed."""
    async with supervisor(PLAIN, rehearse=True) as it:
        process = await it.fork(timeout_s=PATIENCE_S)
        await process.standby.wait()
        own = psutil.Process(process.pid).memory_full_info()
        assert own.uss < 8_000_000
        assert own.rss > 80_000_000
