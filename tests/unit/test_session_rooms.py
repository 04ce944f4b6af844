"""Sessions in rooms: what is heard of Pipecat's own Daily and LiveKit transports, and what bots are called with."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from pipecat import __path__ as pipecat_path

from greenroom.common.lifecycle import OnLoss
from greenroom.runner.session.transports import make_transport, room_events
from greenroom.runner.session.transports.base import NotRunnable
from greenroom.runner.session.transports.rooms import REJOIN_S
from tests.support.memory_broker import MemoryServer
from tests.support.session_cases import CASES, Scenario, Told, play_rooms
from tests.support.session_rig import new_session

_JOINS: Final = ["joins"]
_COMES: Final = ["comes", "ada"]
_LEAVES: Final = ["leaves", "ada"]
_PUT_OUT: Final = ["put_out"]
_DIALIN: Final = {
    "room_token": "the-token",
    "dialin_settings": '{"call_id": "c-1", "call_domain": "d-1", "To": "+15550100", "From": "+15550101"}',
    "daily_api_key": "the-key",
    "daily_api_url": "https://daily.example/v1",
}


def _scenario(name: str, steps: list[list[Any]], **more: Any) -> Scenario:
    given: dict[str, Any] = {"info": CASES[name].info, "secrets": CASES[name].secrets, **more}
    return Scenario(transport=name, steps=steps, **given)


def _scenarios(name: str) -> dict[str, Scenario]:
    steps: dict[str, list[list[Any]]] = {
        "call": [_JOINS, ["wait", 1], _COMES, ["wait", 30], _LEAVES, ["wait"]],
        "reload": [_JOINS, _COMES, _LEAVES, ["wait", 3], ["comes", "bob"], ["wait", 60]],
        "reload at the end": [
            *(_JOINS, _COMES, _LEAVES, ["prepare_to_close", 1000, "goodbye"], ["comes", "bob"], ["wait"], ["close"])
        ],
        "two": [_JOINS, _COMES, ["comes", "bob"], _LEAVES, ["wait", 60]],
        "put out": [_JOINS, _COMES, _PUT_OUT, ["wait", 1]],
        "bot ends": [_JOINS, _COMES, ["prepare_to_close", 1000, "goodbye"], _PUT_OUT, ["close"], _LEAVES],
        "bot ends alone": [_JOINS, _COMES, _LEAVES, ["wait", 1], ["bot_ends"], ["wait"]],
        "bot ends beside": [_JOINS, _COMES, ["comes", "bob"], _LEAVES, ["bot_ends"]],
        "told to end alone": [_JOINS, _COMES, _LEAVES, ["prepare_to_close", 1000, "bye"], ["bot_ends"]],
        "stranger leaves": [_JOINS, _COMES, ["leaves", "bob"], ["wait"]],
    }
    awaited = [_JOINS, _COMES, ["wait", 1], _LEAVES, ["wait", 30], ["comes", "bob"], ["wait", 1]]
    late = [*awaited[:4], ["prepare_to_close", 1000, "no-show"], ["comes", "bob"], ["close"]]
    steps["said"] = [_JOINS, _COMES, *(["event", *said] for said in _SAID[name]), _LEAVES]
    return {f"{name}: {title}": _scenario(name, each) for title, each in steps.items()} | {
        f"{name}: never": _scenario(name, [], on_loss=OnLoss.NEVER),
        f"{name}: awaited": _scenario(name, awaited, rejoin_s=60),
        f"{name}: awaited in vain": _scenario(name, late, rejoin_s=60),
    }


_DAILY: Final[dict[str, Scenario]] = {
    "daily: no room": _scenario("daily", [["event", "_on_error", "Error joining: expired"]]),
    "daily: trouble": _scenario("daily", [_JOINS, ["event", "_on_error", "transcription"]]),
    "daily: hung up": _scenario(
        "daily", [_JOINS, ["event", "_on_dialin_error", {"errorMsg": "canceled"}]], secrets=_DIALIN
    ),
    "daily: hangs up": _scenario("daily", [_JOINS, _COMES, ["event", "_on_dialin_stopped", {}]], secrets=_DIALIN),
}

# What each library says, as it says it, and what becomes of it; the caller's number isn't told.
_SAID: Final[dict[str, list[list[Any]]]] = {
    "daily": [
        ["_on_dialin_connected", {"sessionId": "s-1", "sipFrom": "+15550101"}],
        ["_on_app_message", {"text": "hush"}, "ada"],
        ["_on_recording_started", {"streamId": "st", "recordingId": "re", "startedBy": "ada"}],
        ["_on_recording_error", "st", "disk"],
        ["_on_network_connection_status_updated", {"threshold": "low", "quality": 40}],
    ],
    "livekit": [],
}
_NEWS: Final[dict[str, list[list[Any]]]] = {
    "daily": [
        ["participant_joined", {"participant": "ada"}],
        ["dialin_connected", {"sessionId": "s-1"}],
        ["app_message", {"participant": "ada"}],
        ["recording_started", {"streamId": "st", "recordingId": "re"}],
        ["recording_error", {"streamId": "st", "error": "disk"}],
        ["network_connection_status_updated", {"threshold": "low", "quality": "40"}],
        ["participant_left", {"participant": "ada", "why": "leftCall"}],
    ],
    "livekit": [
        ["participant_connected", {"participant": "ada"}],
        ["participant_disconnected", {"participant": "ada"}],
    ],
}

type Tell = Callable[[str], Told]


@pytest.fixture(scope="module")
def played() -> dict[str, Told]:
    """What all scenarios came to."""
    return play_rooms(_scenarios("daily") | _scenarios("livekit") | _DAILY)


@pytest.fixture(params=["daily", "livekit"])
def told(request: pytest.FixtureRequest, played: dict[str, Told]) -> Tell:
    """Return a function that gives what a scenario of one transport came to."""
    return lambda title: played[f"{request.param}: {title}"]


def test_an_empty_room_is_told_of_where_the_session_waits_itself(told: Tell) -> None:
    """With a limit for coming back the session hears at once that nobody is there, and again that somebody is."""
    awaited = told("awaited")
    assert awaited.heard == [
        ["connected", "ada"],
        ["disconnected", "away", 1000, "the room is empty"],
        ["connected", "bob"],
    ]
    assert awaited.connected[-1]


def test_who_comes_back_while_the_session_ends_doesnt_begin_anew(told: Tell) -> None:
    """Of a page that is loaded anew nothing is said; who was waited for and comes too late is nobody any more."""
    assert told("reload at the end").heard == [["connected", "ada"], ["disconnected", "bot", 1000, "goodbye"]]
    assert told("awaited in vain").heard == [["connected", "ada"], ["disconnected", "away", 1000, "the room is empty"]]


def test_a_call_begins_with_its_first_guest_and_ends_when_the_room_is_empty(told: Tell) -> None:
    """Connected once, when somebody comes; disconnected once, a little after the last has left."""
    call = told("call")
    assert call.heard == [["connected", "ada"], ["disconnected", "client", 1000, "the room is empty"]]
    came, left = call.at
    assert left - came == pytest.approx(30 + REJOIN_S, abs=0.1)
    assert (call.connected[-1], call.counts) == (False, [1, 1])


def test_who_comes_back_in_time_has_never_left(told: Tell) -> None:
    """A page that is loaded anew is a new participant, and the same call."""
    reload = told("reload")
    assert reload.heard == [["connected", "ada"]]
    assert (reload.connected[-1], reload.counts) == (True, [2, 1])


@pytest.mark.parametrize("title", ["two", "stranger leaves"])
def test_a_room_with_somebody_in_it_isnt_empty(told: Tell, title: str) -> None:
    """One who leaves, of several, ends nothing."""
    assert told(title).heard == [["connected", "ada"]]
    assert told(title).connected[-1]


def test_a_bot_that_is_put_out_has_lost_its_way(told: Tell) -> None:
    """A room that is deleted or expires under a call is told as such, at once: nobody is spoken to any more."""
    _, lost = told("put out").heard
    assert lost == ["disconnected", "transport", 1006, "the bot was put out of the room"]


def test_a_bot_that_leaves_in_order_has_closed(told: Tell) -> None:
    """What its library says of its leaving is a consequence; the user is told who closed and why, once."""
    assert told("bot ends").heard == [
        ["connected", "ada"],
        ["disconnected", "bot", 1000, "goodbye"],
    ]


def test_a_bot_that_ends_because_nobody_is_there_was_left(told: Tell) -> None:
    """The user has left as soon as his bot doesn't wait; not while somebody is there, nor if the session is ended."""
    alone = told("bot ends alone")
    assert alone.heard == [["connected", "ada"], ["disconnected", "client", 1000, "the room is empty"]]
    assert alone.at[1] - alone.at[0] < REJOIN_S
    for title in ("bot ends beside", "told to end alone"):
        assert told(title).heard == [["connected", "ada"]]


