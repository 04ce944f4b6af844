"""The shape of the workspace."""

import subprocess
from pathlib import Path

import pytest

from tests.support.workspace import ROOT, members, pyproject

# Above 400 lines one looks for the seam; above this there has to be one.
MAX_LINES = 600
TARGETS = {"demo", "up", "call", "test", "lint", "bench", "clean", "help"}


def modules() -> list[Path]:
    """Return every Python module of the workspace."""
    return [path for folder in ("libs", "services", "tests", "tools") for path in sorted((ROOT / folder).rglob("*.py"))]


def test_no_module_is_too_long() -> None:
    """A module can be read in one go."""
    long = {
        str(path.relative_to(ROOT)): n for path in modules() if (n := len(path.read_text().splitlines())) > MAX_LINES
    }
    assert long == {}


@pytest.mark.parametrize("member", members())
def test_a_member_is_a_part_of_one_namespace(member: str) -> None:
    """A member has one typed package in the namespace `greenroom`, and leaves the namespace itself to nobody."""
    package = member.removeprefix("greenroom-")
    namespace = members()[member] / "src" / "greenroom"
    assert [path.name for path in namespace.iterdir() if path.name != "__pycache__"] == [package]
    assert (namespace / package / "__init__.py").exists()
    assert (namespace / package / "py.typed").exists()


@pytest.mark.parametrize("member", members())
def test_members_agree_on_python_and_licence(member: str) -> None:
    """Python, licence and version are the same everywhere."""
    root, project = pyproject(ROOT)["project"], pyproject(members()[member])["project"]
    for key in ("requires-python", "license", "version"):
        assert project[key] == root[key], key


def test_make_says_what_it_can_do() -> None:
    """`make` alone lists its targets, one line each."""
    run = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True, check=True, timeout=20)
    lines = [line.split(maxsplit=2) for line in run.stdout.splitlines() if line.startswith("  make ")]
    assert {target for _, target, *_ in lines} >= TARGETS
    assert all(len(line) == 3 for line in lines)
