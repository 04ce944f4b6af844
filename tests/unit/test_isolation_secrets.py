"""Which secrets a runner has, where they come from, and what of them is said."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.runner.isolation import secrets
from greenroom.runner.isolation.secrets import InvalidSecrets, Secrets

NAMES = ("OPENAI_API_KEY", "DEEPGRAM_API_KEY", "X")


def write(folder: Path, name: str, text: str) -> None:
    """Write a file as templates are rendered: beside it, then renamed."""
    draft = folder / ".draft"
    draft.write_text(text)
    draft.rename(folder / name)


def test_files_go_before_the_environment(tmp_path: Path) -> None:
    """A file of its own goes before a line among others, and both before a variable with the prefix."""
    write(tmp_path, "OPENAI_API_KEY", "of the file\n")
    write(tmp_path, "bots.env", "# what bots need\n\nOPENAI_API_KEY=of the line\nDEEPGRAM_API_KEY=a=b #c\n")
    environment = {f"GREENROOM_SECRET_{name}": "of the environment" for name in NAMES} | {"PLAIN": "p"}
    found = Secrets(environment, tmp_path).of((*NAMES, "PLAIN", "NOWHERE"))
    assert found == {"OPENAI_API_KEY": "of the file", "DEEPGRAM_API_KEY": "a=b #c", "X": "of the environment"}
    assert Secrets(environment, plain=True).of(("PLAIN", "X")) == {"PLAIN": "p", "X": "of the environment"}


def test_what_is_missing_is_said_by_name() -> None:
    """An empty value is none."""
    known = Secrets({"GREENROOM_SECRET_X": "x", "GREENROOM_SECRET_DEEPGRAM_API_KEY": ""})
    assert known.missing(NAMES) == ("OPENAI_API_KEY", "DEEPGRAM_API_KEY")


def test_a_change_is_taken_over(tmp_path: Path) -> None:
    """What is rendered, replaced or removed later is known after the next look; without a change nothing is read."""
    known = Secrets({}, tmp_path)
    assert known.missing(("X",)) == ("X",)
    assert not known.refresh()
    write(tmp_path, "X", "one")
    assert known.refresh()
    assert known.of(("X",)) == {"X": "one"}
    write(tmp_path, "X", "two")
    assert known.refresh()
    assert known.of(("X",)) == {"X": "two"}
    (tmp_path / "X").unlink()
    assert known.refresh()
    assert known.missing(("X",)) == ("X",)


def test_a_directory_that_comes_later_is_found(tmp_path: Path) -> None:
    """A runner may begin before its templates are rendered."""
    folder = tmp_path / "secrets"
    known = Secrets({}, folder)
    folder.mkdir()
    write(folder, "X", "late")
    assert known.refresh()
    assert known.of(("X",)) == {"X": "late"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("X", b"x" * (secrets.MAX_BYTES + 1)),
        ("X", b"a\0b"),
        ("X", b"\xff\xfe"),
        ("some.env", b"X=1\nwhat is this\n"),
        ("not-a-name", b"1"),
        ("1X", b"1"),
    ],
)
def test_what_can_t_be_a_secret_is_passed_over(tmp_path: Path, name: str, content: bytes) -> None:
    """Too large, not text, no name: it isn't there, and the others are."""
    (tmp_path / name).write_bytes(content)
    write(tmp_path, "GOOD", "yes")
    known = Secrets({}, tmp_path)
    assert known.missing(("X", "not-a-name", "1X", "GOOD")) == ("X", "not-a-name", "1X")


def test_directories_and_broken_links_are_no_secrets(tmp_path: Path) -> None:
    """Only files count, those behind links too: that is how some launchers swap them."""
    (tmp_path / "DIRECTORY").mkdir()
    (tmp_path / "BROKEN").symlink_to(tmp_path / "nowhere")
    write(tmp_path, "target.txt", "linked")
    (tmp_path / "LINKED").symlink_to(tmp_path / "target.txt")
    assert Secrets({}, tmp_path).of(("DIRECTORY", "BROKEN", "LINKED")) == {"LINKED": "linked"}


@given(st.lists(st.text(max_size=70) | st.integers()))
def test_a_bot_names_what_an_environment_may_have(declared: list[object]) -> None:
    """What is accepted are names that can be set, that aren't ours, and that change nothing but what a bot reads."""
    try:
        names = secrets.required(tuple(declared))
    except InvalidSecrets:
        return
    assert set(names) == set(declared)
    assert all(name.replace("_", "a").isalnum() and name.isascii() and len(name) <= 64 for name in names)


@pytest.mark.parametrize(
    "name", ["PATH", "LD_PRELOAD", "PYTHONPATH", "GREENROOM_POOL", "NATS_URL", "A-B", "", "x" * 65]
)
def test_a_bot_can_t_name_what_changes_how_a_process_runs(name: str) -> None:
    """Variables of the loader, the interpreter and ourselves are nobody's secrets."""
    with pytest.raises(InvalidSecrets):
        secrets.required((name,))
    with pytest.raises(InvalidSecrets):
        secrets.required(name)
    with pytest.raises(InvalidSecrets):
        secrets.required(tuple(f"S{number}" for number in range(secrets.MAX_NAMES + 1)))
