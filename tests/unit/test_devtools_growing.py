"""What a stack on one machine assumes of the runners that it launches."""

import pytest

from greenroom.common.errors import SettingsInvalid
from greenroom.devtools import growing
from greenroom.runner.settings import default_slots


@pytest.mark.parametrize(
    ("env", "slots"),
    [
        ({}, default_slots()),
        ({"GREENROOM_SLOTS": " "}, default_slots()),
        ({"GREENROOM_SLOTS": "auto"}, default_slots()),
        ({"GREENROOM_SLOTS": "3"}, 3),
    ],
)
def test_slots_are_those_of_a_runner_with_these_settings(env: dict[str, str], slots: int) -> None:
    """What is left to measuring counts as what a runner has before it has measured."""
    assert growing.slots_of(env) == slots


def test_slots_that_no_runner_would_take_are_named() -> None:
    """Whoever starts the stack is told of the variable."""
    with pytest.raises(SettingsInvalid, match="GREENROOM_SLOTS is 'many'"):
        growing.slots_of({"GREENROOM_SLOTS": "many"})
