"""Which bots there are, and what is said of those that can't run."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from greenroom.runner.discovery import BotSpec, discover, load

UNUSABLE = "greenroom.runner.discovery.UnusableBot"
GOOD = '''"""A bot that greets.

More about it.
"""
TRANSPORTS = ("websocket", "webrtc")
BODY_SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}}

async def bot(runner_args):
    pass

async def warm():
    pass
'''


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose modules can be imported; they are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(folder: Path, name: str, text: str) -> BotSpec:
    """Write a module and return where its bot is."""
    (folder / f"{name}.py").write_text(text)
    return BotSpec(name="some-bot", target=f"{name}:bot")


def test_installed_bots_are_found_by_name() -> None:
    """Entry points of the group `greenroom.bots` are bots."""
    assert {"assistant", "echo", "frontdesk"} <= {spec.name for spec in discover()}


def test_an_extra_bot_takes_the_place_of_an_installed_one() -> None:
    """`name=module:function` adds a bot, or replaces an installed one of that name."""
    specs = {spec.name: spec.target for spec in discover(("mine=my.bots:run", "echo=my.bots:echo"))}
    assert specs["mine"] == "my.bots:run"
    assert specs["echo"] == "my.bots:echo"


def test_a_module_tells_about_its_bot(modules: Path) -> None:
    """Description, transports and body schema come from the module."""
    bot = load(write(modules, "greeter_bot", GOOD))
    assert bot.entry is not None
    assert bot.warm is not None
    assert bot.offer.error is None
    assert bot.offer.description == "A bot that greets."
    assert bot.offer.transports == ("websocket", "webrtc")
    assert bot.offer.body_schema == {"type": "object", "properties": {"name": {"type": "string"}}}


@pytest.mark.parametrize(
    ("name", "text", "rehearsed"),
    [
        ("says_nothing", "", False),
        ("says_so", "REHEARSE = True", True),
        ("has_secrets", "REHEARSE = True; SECRETS = ('A_KEY',)", False),
        ("sets_something", "REHEARSE = True; import os; os.environ['GREETING'] = 'Hi'", False),
    ],
)
def test_a_bot_is_rehearsed_if_it_says_that_it_may(modules: Path, name: str, text: str, rehearsed: bool) -> None:  # noqa: FBT001
    """Only one that asks for it, and has nothing that the other bots mustn't see."""
    assert load(write(modules, name, f"{text}\n{GOOD}")).rehearse is rehearsed


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("bot_imports_missing", "import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("bot_raises", "raise ValueError('boom')", "ValueError: boom"),
        ("bot_exits", "raise SystemExit(3)", "SystemExit: 3"),
        ("bot_is_broken", "def bot(:", "SyntaxError: invalid syntax"),
        ("bot_is_missing", "x = 1", "AttributeError: module 'bot_is_missing' has no attribute 'bot'"),
        (
            "bot_is_sync",
            "def bot(a): pass",
            f"{UNUSABLE}: bot_is_sync:bot isn't an async function",
        ),
        (
            "bot_takes_two",
            "async def bot(a, b): pass",
            f"{UNUSABLE}: bot_takes_two:bot doesn't take the runner arguments alone: missing a required argument: 'b'",
        ),
        (
            "bot_of_no_class",
            "RESOURCES = 'huge'\nasync def bot(a): pass",
            f"{UNUSABLE}: bot_of_no_class.RESOURCES is 'huge', which is none of: voice, tools, realtime, multimodal",
        ),
        (
            "bot_schema_is_a_list",
            "BODY_SCHEMA = []\nasync def bot(a): pass",
            f"{UNUSABLE}: bot_schema_is_a_list.BODY_SCHEMA isn't a JSON object: Expected `object`, got `array`",
        ),
    ],
)
def test_a_bot_that_cannot_run_is_offered_with_the_reason(modules: Path, name: str, text: str, error: str) -> None:
    """Whatever goes wrong with a bot's import is the `error` of its offer: the last line of the traceback."""
    bot = load(write(modules, name, text))
    assert bot.entry is None
    assert bot.offer.error == error


def test_the_traceback_of_an_import_is_told(modules: Path) -> None:
    """Its end, with the calls nearest to the error, bounded however deep and long it is."""
    (modules / "bot_raises_inside.py").write_text("def inner():\n    raise KeyError('x' * 9000)\n\ninner()\n")
    offer = load(BotSpec(name="b", target="bot_raises_inside:bot")).offer
    assert len(offer.traceback) <= 2001
    (modules / "bot_raises_plainly.py").write_text("def inner():\n    raise KeyError('no')\n\ninner()\n")
    offer = load(BotSpec(name="b", target="bot_raises_plainly:bot")).offer
    assert "bot_raises_plainly.py" in offer.traceback
    assert "line 2, in inner" in offer.traceback
    assert offer.traceback.endswith("KeyError: 'no'")


def test_a_bot_says_of_which_class_its_sessions_are(modules: Path) -> None:
    """It is announced; one that says nothing is of none."""
    said = load(write(modules, "bot_that_sees", f"RESOURCES = 'multimodal'\n{GOOD}"))
    assert (said.offer.resources, said.offer.error) == ("multimodal", None)
    assert load(write(modules, "bot_of_any_class", GOOD)).offer.resources == ""


def test_a_schema_has_a_size_limit(modules: Path) -> None:
    """Offers are sent each second: a schema of over 16 KiB is refused."""
    bot = load(write(modules, "bot_with_large_schema", "BODY_SCHEMA = {'x': 'y' * 20000}\nasync def bot(a): pass"))
    assert bot.offer.error is not None
    assert "16384 at most" in bot.offer.error
