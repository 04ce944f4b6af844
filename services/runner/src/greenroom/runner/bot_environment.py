"""Variables that a bot sets while it is imported, e.g. from the `.env` beside it, are seen by that bot alone.

All bots of a runner are imported in one process. Without this, whoever loads its `.env` last would say which keys the
others use.
"""

import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Generator
from typing import Any, Final

# The session's way into Pipecat goes through this one; what a bot adds to it stays.
_SHARED: Final = frozenset({"PIPECAT_SETUP_FILES"})

# What became of a variable: its value, or None where it was removed.
type Changes = dict[str, str | None]


@contextlib.contextmanager
def captured() -> Generator[Changes]:
    """Undo at the end what the block does to the environment; what that was is in the yielded dictionary then."""
    before = dict(os.environ)
    changes: Changes = {}
    try:
        yield changes
    finally:
        after = dict(os.environ)
        names = {name for name in before | after if before.get(name) != after.get(name)} - _SHARED
        changes |= {name: after.get(name) for name in names}
        apply({name: before.get(name) for name in names})


def apply(changes: Changes) -> None:
    """Make the changes to the environment of this process."""
    for name, value in changes.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def for_good[F: Callable[..., Any]](function: F, changes: Changes) -> F:
    """Return an async function that makes the changes and calls `function`: the process is the bot's own by then."""
    if not changes:
        return function

    @functools.wraps(function)
    async def changed(*args: Any) -> Any:
        apply(changes)
        return await function(*args)

    return changed  # pyright: ignore[reportReturnType] the same arguments, the same result


def for_a_while[F: Callable[..., Any]](function: F, changes: Changes) -> F:
    """Return a function like `function`, plain or async, during which the changes hold."""
    if not changes:
        return function

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awaited(*args: Any) -> Any:
            with captured():
                apply(changes)
                return await function(*args)

        return awaited  # pyright: ignore[reportReturnType] the same arguments, the same result

    @functools.wraps(function)
    def called(*args: Any) -> Any:
        with captured():
            apply(changes)
            return function(*args)

    return called  # pyright: ignore[reportReturnType] the same arguments, the same result
