"""What every transport of a session process keeps (`SessionTransport`), each with the other end that it is made for.

A new transport gets a case in tests/support/session_cases.py; nothing here knows of any of them. Clients and carriers
come over the broker in memory, browsers over a peer connection on loopback, rooms by what Pipecat's own transport is
told of them, in virtual time.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from pipecat.runner.types import RunnerArguments

from greenroom.runner.session import transports
from tests.support.rtc_caller import use_loopback
from tests.support.session_cases import BODY, CASES, Scenario, Told, plain, play, play_rooms

_COMES: Final = [["approach"], ["arrive"]]
_ENDS: Final = ["prepare_to_close", 1011, "bot-failed"]
_LEFT: Final = ["disconnected", "client", 1000]

# What a user and a session may do to each other.
SCENARIOS: Final[dict[str, list[list[Any]]]] = {
    "call": [*_COMES, ["leave"], ["wait"]],
    "the bot ends": [*_COMES, ["prepare_to_close", 1000, "goodbye"], ["close"]],
    "the bot fails": [*_COMES, _ENDS, ["close"]],
    "closed without a word": [*_COMES, ["close"]],
    "closed twice": [*_COMES, _ENDS, ["close"], ["close"]],
    "nobody": [_ENDS, ["close"], ["close"]],
    "left and closed": [*_COMES, ["leave"], _ENDS, ["close"], ["wait"]],
    "left while it ends": [*_COMES, _ENDS, ["leave"], ["wait"], ["close"]],
    "too late": [_ENDS, *_COMES, ["wait"]],
    "half there and gone": [["approach"], ["leave"], ["wait"]],
    "half there": [["approach"], _ENDS, ["arrive"], ["wait"]],
    "leaves after the end": [*_COMES, ["close"], ["leave"], ["wait"]],
    "comes after the end": [["close"], *_COMES, ["leave"], ["wait"]],
    "half there at the end": [["approach"], ["close"], ["arrive"], ["leave"], ["wait"]],
}


def _scenario(name: str, steps: list[list[Any]], *, without: str = "") -> Scenario:
    case = CASES[name]
    info, secrets = ({k: v for k, v in given.items() if k != without} for given in (case.info, case.secrets))
    return Scenario(transport=name, steps=steps, info=info, secrets=secrets)


def _play(scenarios: dict[str, Scenario], name: str) -> dict[str, Told]:
    end = CASES[name].end
    if end is None:
        return play_rooms(scenarios)
    return {title: asyncio.run(play(scenario, end)) for title, scenario in scenarios.items()}


@pytest.fixture(scope="module", autouse=True)
def surroundings() -> Iterator[None]:
    """Have peer connections stay on loopback, and what bots find in their environment forgotten afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        use_loopback(patch)
        patch.setattr(os, "environ", os.environ.copy())
        yield


@pytest.fixture(scope="module", params=CASES)
def played(request: pytest.FixtureRequest) -> tuple[str, dict[str, Told]]:
    """A transport, and what all scenarios came to with it."""
    name = request.param
    scenarios = {title: _scenario(name, steps) for title, steps in SCENARIOS.items()}
    lacking = {f"without {need}": _scenario(name, [], without=need) for need in CASES[name].needs}
    return name, _play(scenarios | lacking, name)


@pytest.fixture
def told(played: tuple[str, dict[str, Told]]) -> Callable[[str], Told]:
    """Return a function that gives what a scenario came to with one transport."""
    return lambda title: played[1][title]


type Tell = Callable[[str], Told]


def _kinds(told: Told) -> list[str]:
    return [what for what, *_ in told.heard]


def test_there_is_a_case_for_each_transport() -> None:
    """Whatever a session can be over is held to this."""
    assert set(CASES) == {*transports._KNOWN, "smallwebrtc"}


def test_bots_are_called_as_pipecats_runner_calls_them(played: tuple[str, dict[str, Told]]) -> None:
    """With arguments of Pipecat's class, with body and the session's id; the rest as Pipecat has it."""
    name, told = played[0], played[1]["call"]
    common = plain(RunnerArguments(body=BODY, session_id=told.session_id))
    assert (told.kind, told.arguments) == (CASES[name].kind, common | CASES[name].own)


