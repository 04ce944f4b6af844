"""`tools/test.sh`: what fails in either of its parts is named at the end, and none is left out."""

import os
import subprocess
from pathlib import Path
from typing import Final

from tests.support.workspace import ROOT

_BESIDE: Final = (
    "import os\n\ndef test_{name}() -> None:\n    assert int(os.environ['PYTEST_XDIST_WORKER_COUNT']) == 2\n"
)
_ALONE: Final = (
    "import os\nimport pytest\n\n@pytest.mark.alone\n"
    "def test_{name}() -> None:\n    assert int(os.environ['PYTEST_XDIST_WORKER_COUNT']) == 3\n"
)
_FAILS: Final = "    assert not 'as it should'\n"
# Half of what a worker's start takes, and none of it is used here.
_WITHOUT: Final = ("faker", "anyio", "hypothesispytest")
# As if all were well, which a library may do that a test is about.
_DIES: Final = "    os._exit(0)\n"


_FAILS_BESIDE: Final = "import os\n\ndef test_{name}() -> None:\n    assert 'PYTEST_XDIST_WORKER' not in os.environ\n"


def run(folder: Path, *arguments: str, **files: str) -> tuple[int, list[str], list[str]]:
    """Run the tests of these files; returns the exit code, what was printed, and of that what comes after all tests."""
    for name, text in files.items():
        (folder / f"test_{name}.py").write_text(text.format(name=name))
    config = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder)]
    config += [argument for plugin in _WITHOUT for argument in ("-p", f"no:{plugin}")]
    # It ends the workers too, should they hang.
    command = ["timeout", "100", str(ROOT / "tools/test.sh"), *config, *arguments, str(folder)]
    # These may be told by a worker.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    environment["PYTEST_XDIST_AUTO_NUM_WORKERS"] = "2"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    return done.returncode, lines, lines[lines.index("==> failed") :] if "==> failed" in lines else []


def named(lines: list[str]) -> list[str]:
    """Return the tests that these lines say have failed, without what all their names begin with."""
    return [line.split(" ")[1].rpartition("::test_")[2] for line in lines if line.startswith("FAILED")]


def test_all_run_where_they_belong(tmp_path: Path) -> None:
    """Those that are marked so away from the others; a part without any test fails nothing."""
    code, lines, failed = run(tmp_path, beside=_BESIDE, alone=_ALONE)
    assert (code, failed) == (0, [])
    assert len([line for line in lines if " 1 passed" in line]) == 2
    code, lines, failed = run(tmp_path, "-k", "beside")
    assert (code, failed) == (0, [])
    assert len([line for line in lines if " 1 passed" in line]) == 1


def test_what_fails_or_dies_in_either_part_is_named_at_the_end(tmp_path: Path) -> None:
    """A failure of the first part doesn't keep the second one from running, nor does its end scroll it away."""
    files = {"beside": _BESIDE + _FAILS, "beside_dies": _BESIDE + _DIES}
    files |= {"alone": _ALONE + _FAILS, "alone_dies": _ALONE + _DIES, "alone_is_well": _ALONE}
    code, _, failed = run(tmp_path, **files)
    assert code == 1
    assert sorted(named(failed)[:2]) == ["beside", "beside_dies"]
    assert sorted(named(failed)[2:]) == ["alone", "alone_dies"]
    assert " 2 failed, 1 passed" in failed[-1]


def test_a_few_that_fail_beside_others_are_run_once_more(tmp_path: Path) -> None:
    """They are named, whatever becomes of them; one that fails by itself too is a failure."""
    code, lines, failed = run(tmp_path, beside=_FAILS_BESIDE, alone=_ALONE, well=_BESIDE)
    assert (code, failed) == (0, [])
    told = lines[lines.index("==> failed beside others, passed by themselves") + 1 :]
    assert named(told) == ["beside"]
    code, lines, failed = run(tmp_path, alone=_ALONE + _FAILS)
    assert code == 1
    assert "==> tests by themselves" in lines
    assert named(failed) == ["beside", "alone"]


def test_many_that_fail_are_not_run_once_more(tmp_path: Path) -> None:
    """Nor those of a file that can't be imported, whose tests nobody knows."""
    many = {f"many_{number}": _FAILS_BESIDE for number in range(4)}
    code, lines, failed = run(tmp_path, **many)
    assert (code, "==> tests by themselves" in lines, bool(failed)) == (1, False, True)
    for name in many:
        (tmp_path / f"test_{name}.py").unlink()
    code, lines, failed = run(tmp_path, absent="import nowhere_to_be_found\n", well=_BESIDE)
    assert (code, "==> tests by themselves" in lines, bool(failed)) == (1, False, True)


def test_a_run_that_breaks_is_not_made_up_for(tmp_path: Path) -> None:
    """What pytest itself chokes on is a failure, whatever becomes of the test that failed beside it."""
    (tmp_path / "conftest.py").write_text("def pytest_sessionfinish():\n    raise RuntimeError('broken')\n")
    code, lines, failed = run(tmp_path, beside=_FAILS_BESIDE)
    assert (code, "==> tests by themselves" in lines, bool(failed)) == (1, False, True)


def test_a_selection_of_nothing_is_an_error(tmp_path: Path) -> None:
    """A misspelt name isn't a success."""
    code, _, failed = run(tmp_path, "-k", "mistaken", beside=_BESIDE, alone=_ALONE)
    assert (code, failed) == (5, [])