def test_secrets_stay_for_another_try_only_where_there_may_be_one(told: Tell) -> None:
    """A session that is run once takes them away; one that may be put back leaves them."""
    assert told("never").left == {}
    assert told("call").left == {"room_token": "the-token"}


@pytest.mark.parametrize(("library", "news"), [("daily", room_events.DAILY), ("livekit", room_events.LIVEKIT)])
def test_pipecat_has_a_handler_for_each_news(library: str, news: dict[str, Any]) -> None:
    """One of another name would never be called, and nobody would say so."""
    [pipecat] = pipecat_path
    source = (Path(pipecat) / "transports" / library / "transport.py").read_text()
    assert {name for name in news if f'_register_event_handler("{name}")' not in source} == set()


@pytest.mark.parametrize("name", ["daily", "livekit"])
def test_what_a_rooms_provider_says_is_told(played: dict[str, Told], name: str) -> None:
    """Who came and went, calls by phone, recordings: by Pipecat's names, with ids, and nobody's words or number."""
    assert played[f"{name}: said"].news == _NEWS[name]


def test_a_call_reaches_the_bot_as_pipecat_understands_it(played: dict[str, Told]) -> None:
    """What is added to the body of a call makes Pipecat's own transport connect it, as after Pipecat's webhook."""
    call = played["daily: hangs up"]
    assert call.more == {
        "call_id": "c-1",
        "call_domain": "d-1",
        "api_key": "the-key",
        "api_url": "https://daily.example/v1",
    }
    assert call.arguments["body"]["lang"] == "de"
    assert call.arguments["body"]["dialin_settings"]["From"] == "+15550101"
    assert played["daily: call"].more == {}


