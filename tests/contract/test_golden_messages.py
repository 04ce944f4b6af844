"""Golden messages: what has once gone over the wire decodes for ever, and says the same when it is sent on."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from greenroom.common import messages
from greenroom.common.commands import Command, CommandAnswer, HttpAnswer
from greenroom.common.lifecycle import Transition
from greenroom.common.media_messages import MediaAnswer
from greenroom.common.messages import StartAnswer
from greenroom.common.move_messages import MoveAnswer
from greenroom.common.peer_messages import PeerReply
from tests.contract.golden_messages import FOLDER, decode, enumerations, golden, missing, structs

FILES = sorted(FOLDER.glob("*.json"))
UNIONS = (Transition, MediaAnswer, StartAnswer, Command, CommandAnswer, HttpAnswer, PeerReply, MoveAnswer)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_golden_message_decodes_and_says_the_same_when_encoded_again(path: Path) -> None:
    """Nothing of it is lost or changed; what has been added since is at its default."""
    then = msgspec.json.decode(path.read_bytes())
    now = json_of(decode(path))
    assert_kept(then, now)
    assert json_of(decode(path, messages.encode(now))) == now


@pytest.mark.parametrize("name", [*structs(), *enumerations()])
def test_everything_on_the_wire_has_a_golden_message(name: str) -> None:
    """Each struct with every field and with the required ones alone; of each enumeration every value.

    `python -m tests.contract.golden_messages` adds what is missing. It is part of the change that made it so.
    """
    assert golden(name)
    assert not missing(name)


def test_every_golden_message_is_of_something_that_still_exists() -> None:
    """A struct or an enumeration may not go, and not change its name, as long as messages of it are about."""
    assert FILES
    assert {path.name.split(".")[0] for path in FILES} == {*structs(), *enumerations()}


@pytest.mark.parametrize("union", UNIONS, ids=str)
def test_a_tag_tells_which_message_of_a_union_it_is(union: Any) -> None:
    """Every member's golden messages decode to it when any member may come."""
    for member in union.__value__.__args__:
        for path in golden(member.__name__):
            assert type(messages.decode(path.read_bytes(), union)) is member


def test_every_tagged_struct_is_in_a_union() -> None:
    """A tag without a union would be a field that means nothing."""
    members = {member for union in UNIONS for member in union.__value__.__args__}
    assert {kind for kind in structs().values() if kind.__struct_config__.tag} == members


@pytest.mark.parametrize("name", structs())
def test_what_a_later_release_adds_is_passed_over(name: str) -> None:
    """Old readers ignore new fields, or no release could be rolled out process by process.

    What comes from outside is stricter: there an unknown field is a mistake. So is a command: half of one is another.
    """
    message = msgspec.json.decode(golden(name)[0].read_bytes())
    added = msgspec.json.encode({**message, "added_later": {"x": 1}})
    if structs()[name].__struct_config__.forbid_unknown_fields:
        with pytest.raises(msgspec.ValidationError):
            messages.decode(added, structs()[name])
    else:
        assert json_of(messages.decode(added, structs()[name])) == json_of(decode(golden(name)[0]))


def test_nothing_is_written_that_is_there_already() -> None:
    """Writing the missing ones, when none is missing, changes nothing."""
    before = {path: path.stat().st_mtime_ns for path in FILES}
    done = subprocess.run(
        [sys.executable, "-m", "tests.contract.golden_messages"],
        cwd=FOLDER.parents[2],
        capture_output=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == b""
    assert {path: path.stat().st_mtime_ns for path in sorted(FOLDER.glob("*.json"))} == before


def assert_kept(then: Any, now: Any, where: str = "$") -> None:
    """Make sure that everything in one JSON value is in another one too."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key, value in then.items():
            assert key in now, f"{where}.{key} is gone"
            assert_kept(value, now[key], f"{where}.{key}")
    elif isinstance(then, list) and isinstance(now, list):
        assert len(then) == len(now), where
        for index, (old, new) in enumerate(zip(then, now, strict=True)):
            assert_kept(old, new, f"{where}[{index}]")
    else:
        assert then == now, where


def json_of(message: Any) -> Any:
    """Return a message as it is on the wire, without regard for blanks and escapes."""
    return msgspec.json.decode(messages.encode(message))
