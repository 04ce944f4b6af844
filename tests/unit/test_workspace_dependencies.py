"""What members import, their pyproject files declare: the rest may be gone with somebody else's next version."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.workspace import members, pyproject

distributions = cache(packages_distributions)


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the dotted name and the line of every import in a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno


def providers(module: str) -> set[str]:
    """Return the distributions that a module may come from; none for the standard library."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return set()
    if top == "greenroom":
        return {"-".join(module.split(".")[:2])}
    return {canonicalize_name(name) for name in distributions().get(top, [f"nobody who has {top}"])}


def declared(member: str) -> set[str]:
    """Return what a member declares, and what the members do that it stands on."""
    project = pyproject(members()[member])["project"]
    extras = project.get("optional-dependencies", {}).values()
    texts = [*project["dependencies"], *(text for extra in extras for text in extra)]
    own = {str(canonicalize_name(Requirement(text).name)) for text in texts}
    return own.union(*(declared(name) for name in own & members().keys()))


@pytest.mark.parametrize("member", members())
def test_what_is_imported_is_declared(member: str) -> None:
    """Each import of a member leads to the standard library, to itself or to a dependency that one of ours declares."""
    known = {member, *declared(member)}
    undeclared = sorted(
        f"{path.relative_to(members()[member])}:{line} imports {module}"
        for path in (members()[member] / "src").rglob("*.py")
        for module, line in imports(path)
        if (needed := providers(module)) and not needed & known
    )
    assert undeclared == []
