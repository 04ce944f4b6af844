"""Bots in plain files: how they are named, found and imported, and what they may leave behind for others."""

import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from greenroom.common.lifecycle import Session
from greenroom.runner import bot_modules, botfiles
from greenroom.runner.discovery import Bot, BotSpec, discover, load, specs_of

BOT = "async def bot(runner_args):\n    pass\n"


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is imported by a test is forgotten after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    bot_modules.leave()
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(path: Path, text: str) -> Path:
    """Write a file, and the folders that lead to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def load_file(path: Path, name: str = "mine", version: int = 1) -> Bot:
    """Import the bot of a file."""
    return load(BotSpec(name=name, version=version, target=f"{path}:bot"))


# ---------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("item", "named", "target"),
    [
        ("bots/reception.py", ("reception", None), "bots/reception.py:bot"),
        ("bots/reception/bot.py", ("reception", None), "bots/reception/bot.py:bot"),
        ("front=bots/reception.py", ("front", None), "bots/reception.py:bot"),
        ("bots/reception.py:night", ("reception", None), "bots/reception.py:night"),
        ("front=a=b/bot.py", ("front", None), "a=b/bot.py:bot"),
        ("front@12=a@2/bot.py", ("front", 12), "a@2/bot.py:bot"),
    ],
)
def test_a_file_is_an_agent(
    item: str, named: tuple[str, int | None], target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bot is called like its file, a bot.py like its folder, and as it is said before `=`; paths become absolute."""
    monkeypatch.chdir(tmp_path)
    assert botfiles.parse(item) == (*named, f"{tmp_path}/{target}")


def test_files_are_discovered_beside_packages(tmp_path: Path) -> None:
    """Files and modules may be named in one setting; a file takes the place of an installed bot of its name."""
    specs = {spec.name: spec.target for spec in discover((f"{tmp_path}/echo.py", "mine=my.bots:run"))}
    assert specs["echo"] == f"{tmp_path}/echo.py:bot"
    assert specs["mine"] == "my.bots:run"


def test_a_bot_may_have_several_versions(tmp_path: Path) -> None:
    """One that says none has the one that the settings say; an installed bot gives way to its own version only."""
    extra = (f"echo@2={tmp_path}/echo.py", f"{tmp_path}/mine.py", "mine@1=old.mine:bot")
    found = discover(extra, lambda name: 3 if name == "mine" else 1)
    mine = [(spec.version, spec.target, spec.label) for spec in found if spec.name == "mine"]
    assert mine == [(1, "old.mine:bot", "mine"), (3, f"{tmp_path}/mine.py:bot", "mine@3")]
    assert [spec.version for spec in found if spec.name == "echo"] == [1, 2]
    now = datetime.now(UTC)
    wanted = Session(id="s", tenant="t", agent="a", bot="mine", requested_at=now, queue_deadline_at=now)
    assert [spec.label for spec in specs_of(wanted, found)] == ["mine"]
    assert [spec.label for spec in specs_of(msgspec.structs.replace(wanted, agent_version=3), found)] == ["mine@3"]
    assert specs_of(msgspec.structs.replace(wanted, agent_version=2), found) == ()
    assert specs_of(msgspec.structs.replace(wanted, bot="none"), found) == ()


@pytest.mark.parametrize(
    "item",
    [
        "",
        "echo",
        "a b.py",
        "x=m",
        "x=m:",
        "x=m:1",
        "=b.py",
        "x=b.py:no-function",
        "m:bot",
        "/a=b/c.py",
        "x@0=m:f",
        "x@=m:f",
    ],
)
def test_what_names_no_bot_is_refused(item: str) -> None:
    """The message has what was written, and what was expected."""
    with pytest.raises(ValueError, match=r"expected: name\[@version\]=module:function"):
        botfiles.parse(item)


# ---------------------------------------------------------------------------- import


def test_a_file_runs_as_a_module_not_as_a_script(tmp_path: Path) -> None:
    """What stands under `if __name__ == "__main__"` isn't run."""
    bot = load_file(write(tmp_path / "bot.py", f'{BOT}\nif __name__ == "__main__":\n    raise SystemExit(3)\n'))
    assert bot.offer.error is None
    assert bot.entry is not None


def test_modules_beside_the_file_come_first_while_it_is_imported(tmp_path: Path) -> None:
    """As with `python bot.py`, what is beside it hides what is installed; for others it doesn't."""
    write(tmp_path / "own/tabnanny.py", "ANSWER = 42")
    before = list(sys.path)
    bot = load_file(write(tmp_path / "own/bot.py", f"import tabnanny\nDESCRIPTION = str(tabnanny.ANSWER)\n{BOT}"))
    assert bot.offer.description == "42"
    assert sys.path == before
    assert "tabnanny" not in sys.modules


