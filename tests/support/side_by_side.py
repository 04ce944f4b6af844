"""How tests share a machine when they run side by side: `tools/test.sh` starts the workers.

A worker takes one file after the other, so that what a module shares is made once, and has a NATS server and a
PostgreSQL of its own. Ports and folders are taken free. What can't have so many neighbours is marked `alone`.
"""

import itertools
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

# The marker of what can't have so many neighbours.
ALONE: Final = "alone"
# Each has its own servers, and about 400 MB.
_MOST: Final = 10
_COMPUTING: Final = "tests/unit/"
# By then the last of the long files has begun; what is left are short ones, with which all workers end together.
_WAITS_BEGIN_BY: Final = 0.85


def worker_count() -> int:
    """Return how many workers a machine bears: five for two cores.

    A test is a broker, a database and services beside its worker, but waits for most of its time: three workers left
    40 % of two cores idle.
    """
    # macOS has no affinity.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(math.ceil(cores * 2.5), _MOST)


def alternating(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Return the tests so that files that compute come between files that wait, evenly; each file stays whole."""
    files = [list(tests) for _, tests in itertools.groupby(items, _file)]
    computing = [tests for tests in files if _file(tests[0]).startswith(_COMPUTING)]
    waiting = [tests for tests in files if not _file(tests[0]).startswith(_COMPUTING)]
    placed = [(place / len(computing), tests) for place, tests in enumerate(computing)]
    placed += [(place / len(waiting) * _WAITS_BEGIN_BY, tests) for place, tests in enumerate(waiting)]
    return [test for _, tests in sorted(placed, key=lambda each: each[0]) for test in tests]


def may_be_alone(file: Path) -> bool:
    """Tell whether tests of a file may be marked `alone`: the marker is in its text."""
    return f"mark.{ALONE}" in file.read_text()


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]