def test_a_caller_who_hangs_up_before_he_is_connected_has_left(played: dict[str, Told]) -> None:
    """The session doesn't wait for somebody who won't come; of one who is there, his leaving tells."""
    assert played["daily: hung up"].heard == [["disconnected", "client", 1000, "the caller has hung up"]]
    assert played["daily: hangs up"].heard == [["connected", "ada"]]


def test_a_bot_that_cant_join_has_lost_its_way(played: dict[str, Told]) -> None:
    """An error before the bot is in the room is final; one after that is the bot's own matter."""
    assert played["daily: no room"].heard == [["disconnected", "transport", 1006, "the bot couldn't join the room"]]
    assert played["daily: trouble"].heard == []


@pytest.mark.parametrize("name", ["daily", "livekit"])
async def test_a_session_whose_library_isnt_installed_says_so(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A runner without the extra isn't broken: it tells what is missing by its name, without importing the rest."""
    monkeypatch.setitem(sys.modules, name, None)
    session = new_session("echo", transport=name)
    room = make_transport(session, MemoryServer().connect(), lambda _: None, lambda *_: None)
    with pytest.raises(NotRunnable) as refused:
        await room.open()
    assert str(refused.value) == f"sessions over '{name}' can't run here: {name} isn't installed"


def test_nothing_of_a_providers_library_is_imported_before_it_is_needed() -> None:
    """Daily's starts threads and LiveKit's loads a large library: sessions over other transports have neither."""
    code = (
        "import sys, greenroom.runner.session.live, greenroom.runner.session.transports as t\n"
        "print(sorted(name for name in ('daily', 'livekit') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
