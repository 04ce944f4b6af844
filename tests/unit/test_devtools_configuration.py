"""docs/configuration.md is what the settings say."""

from greenroom.devtools import configuration
from tests.support.workspace import ROOT


def test_the_page_of_settings_is_current() -> None:
    """`make docs` writes it anew; it is part of every change of a setting."""
    assert (ROOT / "docs" / "configuration.md").read_text() == configuration.render()