def test_two_bots_may_be_called_the_same(tmp_path: Path) -> None:
    """Two quickstarts are two modules, though both are a bot.py."""
    made = [load_file(write(tmp_path / name / "bot.py", f"DESCRIPTION = {name!r}\n{BOT}"), name) for name in ("a", "b")]
    assert [bot.offer.description for bot in made] == ["a", "b"]


LOOKS = """
import gr_prompts, gr_pack.part
seen = []
def look():
    import gr_late
    seen.append((gr_prompts.TEXT, gr_pack.part.TEXT, gr_late.TEXT))
def warm():
    look()
async def bot(runner_args):
    look()
"""


async def test_bots_with_the_same_modules_beside_them_each_find_their_own(tmp_path: Path) -> None:
    """Two versions, or two bots, whichever runs: while it is imported, warmed or called, late imports included."""
    made: list[Bot] = []
    before = list(sys.path)
    for version, text in ((1, "one"), (2, "two")):
        for name in ("gr_prompts.py", "gr_late.py", "gr_pack/part.py"):
            write(tmp_path / text / name, f"TEXT = {text!r}")
        made.append(load_file(write(tmp_path / text / "bot.py", LOOKS), "front", version))
    for bot in made:
        assert bot.offer.error is None
        assert bot.warm is not None
        bot.warm()
    assert sys.path == before
    assert not any(name.startswith("gr_") for name in sys.modules)
    for bot in (*made, *made):
        assert bot.entry is not None
        await bot.entry(None)
    assert sys.modules["greenroom_bot_front"].seen == [("one",) * 3] * 3
    assert sys.modules["greenroom_bot_front@2"].seen == [("two",) * 3] * 3
    # It is the last one's process now.
    assert sys.path == [*before, str(tmp_path / "two")]
    assert sys.modules["gr_prompts"].TEXT == "two"


async def test_what_is_installed_is_shared(tmp_path: Path) -> None:
    """Only what lies in the folder itself is the bot's own."""
    write(tmp_path / "site/gr_shared.py", "")
    sys.path.append(str(tmp_path / "site"))
    load_file(write(tmp_path / "bot.py", f"import gr_shared\n{BOT}"))
    assert "gr_shared" in sys.modules


def test_a_file_that_fails_leaves_no_module(tmp_path: Path) -> None:
    """A half-imported module isn't found by anybody."""
    bot = load_file(write(tmp_path / "bot.py", "raise ValueError('boom')"), "broken")
    assert bot.offer.error == "ValueError: boom"
    assert "greenroom_bot_broken" not in sys.modules


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    """The offer has the reason."""
    error = load_file(tmp_path / "none.py").offer.error
    assert error is not None
    assert error.startswith("FileNotFoundError: ")


# ---------------------------------------------------------------------------- environment


async def test_what_a_bot_sets_while_it_is_imported_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key from a bot's `.env` is there when the bot is called or warmed, and for no other bot."""
    monkeypatch.setenv("GR_KEY", "the runner's")
    monkeypatch.setenv("GR_GONE", "here")
    seen = "seen.append((os.environ['GR_KEY'], 'GR_GONE' in os.environ))"
    text = (
        "import os\nos.environ['GR_KEY'] = 'its own'\ndel os.environ['GR_GONE']\nseen = []\n"
        f"async def bot(runner_args):\n    {seen}\ndef warm():\n    {seen}\n"
    )
    bot = load_file(write(tmp_path / "bot.py", text), "keyed")
    assert (os.environ["GR_KEY"], os.environ["GR_GONE"]) == ("the runner's", "here")
    assert bot.warm is not None
    assert bot.entry is not None
    bot.warm()
    assert (os.environ["GR_KEY"], os.environ["GR_GONE"]) == ("the runner's", "here")
    await bot.entry(None)
    assert sys.modules["greenroom_bot_keyed"].seen == [("its own", False)] * 2


async def test_an_async_warm_has_the_environment_of_its_bot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a coroutine function still, and what it changes is undone when it ends."""
    monkeypatch.delenv("GR_KEY", raising=False)
    text = (
        f"import os\nos.environ['GR_KEY'] = 'k'\n{BOT}\nasync def warm():\n    assert os.environ.pop('GR_KEY') == 'k'\n"
    )
    bot = load_file(write(tmp_path / "bot.py", text))
    assert bot.warm is not None
    awaited = bot.warm()
    assert awaited is not None
    await awaited
    assert "GR_KEY" not in os.environ
