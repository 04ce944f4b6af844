"""The secrets that a bot's module names."""

import os
from pathlib import Path

import pytest

from greenroom.runner.discovery import BotSpec, load

_BOT = "import os\n{before}\nSECRETS = {secrets}\nasync def bot(runner_args): ...\n"


def _spec(folder: Path, before: str = "", secrets: str = '("A_KEY", "B_KEY")') -> BotSpec:
    file = folder / "reception.py"
    file.write_text(_BOT.format(before=before, secrets=secrets))
    return BotSpec(name="reception", target=f"{file}:bot")


def test_what_a_bot_names_is_offered(tmp_path: Path) -> None:
    """With the names of what it needs, so that it isn't placed where they are missing."""
    assert load(_spec(tmp_path)).offer.secrets == ("A_KEY", "B_KEY")


def test_what_a_bot_brings_along_isn_t_asked_for(tmp_path: Path) -> None:
    """A variable that its import sets, as from a file beside it, needn't come from the runner, nor does it stay set."""
    bot = load(_spec(tmp_path, before='os.environ["A_KEY"] = "mine"'))
    assert bot.offer.secrets == ("B_KEY",)
    assert "A_KEY" not in os.environ


@pytest.mark.parametrize("secrets", ['"A_KEY"', '("PATH",)', "(1,)"])
def test_what_can_t_be_a_name_is_an_error(tmp_path: Path, secrets: str) -> None:
    """The bot is offered as broken, with the reason."""
    offer = load(_spec(tmp_path, secrets=secrets)).offer
    assert offer.error is not None
    assert "SECRETS" in offer.error
