"""The fake of Daily's client library is called as the library that is installed."""

import inspect
from collections.abc import Callable
from typing import Any

import daily
import pytest

from tests.support.daily_room import FAKES

# What tests ask of the fake, and nobody of Daily.
_OURS = {"hear"}


def _parameters(function: Callable[..., Any]) -> list[tuple[str, bool]]:
    """Return the names of a function's parameters, and whether they may be left out."""
    parameters = inspect.signature(function).parameters.values()
    return [(each.name, each.default is not each.empty) for each in parameters if each.name != "self"]


@pytest.mark.parametrize("fake", FAKES, ids=lambda fake: fake.__name__)
def test_the_fake_is_called_as_the_library(fake: type) -> None:
    """Every method is there by its name, with the same parameters."""
    real: Any = getattr(daily, fake.__name__)
    assert _parameters(fake) == _parameters(real)
    for name, method in vars(fake).items():
        if inspect.isfunction(method) and not name.startswith("_") and name not in _OURS:
            assert _parameters(method) == _parameters(getattr(real, name)), name
