"""Short sessions in a row on one runner, and what there is of everything before and after.

Each session is a call: a caller connects, sends some frames, and hangs up; the session ends by that, and the next is
asked for, on each of two slots. Kept on purpose are the ledger and the events of each session, in the stream SESSIONS,
and its audio until the recorder takes it, in AUDIO; nothing else may grow.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import msgspec
import psutil

from greenroom.common.lifecycle import Outcome, State
from greenroom.common.topology import STREAMS
from greenroom.devtools.embedded.nats import EmbeddedNats
from greenroom.runner.turn_detector import NAME as TURN_DETECTOR
from tests.support.neighbours import FRAME_S, Neighbour
from tests.support.runner_process import PATIENCE_S, RunnerProcess, runner_process
from tests.support.runner_rig import until

KEPT: Final = frozenset({"SESSIONS", "AUDIO"})
_STANDBY: Final = 2
_ROWS: Final = 2
_CALL_S: Final = 5 * FRAME_S
_LOOK_S: Final = 0.05
# Of a connection: for requests, and for acknowledgements.
_INBOXES: Final = 2


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What there is of everything. By process: `runner`, `zygote`, `nats`; of the broker: its counts, by name."""

    files: dict[str, int]
    threads: dict[str, int]
    memory_mb: dict[str, float]
    processes: int
    messages: dict[str, int]
    consumers: dict[str, int]
    broker: dict[str, int]


class Soak:
    """A runner, to which the same happens again and again."""

    def __init__(self, runner: RunnerProcess, server: EmbeddedNats) -> None:
        self._runner = runner
        self._server = server

    async def sessions(self, count: int) -> None:
        """Hold so many calls, one after another on each of two slots."""
        await asyncio.gather(*(self._row(count // _ROWS) for _ in range(_ROWS)))

    async def _row(self, count: int) -> None:
        for _ in range(count):
            session_id = await self._runner.start("echo")
            caller = Neighbour(self._runner.broker, session_id)
            await caller.connect()
            talking = asyncio.create_task(caller.talk())
            await asyncio.sleep(_CALL_S)
            talking.cancel()
            await caller.hang_up()
            ended = await self._runner.reaches(session_id, State.ENDED)
            assert (ended.outcome, ended.reason) == (Outcome.COMPLETED, "client-left")

    async def usage(self) -> Usage:
        """Return what there is, once nothing goes on."""
        await until(lambda: self._idle)
        broker = await self._at_broker()
        runner = psutil.Process(self._runner.process.pid)
        [zygote] = runner.children()
        processes = {"runner": runner, "zygote": zygote, "nats": psutil.Process(self._server.pid)}
        streams = {stream.name: await self._runner.broker._js.stream_info(stream.name) for stream in STREAMS}
        return Usage(
            files={name: process.num_fds() for name, process in processes.items()},
            threads={name: process.num_threads() for name, process in processes.items()},
            # Resident: which of the zygote's pages nobody shares changes with its children.
            memory_mb={name: process.memory_info().rss / 2**20 for name, process in processes.items()},
            processes=len(self._runner.family()),
            messages={name: info.state.messages for name, info in streams.items()},
            consumers={name: info.state.consumer_count for name, info in streams.items()},
            broker=broker,
        )

    async def _at_broker(self) -> dict[str, int]:
        """Return how many connections the broker has, and subscriptions of those that outlive sessions.

        What a process subscribes to that waits for a session goes with it, and comes when it is ready for that.
        """
        async with httpx.AsyncClient(base_url=self._server.monitor_url) as http, asyncio.timeout(PATIENCE_S):
            while True:
                answer = (await http.get("/connz", params={"subs": 1, "limit": 10_000})).raise_for_status().json()
                staying = [each for each in answer["connections"] if not each["name"].startswith("session ")]
                if answer["total"] - len(staying) >= _STANDBY:
                    return {
                        "connections": answer["total"],
                        "subscriptions": sum(_counted(each["subscriptions_list"]) for each in staying),
                    }
                await asyncio.sleep(_LOOK_S)

    @property
    def _idle(self) -> bool:
        now = self._runner.heartbeats[-1]
        processes = [each for each in self._runner.family() if each.name() != TURN_DETECTOR]
        return not now.sessions and now.standby == _STANDBY and len(processes) == 1 + _STANDBY


def _counted(subscribed: list[str]) -> int:
    """Return how many subscriptions of a connection count: inboxes for answers come when they are first needed."""
    inboxes = sum(subject.startswith("_INBOX.") for subject in subscribed)
    return len(subscribed) - inboxes + max(inboxes - _INBOXES, 0)


@asynccontextmanager
async def soaking(folder: Path) -> AsyncGenerator[Soak]:
    """Run a runner with its own broker for the time of the block."""
    async with (
        EmbeddedNats(folder) as server,
        runner_process(server.url, GREENROOM_LOG_LEVEL="warning", GREENROOM_BRAKE="false") as runner,
    ):
        yield Soak(runner, server)


def growth(before: Usage, after: Usage) -> dict[str, float]:
    """Return by how much each count grew, by name (`files.runner`), of those that aren't kept on purpose."""
    grown: dict[str, float] = {"processes": after.processes - before.processes}
    for kind in ("files", "threads", "memory_mb", "messages", "consumers", "broker"):
        was, now = getattr(before, kind), getattr(after, kind)
        names = set(now) - KEPT if kind == "messages" else set(now)
        grown |= {f"{kind}.{name}": now[name] - was[name] for name in sorted(names)}
    return grown
