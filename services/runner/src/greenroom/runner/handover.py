"""How a session gets its process: one that waits, or else a new one."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from greenroom.common.lifecycle import Session
from greenroom.runner.control import Assign, ToSession
from greenroom.runner.processes import SessionProcess
from greenroom.runner.standby import StandbyPool

# Makes a process that finds a message when it begins; raises `NoProcess`.
type Fork = Callable[[ToSession], Awaitable[SessionProcess]]


async def hand_over(
    session: Session, secrets: dict[str, str], pool: StandbyPool, fork: Fork, ends: asyncio.Event
) -> SessionProcess | None:
    """Assign a session and return the process that has it; None when the session ends (`ends`) before that.

    Raises:
        NoProcess: no process waits, and none can be forked.
    """
    assign = Assign(session=session, secrets=secrets)
    while not ends.is_set():
        process = pool.take_ready()
        if process is None:
            return await _fork_for(assign, fork, ends)
        if process.send(assign):
            return process
        process.kill()
    return None


async def _fork_for(assign: Assign, fork: Fork, ends: asyncio.Event) -> SessionProcess | None:
    forking = asyncio.ensure_future(fork(assign))
    try:
        await first_of(asyncio.wait({forking}), ends.wait())
        if not ends.is_set():
            return forking.result()
        if forking.done() and forking.exception() is None:
            forking.result().kill()
        return None
    finally:
        forking.cancel()


async def first_of(*waits: Coroutine[Any, Any, Any]) -> None:
    """Wait until one of them is done, and leave the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
