"""How test files are dealt out to workers."""

from itertools import groupby, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.side_by_side import alternating, may_be_alone
from tests.support.workspace import ROOT

_FOLDERS = ("tests/chaos", "tests/integration", "tests/unit")
# How many tests each file has, by folder.
suites = st.fixed_dictionaries({folder: st.lists(st.integers(1, 4), max_size=12) for folder in _FOLDERS})


def items(suite: dict[str, list[int]]) -> list[pytest.Item]:
    """Return the tests of a suite as they are collected, with nothing but names."""
    return cast(
        "list[pytest.Item]",
        [
            SimpleNamespace(nodeid=f"{folder}/test_{file}.py::test_{test}")
            for folder, files in suite.items()
            for file, tests in enumerate(files)
            for test in range(tests)
        ],
    )


def files(tests: list[Any]) -> list[str]:
    """Return the files of these tests, in order, each as often as it is begun."""
    return [file for file, _ in groupby(test.nodeid.partition("::")[0] for test in tests)]


@given(suites)
def test_every_test_is_dealt_out_once_and_files_stay_whole(suite: dict[str, list[int]]) -> None:
    """The order within a file is its own: what a module shares is made once."""
    before = items(suite)
    after = alternating(before)
    assert sorted(test.nodeid for test in after) == sorted(test.nodeid for test in before)
    assert sorted(files(after)) == sorted(files(before))
    for file in files(before):
        of_file = [test.nodeid for test in before if test.nodeid.startswith(f"{file}::")]
        assert [test.nodeid for test in after if test.nodeid.startswith(f"{file}::")] == of_file


def test_a_file_that_marks_tests_alone_is_known_by_its_text(tmp_path: Path) -> None:
    """One test or all of them; a word of its prose is no marker."""
    marked, not_marked = tmp_path / "test_marked.py", tmp_path / "test_not_marked.py"
    marked.write_text("import pytest\n\n@pytest.mark.alone\ndef test_it() -> None: ...\n")
    not_marked.write_text('"""A key alone opens nothing."""\n')
    assert may_be_alone(marked)
    assert not may_be_alone(not_marked)
    assert may_be_alone(ROOT / "tests/e2e/test_demo_call.py")


def test_files_that_compute_come_between_files_that_wait() -> None:
    """Long before the end all that wait have begun; from the first to that moment, both kinds are under way."""
    order = files(alternating(items({"tests/integration": [1] * 20, "tests/unit": [1] * 40})))
    waiting = [place for place, file in enumerate(order) if "integration" in file]
    gaps = {later - earlier for earlier, later in pairwise(waiting)}
    assert gaps <= {2, 3}
    assert waiting[0] <= 1
    assert len(order) - 10 <= waiting[-1] < len(order) - 5
