"""The whole catalogue of errors: those of the common library and those that services and commands define beside it.

`python -m greenroom.devtools.all_errors > docs/errors.md` writes the page of them.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from greenroom.common import docgen_errors
from greenroom.common.catalogue import Entry
from greenroom.common.catalogue import catalogue as common_catalogue

_PACKAGES: Final = ("api", "devtools", "recorder", "runner", "scheduler")
# What a module that defines an error of its own has in its text.
_MARKS: Final = ("(GreenroomError):", "(LaunchRefused):")


def catalogue() -> dict[str, Entry]:
    """Return every error and reason of the system by code, sorted.

    Only modules that define errors are imported: all of them would take seconds, Pipecat included.
    """
    for name in _defining_modules():
        importlib.import_module(name)
    return {code: entry for code, entry in common_catalogue().items() if entry.origin.startswith("greenroom.")}


def main() -> None:
    """Print the page."""
    sys.stdout.write(docgen_errors.render(catalogue().values()))


def _defining_modules() -> Iterator[str]:
    for package in _PACKAGES:
        spec = importlib.util.find_spec(f"greenroom.{package}")
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            for path in sorted(Path(folder).rglob("*.py")):
                if any(mark in path.read_text() for mark in _MARKS):
                    yield ".".join(["greenroom", package, *path.relative_to(folder).with_suffix("").parts])


if __name__ == "__main__":
    main()
