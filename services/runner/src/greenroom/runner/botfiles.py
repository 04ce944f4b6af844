"""Bots in plain files: `python bot.py` runs them under Pipecat's development runner, here they are named by their path.

While its file is imported, modules beside it are found first, as Python does for a script; afterwards they are found
last, and by this bot alone (`bot_modules`). `__name__` isn't `__main__`, so the `main()` at a script's end doesn't run.
"""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Final

from greenroom.runner import bot_modules
from greenroom.runner.bot_modules import Home

SUFFIX: Final = ".py"
_DEFAULT_FUNCTION: Final = "bot"
# Files that are called like this are named by their folder: most quickstarts are a bot.py.
_NAMELESS: Final = frozenset({"bot", "main", "__init__"})
_NAME: Final = re.compile(r"([A-Za-z0-9_-]{1,128})(?:@([1-9][0-9]{0,8}))?")
_FUNCTION: Final = re.compile(r"[A-Za-z_]\w*")
_MODULE: Final = re.compile(r"\w+(?:\.\w+)*")
EXPECTED: Final = "name[@version]=module:function, or [name[@version]=]path/to/file.py[:function]"


def parse(item: str) -> tuple[str, int | None, str]:
    """Return name, version and target (`module:function` or `/path/to/file.py:function`) of a bot in a setting.

    The version is None where none is said.

    Raises:
        ValueError: it isn't written as it should be.
    """
    name, place = item.split("=", 1) if "=" in item else ("", item)
    place, _, function = place.partition(":")
    if place.endswith(SUFFIX):
        path = Path(place).absolute()
        function = function or _DEFAULT_FUNCTION
        target = str(path)
        if "=" not in item:
            name = path.parent.name if path.stem in _NAMELESS else path.stem
    else:
        target = place if _MODULE.fullmatch(place) else ""
    if not (target and _NAME.fullmatch(name) and _FUNCTION.fullmatch(function)):
        raise ValueError(f"{item!r} (expected: {EXPECTED})")
    return *named(name), f"{target}:{function}"


def named(name: str) -> tuple[str, int | None]:
    """Return name and version of a bot that is written as `name@version`; the version is None where none is said."""
    found = _NAME.fullmatch(name)
    if found is None or found[2] is None:
        return name, None
    return found[1], int(found[2])


def load(path: Path, name: str) -> tuple[ModuleType, Home]:
    """Import the file of a bot, anew each time; return its module, and where what is beside it is found.

    Raises:
        FileNotFoundError: there is no such file.
        Exception: whatever the file raises.
    """
    path = path.resolve(strict=True)
    module_name = f"greenroom_bot_{name}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} isn't a Python file")
    module = importlib.util.module_from_spec(spec)
    home = Home(path.parent)
    sys.modules[module_name] = module
    home.enter(first=True)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    finally:
        bot_modules.leave()
    return module, home
