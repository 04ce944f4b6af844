"""Which of a bot's versions runs a session."""

import pytest

from greenroom.runner.bot_versions import fitting


@pytest.mark.parametrize(
    ("known", "wanted", "fits"),
    [
        ({1}, 1, 1),
        ({3}, 3, 3),
        ({3}, 1, 3),
        ({1}, 3, 1),
        ({3}, 2, None),
        ({1, 2}, 2, 2),
        ({1, 2}, 1, 1),
        ({1, 2}, 3, None),
        ({2, 3}, 1, None),
        (set(), 1, None),
    ],
)
def test_a_session_gets_its_own_version(known: set[int], wanted: int, fits: int | None) -> None:
    """Where there are several it is said which; 1 stands for whoever says nothing of versions, where there is one."""
    assert fitting(known, wanted) == fits
