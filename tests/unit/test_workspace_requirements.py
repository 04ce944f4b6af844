"""The pinned requirements follow from the pyproject files; `make requirements` makes them anew."""

import importlib.metadata
import re
from functools import cache

import pytest
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from tests.support.requirements import any_environment, declared, pins, reachable, this_environment
from tests.support.workspace import ROOT, members, pyproject

SERVICES = ("api", "recorder", "runner", "scheduler")
ALL = (*SERVICES, "dev", "build")


@cache
def wanted_here(file: str) -> list[tuple[Requirement, NormalizedName]]:
    """Return every requirement behind a file that applies to the Python that runs this."""
    return list(reachable(declared(file), this_environment()))


@pytest.mark.parametrize("file", ALL)
def test_everything_is_pinned_by_hash(file: str) -> None:
    """A file consists of exact pins, each with the hashes of its archives, and of nothing else."""
    assert all(pin.hashes for pin in pins(file).values())


@pytest.mark.parametrize("file", ALL)
def test_no_index_and_no_address_is_named(file: str) -> None:
    """Whoever sits behind a mirror installs from that: no file names a host, a URL or a path."""
    text = (ROOT / "requirements" / f"{file}.txt").read_text()
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted|@ |(^|\s)(\.|/|-e )", text, re.MULTILINE)


@pytest.mark.parametrize("file", ALL)
def test_what_is_declared_is_pinned(file: str) -> None:
    """Each dependency, and each of theirs, is pinned at a version that its declarations allow."""
    pinned = pins(file)
    for requirement, owner in wanted_here(file):
        pin = pinned.get(canonicalize_name(requirement.name))
        assert pin, f"{owner} needs {requirement}, {file}.txt hasn't got it: run `make requirements`"
        assert requirement.specifier.contains(pin.version, prereleases=True), (
            f"{owner} needs {requirement}, {file}.txt pins {pin.version}: run `make requirements`"
        )


@pytest.mark.parametrize("file", ALL)
def test_what_is_pinned_is_declared(file: str) -> None:
    """No pin is left over from a dependency that isn't one any more, on any kind of machine."""
    reached = {canonicalize_name(r.name) for r, _ in reachable(declared(file), any_environment())}
    assert pins(file).keys() <= reached, "run `make requirements`"


@pytest.mark.parametrize("file", SERVICES)
def test_a_service_runs_on_what_was_tested(file: str) -> None:
    """Each service pins the very versions that the tests run with."""
    tested = pins("dev")
    assert {name: pin.version for name, pin in pins(file).items()} == {
        name: tested[name].version for name in pins(file)
    }


@pytest.mark.parametrize("file", [service for service in SERVICES if service != "runner"])
def test_only_the_runner_brings_pipecat(file: str) -> None:
    """The other services don't install Pipecat, nor what only speech needs; the recorder mixes tracks with numpy."""
    speech = {"pipecat-ai", "numpy", "onnxruntime", "openai", "daily-python", "pocketsphinx"}
    assert speech & pins(file).keys() == ({"numpy"} if file == "recorder" else set())


def test_the_copyleft_voice_is_an_extra() -> None:
    """The runner installs without espeak-ng (GPL-3); only the extra `frontdesk` brings it."""
    assert "espeakng-loader" not in pins("runner")
    assert "espeakng-loader" in pins("dev")


def test_what_is_installed_is_what_is_pinned() -> None:
    """The tests run with the pinned versions."""
    pinned = pins("dev")
    names = {canonicalize_name(requirement.name) for requirement, _ in wanted_here("dev")}
    installed = {name: importlib.metadata.version(name) for name in names}
    assert installed == {name: pinned[name].version for name in names}, "run `make` again"


def test_nothing_needs_a_compiler() -> None:
    """Everything installs from wheels of the package index; an archive that was built here would say `linux_x86_64`."""
    built_here = [
        distribution.name
        for distribution in importlib.metadata.distributions()
        if re.search(r"^Tag: .*-linux_", distribution.read_text("WHEEL") or "", re.MULTILINE)
    ]
    assert built_here == []


@pytest.mark.parametrize("member", members())
def test_members_build_with_the_pinned_backend(member: str) -> None:
    """The pinned uv-build is one that every member accepts."""
    (text,) = pyproject(members()[member])["build-system"]["requires"]
    assert Requirement(text).specifier.contains(pins("build")[canonicalize_name("uv-build")].version)
