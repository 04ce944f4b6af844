"""Bots in plain files: `python bot.py` runs them under Pipecat's development runner, here they are named by their path.

While its file is imported, modules beside it are found first, as Python does for a script. Afterwards they are found
last: what a bot has beside it never takes the place of what others import. `__name__` isn't `__main__`, so the
`main()` at a script's end doesn't run.
"""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Final

SUFFIX: Final = ".py"
_DEFAULT_FUNCTION: Final = "bot"
# Files that are called like this are named by their folder: most quickstarts are a bot.py.
_NAMELESS: Final = frozenset({"bot", "main", "__init__"})
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_FUNCTION: Final = re.compile(r"[A-Za-z_]\w*")
_MODULE: Final = re.compile(r"\w+(?:\.\w+)*")
EXPECTED: Final = "name=module:function, or [name=]path/to/file.py[:function]"

# Folders of the bots that were imported from files.
_folders: Final[list[Path]] = []


class HiddenModule(Exception):
    """Two bots in different folders have a module of the same name beside them: rename one, or make packages."""


def parse(item: str) -> tuple[str, str]:
    """Return name and target (`module:function` or `/path/to/file.py:function`) of a bot named in a setting.

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
    return name, f"{target}:{function}"


def load(path: Path, name: str) -> ModuleType:
    """Import the file of a bot, anew each time.

    Raises:
        FileNotFoundError: there is no such file.
        HiddenModule: what it has beside it can't be told from what another bot has beside it.
        Exception: whatever the file raises.
    """
    path = path.resolve(strict=True)
    _require_own_modules(path)
    module_name = f"greenroom_bot_{name}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} isn't a Python file")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.parent)
    sys.path.insert(0, folder)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)
        if path.parent not in _folders:
            _folders.append(path.parent)
    return module


def _require_own_modules(path: Path) -> None:
    others = [folder for folder in _folders if folder != path.parent]
    for beside in sorted(path.parent.glob(f"*{SUFFIX}")):
        known = getattr(sys.modules.get(beside.stem), "__file__", None)
        if known is not None and Path(known).parent in others:
            raise HiddenModule(
                f"{beside.name} beside {path.name} is hidden by {known} of another bot: rename it, or make a package"
            )
