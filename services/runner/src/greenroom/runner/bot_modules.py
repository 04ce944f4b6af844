"""Modules that lie beside a bot's file are found by that bot alone, whatever others have beside theirs.

All bots of a runner are imported in one process, and two of them may have a `prompts.py` of their own each: two bots,
or two versions of one, in two checkouts. So what a bot has imported from its folder is taken out of `sys.modules` as
soon as something else is imported, and put back when the bot runs. Modules that are installed stay: they are shared.

One bot at a time is `at home` in a process; in a session's process that is the session's.
"""

import functools
import inspect
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from types import ModuleType
from typing import Any, Final


class Home:
    """A bot's folder, and the modules that were imported from it."""

    def __init__(self, folder: Path) -> None:
        """Take `folder`, absolute; nobody is at home yet."""
        self._folder = folder
        self._entry = str(folder)
        self._modules: dict[str, ModuleType] = {}
        self._before: Collection[str] = ()
        # A folder that everybody imports from (the one that the runner was started in) stays where it is.
        self._added = False

    def enter(self, *, first: bool = False) -> None:
        """Have what is in the folder be found: `first`, as Python does for a script, or after all else."""
        if _here and _here[0] is self:
            return
        leave()
        _here.append(self)
        self._before = frozenset(sys.modules)
        sys.modules.update(self._modules)
        self._added = first or self._entry not in sys.path
        if self._added:
            sys.path.insert(0 if first else len(sys.path), self._entry)

    def exit(self) -> None:
        """Have nothing of it be found any more."""
        _here.clear()
        if self._added and self._entry in sys.path:
            sys.path.remove(self._entry)
        own = {name: module for name, module in sys.modules.items() if name in self._modules or self._has(name)}
        for name in own:
            del sys.modules[name]
        self._modules = own

    def _has(self, name: str) -> bool:
        """Whether a module was imported since, and from the folder; parts of packages go with their package."""
        top = sys.modules.get(name.partition(".")[0])
        if name in self._before or top is None:
            return False
        if file := getattr(top, "__file__", None):
            path = Path(file)
            place = path.parent.parent if hasattr(top, "__path__") else path.parent
            return place == self._folder
        return any(Path(each).parent == self._folder for each in getattr(top, "__path__", ()))


# Who is at home; nobody, or one.
_here: Final[list[Home]] = []


def leave() -> None:
    """Have nobody be at home: what is imported next is nobody's own."""
    if _here:
        _here[0].exit()


def for_good[F: Callable[..., Any]](function: F, home: Home) -> F:
    """Return an async function that enters and calls `function`: the process is the bot's own by then."""

    @functools.wraps(function)
    async def entered(*args: Any) -> Any:
        home.enter()
        return await function(*args)

    return entered  # pyright: ignore[reportReturnType] the same arguments, the same result


def for_a_while[F: Callable[..., Any]](function: F, home: Home) -> F:
    """Return a function like `function`, plain or async, at whose end nobody is at home."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awaited(*args: Any) -> Any:
            home.enter()
            try:
                return await function(*args)
            finally:
                leave()

        return awaited  # pyright: ignore[reportReturnType] the same arguments, the same result

    @functools.wraps(function)
    def called(*args: Any) -> Any:
        home.enter()
        try:
            return function(*args)
        finally:
            leave()

    return called  # pyright: ignore[reportReturnType] the same arguments, the same result
