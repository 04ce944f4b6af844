"""What a bot does when its session is over: save a state, close connections.

The bot's module has a list `ON_END`, of coroutine functions and how many seconds each has; nothing of Greenroom is
imported for it, and a bot may add to it while it runs, since each session is a process of its own:

    ON_END = [(save_summary, 3.0), (close_pool, 1.0)]

They run one after the other, when the bot has ended and its user is gone, within what the session's `end_timeout_s`
leaves. One that fails, or takes longer than it may, is an `error` event, and the next one runs. One that takes no
notice of being canceled is left behind; one that blocks the loop is ended with the process, by the runner.
"""

import asyncio
import inspect
import sys
from collections.abc import Callable
from typing import Any, Final, cast

import structlog

from greenroom.common.messages import EventType
from greenroom.runner.session.ending import where_raised

_log = structlog.get_logger()

ATTRIBUTE: Final = "ON_END"
# What one that is canceled has for clearing up.
_UNWIND_S: Final = 0.2

type Emit = Callable[[EventType, dict[str, Any]], object]


async def run_end_hooks(module: str | None, until: float, emit: Emit) -> None:
    """Run what a bot's module says.

    Args:
        module: its name; None: there was no bot.
        until: when they have to be done, by the loop's clock.
        emit: takes the events.
    """
    hooks: Any = getattr(sys.modules.get(module or ""), ATTRIBUTE, ())
    for hook in cast("list[Any]", [*hooks] if isinstance(hooks, list | tuple) else [hooks]):
        match hook:
            case (run, int() | float() as own_s) if inspect.iscoroutinefunction(run):
                if problem := await _run(run, min(own_s, until - asyncio.get_running_loop().time())):
                    _tell(f"{run.__qualname__}: {problem}", emit)
            case _:
                _tell(f"not (coroutine function, seconds): {hook!r:.100}", emit)


async def _run(run: Callable[[], Any], within_s: float) -> str | None:
    """Return what was wrong."""
    if within_s <= 0:
        return "not begun, as no time was left"
    task = asyncio.create_task(_tried(run), name="end hook")
    try:
        await asyncio.wait({task}, timeout=within_s)
        if not task.done():
            task.cancel()
            # Not awaited: it may take no notice.
            await asyncio.wait({task}, timeout=_UNWIND_S)
            return f"not done within {within_s:.1f} s"
    finally:
        task.cancel()
    return "it canceled itself" if task.cancelled() else task.result()


async def _tried(run: Callable[[], Any]) -> str | None:
    try:
        await run()
    except (Exception, SystemExit) as error:  # noqa: BLE001 a bot's code may do anything, and the session ends in order
        return where_raised(error)
    return None


def _tell(problem: str, emit: Emit) -> None:
    message = f"{ATTRIBUTE}: {problem}"
    _log.warning("end_hook_failed", problem=message)
    emit(EventType.ERROR, {"message": message, "category": "bot", "usable": False})
