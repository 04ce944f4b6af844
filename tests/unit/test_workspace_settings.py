"""What can be set is read: a setting that does nothing promises something to whoever sets it."""

import ast
from collections.abc import Iterator
from functools import cache

import msgspec
import pytest

from greenroom.api.settings import ApiSettings
from greenroom.common.settings import Settings
from greenroom.recorder.migrate import _MigrateSettings
from greenroom.recorder.settings import RecorderSettings
from greenroom.runner.settings import RunnerSettings
from greenroom.scheduler.settings import SchedulerSettings
from tests.support.workspace import members

ALL = (ApiSettings, RecorderSettings, RunnerSettings, SchedulerSettings, _MigrateSettings)


@cache
def read_in(member: str) -> frozenset[str]:
    """Return the attributes that a member's code reads of something called settings, or of itself in their modules."""
    return frozenset(
        name
        for path in (members()[member] / "src").rglob("*.py")
        for name in _reads(ast.parse(path.read_text()), own=path.stem in ("settings", "migrate"))
    )


def _reads(node: ast.AST, *, own: bool) -> Iterator[str]:
    # That a value is checked when it is read from the environment isn't what it is there for.
    if isinstance(node, ast.FunctionDef) and node.name == "__post_init__":
        return
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        owner = ast.unparse(node.value).rpartition(".")[2]
        if owner.endswith("settings") or (own and owner == "self"):
            yield node.attr
    for child in ast.iter_child_nodes(node):
        yield from _reads(child, own=own)


@pytest.mark.parametrize("settings", ALL, ids=lambda settings: settings.__name__)
def test_every_setting_is_read(settings: type[Settings]) -> None:
    """By the service that has it, or by what all services share."""
    service = "-".join(settings.__module__.split(".")[:2])
    unread = {field.name for field in msgspec.structs.fields(settings)} - read_in(service) - read_in("greenroom-common")
    assert unread == set()


def test_all_settings_are_looked_at() -> None:
    """Whoever adds settings adds them here: every class of them is one of these, or a base of one."""

    def below(kind: type[Settings]) -> Iterator[type[Settings]]:
        for child in kind.__subclasses__():
            yield child
            yield from below(child)

    found = {kind for kind in below(Settings) if kind.__module__.startswith("greenroom.")}
    assert {kind for kind in found if not any(issubclass(each, kind) for each in ALL)} == set()
