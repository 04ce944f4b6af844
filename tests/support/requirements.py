"""The pinned requirements, and what the pyproject files and the installed packages say ought to be pinned."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, requires

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from tests.support.workspace import ROOT, members, pyproject

_PIN = re.compile(r"(?P<name>[a-z0-9][a-z0-9-]*)==(?P<version>[a-z0-9.]+)(?: ; (?P<marker>[^\\]+))?(?: \\)?")
_HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}(?: \\)?")


@dataclass(frozen=True, kw_only=True)
class Pin:
    """One line of a requirements file, with the lines that belong to it."""

    name: NormalizedName
    version: str
    hashes: int


def lines_of(file: str) -> list[str]:
    """Return the lines of `requirements/{file}.txt` that aren't comments."""
    lines = (ROOT / "requirements" / f"{file}.txt").read_text().splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


@cache
def pins(file: str) -> dict[NormalizedName, Pin]:
    """Return what `requirements/{file}.txt` pins, by name.

    Raises:
        ValueError: it has a line that is neither a pin nor the hash of one, or two pins of one package.
    """
    found: dict[NormalizedName, Pin] = {}
    last: Pin | None = None
    for line in lines_of(file):
        if last and _HASH.fullmatch(line):
            last = found[last.name] = Pin(name=last.name, version=last.version, hashes=last.hashes + 1)
        elif match := _PIN.fullmatch(line):
            last = Pin(name=canonicalize_name(match["name"]), version=match["version"], hashes=0)
            if last.name in found:
                raise ValueError(f"{file}.txt pins {last.name} twice")
            found[last.name] = last
        else:
            raise ValueError(f"{file}.txt has a line that is no pin: {line}")
    return found


def declared(file: str) -> list[Requirement]:
    """Return the requirements that `requirements/{file}.txt` is made from."""
    root = pyproject(ROOT)
    texts: dict[str, list[str]] = {
        "dev": [*root["project"]["dependencies"], *root["dependency-groups"]["dev"]],
        "build": root["dependency-groups"]["build"],
    }
    # The runner's image takes every transport.
    texts["runner"] = ["greenroom-runner[livekit,webrtc]"]
    return [Requirement(text) for text in texts.get(file, [f"greenroom-{file}"])]


def reachable(
    roots: Iterable[Requirement], environments: Iterable[Mapping[str, str]]
) -> Iterator[tuple[Requirement, NormalizedName]]:
    """Yield every requirement that follows from `roots` in one of the environments, and whose it is.

    Members of the workspace are followed by their pyproject.toml, everything else by the metadata of what is
    installed; what isn't installed here (packages for other systems) is yielded, not followed.
    """
    environments = list(environments)
    waiting = [(root, canonicalize_name("greenroom")) for root in roots]
    seen: set[tuple[str, NormalizedName]] = set()
    while waiting:
        requirement, owner = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name not in members():
            yield requirement, owner
        for extra in ("", *requirement.extras):
            for text in _requires(name):
                follows = Requirement(text)
                applies = any(
                    not follows.marker or follows.marker.evaluate({**e, "extra": extra}) for e in environments
                )
                if applies and (text, name) not in seen:
                    seen.add((text, name))
                    waiting.append((follows, name))


def this_environment() -> list[Mapping[str, str]]:
    """Return the environment that the tests run in."""
    return [_here()]


def any_environment() -> list[Mapping[str, str]]:
    """Return environments of the kinds that the pins are made for."""
    kinds = [
        {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"},
        {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix"},
        {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt"},
        {"sys_platform": "emscripten", "platform_system": "Emscripten", "os_name": "posix"},
    ]
    versions = [{"python_version": v, "python_full_version": f"{v}.0"} for v in ("3.12", "3.13", "3.14")]
    machines = [{"platform_machine": machine} for machine in ("x86_64", "aarch64", "arm64")]
    implementations = [
        {"implementation_name": name.lower(), "platform_python_implementation": name} for name in ("CPython", "PyPy")
    ]
    here = _here()
    return [
        {**here, **a, **b, **c, **d} for a, b, c, d in itertools.product(kinds, versions, machines, implementations)
    ]


def _here() -> dict[str, str]:
    return {name: str(value) for name, value in default_environment().items()}


def _requires(name: NormalizedName) -> list[str]:
    if (folder := members().get(name)) is None:
        try:
            return requires(name) or []
        except PackageNotFoundError:
            return []
    project = pyproject(folder)["project"]
    extras = project.get("optional-dependencies", {}).items()
    return [*project["dependencies"], *(f'{text} ; extra == "{extra}"' for extra, texts in extras for text in texts)]