def test_a_session_is_opened_before_its_bot_is_called(told: Tell) -> None:
    """Before, there is nothing that a bot could be called with, and it is said so."""
    assert told("call").early == "the session isn't open"


def test_who_comes_and_goes_is_told_once_each(told: Tell) -> None:
    """There is a connection with a name, and then nobody: the client has closed, as it should."""
    came, left = told("call").heard
    assert came[0] == "connected"
    assert came[1]
    assert left[:3] == _LEFT
    assert told("call").connected == [False, True, False, False]


@pytest.mark.parametrize(
    ("title", "code", "reason"),
    [("the bot ends", 1000, "goodbye"), ("the bot fails", 1011, "bot-failed"), ("closed without a word", 1000, "")],
)
def test_the_end_of_a_session_is_told_with_its_code_and_reason(told: Tell, title: str, code: int, reason: str) -> None:
    """Whoever is there is sent away by the bot, with what was prepared; without that, all is as it should be."""
    assert _kinds(told(title)) == ["connected", "disconnected"]
    assert told(title).heard[1] == ["disconnected", "bot", code, reason]
    assert told(title).connected[-2:] == [True, False]


def test_closing_twice_is_closing_once(told: Tell) -> None:
    """Nobody is sent away who is gone."""
    assert _kinds(told("closed twice")) == ["connected", "disconnected"]
    assert told("closed twice").connected[-2:] == [False, False]


def test_of_a_session_that_nobody_joined_nothing_is_heard(told: Tell) -> None:
    """There is nobody to be disconnected, however often it is closed."""
    assert told("nobody").heard == []


@pytest.mark.parametrize("title", ["left and closed", "left while it ends"])
def test_who_has_left_isnt_sent_away(told: Tell, title: str) -> None:
    """It is the client who has closed, whatever the session does after that, and while it ends."""
    assert _kinds(told(title)) == ["connected", "disconnected"]
    assert told(title).heard[1][:3] == _LEFT


def test_who_leaves_before_he_was_there_was_never_there(told: Tell) -> None:
    """That the way to him is over is told where it is known, since the session ends by it."""
    assert [what[:3] for what in told("half there and gone").heard] in ([], [_LEFT])
    assert not any(told("half there and gone").connected)


@pytest.mark.parametrize("title", ["too late", "half there", "half there at the end"])
def test_nobody_comes_once_the_end_is_prepared(told: Tell, title: str) -> None:
    """Not even who was on his way already: a bot that says goodbye isn't told of somebody new."""
    assert "connected" not in _kinds(told(title))
    assert not any(told(title).connected)


@pytest.mark.parametrize(
    ("title", "kinds"), [("leaves after the end", ["connected", "disconnected"]), ("comes after the end", [])]
)
def test_nothing_is_heard_after_the_end(told: Tell, title: str, kinds: list[str]) -> None:
    """Whoever comes or goes then concerns nobody."""
    closed = [step for step, *_ in SCENARIOS[title]].index("close")
    assert _kinds(told(title)) == kinds
    assert not any(told(title).connected[closed:])


def test_a_session_that_lacks_something_says_what(played: tuple[str, dict[str, Told]]) -> None:
    """It can't be run, and the text names nothing but that."""
    name, told = played
    needs = CASES[name].needs
    assert {need: told[f"without {need}"].refused for need in needs} == needs


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.package])
def test_a_session_whose_library_isnt_there_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner without an extra can't run what needs it, and names what would have to be installed."""
    package = CASES[name].package or ""
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"{transports.__name__}.{name}", raising=False)
    told = asyncio.run(play(_scenario(name, []), _nobody))
    assert told.refused == f"sessions over {name!r} can't run here: {package} isn't installed"


def test_a_session_over_something_unknown_says_so() -> None:
    """One that an api of a later version has made, for example."""
    told = asyncio.run(play(Scenario(transport="pigeon"), _nobody))
    assert told.refused == "sessions over 'pigeon' can't run here"


def _nobody(*_: object) -> Any:
    raise AssertionError("a session that can't be run has no other end")
