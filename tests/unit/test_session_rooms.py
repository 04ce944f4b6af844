"""Sessions in rooms: what is heard of Pipecat's own Daily and LiveKit transports, and what bots are called with."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from greenroom.runner.session.transports import make_transport
from greenroom.runner.session.transports.base import NotRunnable
from greenroom.runner.session.transports.rooms import REJOIN_S
from tests.support.memory_broker import MemoryServer
from tests.support.session_rig import new_session

_ROOT: Final = Path(__file__).parents[2]
_UNTIL_EMPTY: Final = REJOIN_S + 0.5
_ADA: Final = {"id": "ada"}
_BOB: Final = {"id": "bob"}
_EMPTY: Final = ["disconnected", "client", 1000, "the room is empty"]

# How each transport's library says the same things.
_COMES: Final[dict[str, Any]] = {
    "daily": lambda who: ["event", "_on_participant_joined", who],
    "livekit": lambda who: ["event", "_on_participant_connected", who["id"]],
}
_LEAVES: Final[dict[str, Any]] = {
    "daily": lambda who: ["event", "_on_participant_left", who, "leftCall"],
    "livekit": lambda who: ["event", "_on_participant_disconnected", who["id"]],
}
_PUT_OUT: Final = {"daily": ["event", "_on_call_state_updated", "left"], "livekit": ["event", "_on_disconnected"]}
_JOINED: Final = {"daily": ["event", "_on_joined", {}], "livekit": ["event", "_on_connected"]}
_DIALIN: Final = {
    "room_token": "the-token",
    "dialin_settings": '{"call_id": "c-1", "call_domain": "d-1", "To": "+15550100", "From": "+15550101"}',
    "daily_api_key": "the-key",
    "daily_api_url": "https://daily.example/v1",
}


def _scenarios(name: str) -> dict[str, Any]:
    comes, leaves, joined, put_out = _COMES[name], _LEAVES[name], _JOINED[name], _PUT_OUT[name]
    steps: dict[str, list[Any]] = {
        "call": [joined, ["wait", 1], comes(_ADA), ["wait", 30], leaves(_ADA), ["wait", _UNTIL_EMPTY]],
        "reload": [joined, comes(_ADA), leaves(_ADA), ["wait", 3], comes(_BOB), ["wait", 60]],
        "two": [joined, comes(_ADA), comes(_BOB), leaves(_ADA), ["wait", 60]],
        "put out": [joined, comes(_ADA), put_out, ["wait", 1]],
        "bot ends": [joined, comes(_ADA), ["prepare_to_close", 1000, "goodbye"], put_out, ["close"], leaves(_ADA)],
        "bot ends alone": [joined, comes(_ADA), leaves(_ADA), ["wait", 1], ["bot_ends"], ["wait", _UNTIL_EMPTY]],
        "bot ends beside": [joined, comes(_ADA), comes(_BOB), leaves(_ADA), ["bot_ends"]],
        "told to end alone": [joined, comes(_ADA), leaves(_ADA), ["prepare_to_close", 1000, "bye"], ["bot_ends"]],
        "nobody": [joined, ["prepare_to_close", 1000, "no-show"], ["close"]],
        "closed while empty": [joined, comes(_ADA), leaves(_ADA), ["close"], ["wait", _UNTIL_EMPTY]],
        "stranger leaves": [joined, comes(_ADA), leaves(_BOB), ["wait", _UNTIL_EMPTY]],
    }
    return {f"{name}: {title}": {"transport": name, "steps": each} for title, each in steps.items()} | {
        f"{name}: taken": {"transport": name, "secrets": {}},
        f"{name}: never": {"transport": name, "on_loss": "never"},
        f"{name}: awaited": {
            "transport": name,
            "rejoin_s": 60,
            "steps": [joined, comes(_ADA), ["wait", 1], leaves(_ADA), ["wait", 30], comes(_BOB), ["wait", 1]],
        },
    }


_DAILY: Final[dict[str, Any]] = {
    "daily: no room": {"transport": "daily", "steps": [["event", "_on_error", "Error joining: expired"]]},
    "daily: trouble": {
        "transport": "daily",
        "steps": [["event", "_on_joined", {}], ["event", "_on_error", "transcription"]],
    },
    "daily: hung up": {
        "transport": "daily",
        "secrets": _DIALIN,
        "steps": [["event", "_on_joined", {}], ["event", "_on_dialin_error", {"errorMsg": "canceled"}]],
    },
    "daily: hangs up": {
        "transport": "daily",
        "secrets": _DIALIN,
        "steps": [["event", "_on_joined", {}], _COMES["daily"](_ADA), ["event", "_on_dialin_stopped", {}]],
    },
}


@pytest.fixture(scope="module")
def played() -> dict[str, Any]:
    """What all scenarios came to; they share one process, whose start is what takes time."""
    scenarios = json.dumps(_scenarios("daily") | _scenarios("livekit") | _DAILY)
    command = [sys.executable, "-m", "tests.support.rooms_played"]
    done = subprocess.run(command, input=scenarios, capture_output=True, text=True, timeout=240, cwd=_ROOT, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def test_an_empty_room_is_told_of_where_the_session_waits_itself(told: Any) -> None:
    """With a limit for coming back the session hears at once that nobody is there, and again that somebody is."""
    awaited = told("awaited")
    assert [what[1:] for what in awaited["heard"]] == [
        ["connected", "ada"],
        ["disconnected", "away", 1000, "the room is empty"],
        ["connected", "bob"],
    ]
    assert awaited["connected"]


@pytest.fixture(params=["daily", "livekit"])
def told(request: pytest.FixtureRequest, played: dict[str, Any]) -> Any:
    """Return a function that gives what a scenario of one transport came to."""
    return lambda title: played[f"{request.param}: {title}"]


def test_a_call_begins_with_its_first_guest_and_ends_when_the_room_is_empty(told: Any) -> None:
    """Connected once, when somebody comes; disconnected once, a little after the last has left."""
    call = told("call")
    (came, *connected), (left, *disconnected) = call["heard"]
    assert connected == ["connected", "ada"]
    assert disconnected == _EMPTY
    assert left - came == pytest.approx(30 + REJOIN_S, abs=0.1)
    assert (call["connected"], call["counts"]) == (False, [1, 1])


def test_who_comes_back_in_time_has_never_left(told: Any) -> None:
    """A page that is loaded anew is a new participant, and the same call."""
    reload = told("reload")
    assert [each[1:] for each in reload["heard"]] == [["connected", "ada"]]
    assert (reload["connected"], reload["counts"]) == (True, [2, 1])


@pytest.mark.parametrize("title", ["two", "stranger leaves"])
def test_a_room_with_somebody_in_it_isnt_empty(told: Any, title: str) -> None:
    """One who leaves, of several, ends nothing."""
    assert [each[1:] for each in told(title)["heard"]] == [["connected", "ada"]]
    assert told(title)["connected"]


def test_a_bot_that_is_put_out_has_lost_its_way(told: Any) -> None:
    """A room that is deleted or expires under a call is told as such, at once: nobody is spoken to any more."""
    _, (_, *lost) = told("put out")["heard"]
    assert lost == ["disconnected", "transport", 1006, "the bot was put out of the room"]


def test_a_bot_that_leaves_in_order_has_closed(told: Any) -> None:
    """What its library says of its leaving is a consequence; the user is told who closed and why, once."""
    assert [each[1:] for each in told("bot ends")["heard"]] == [
        ["connected", "ada"],
        ["disconnected", "bot", 1000, "goodbye"],
    ]


def test_a_bot_that_ends_because_nobody_is_there_was_left(told: Any) -> None:
    """The user has left as soon as his bot doesn't wait; not while somebody is there, nor if the session is ended."""
    (came, *_), (left, *disconnected) = told("bot ends alone")["heard"]
    assert disconnected == _EMPTY
    assert left - came < REJOIN_S
    assert [each[1] for each in told("bot ends beside")["heard"]] == ["connected"]
    assert [each[1] for each in told("told to end alone")["heard"]] == ["connected"]


def test_a_session_that_nobody_joined_ends_without_a_word(told: Any) -> None:
    """There is nobody to be disconnected."""
    assert told("nobody")["heard"] == []


def test_nothing_is_heard_after_the_end(told: Any) -> None:
    """A timer that ran when the session closed is stopped."""
    assert [each[1] for each in told("closed while empty")["heard"]] == ["connected"]


def test_a_token_that_is_gone_is_told(told: Any) -> None:
    """A session whose secrets were taken, or are too old, can't run, and says so."""
    assert "token for the room" in told("taken")["refused"]


def test_secrets_stay_for_another_try_only_where_there_may_be_one(told: Any) -> None:
    """A session that is run once takes them away; one that may be put back leaves them."""
    assert told("never")["left"] == {}
    assert told("call")["left"] == {"room_token": "the-token"}


def test_daily_bots_are_called_as_pipecats_runner_calls_them(played: dict[str, Any]) -> None:
    """With Pipecat's own arguments: room, token, body and the session's id."""
    call = played["daily: call"]
    assert call["kind"] == "DailyRunnerArguments"
    arguments = call["arguments"]
    assert arguments["room_url"] == "https://greenroom.daily.co/gr-1"
    assert (arguments["token"], arguments["body"]) == ("the-token", {"lang": "de"})
    assert len(arguments["session_id"]) == 36
    assert (arguments["handle_sigint"], arguments["handle_sigterm"]) == (False, False)
    assert call["dialin"] is None


def test_livekit_bots_are_called_as_pipecats_runner_calls_them(played: dict[str, Any]) -> None:
    """With Pipecat's own arguments: server, room, token, body and the session's id."""
    call = played["livekit: call"]
    assert call["kind"] == "LiveKitRunnerArguments"
    arguments = call["arguments"]
    assert (arguments["url"], arguments["room_name"]) == ("wss://livekit.example", "gr-1")
    assert (arguments["token"], arguments["body"]) == ("the-token", {"lang": "de"})


def test_a_call_reaches_the_bot_as_pipecat_understands_it(played: dict[str, Any]) -> None:
    """What is added to the body of a call makes Pipecat's own transport connect it, as after Pipecat's webhook."""
    call = played["daily: hangs up"]
    assert call["dialin"] == {
        "call_id": "c-1",
        "call_domain": "d-1",
        "api_key": "the-key",
        "api_url": "https://daily.example/v1",
    }
    assert call["arguments"]["body"]["lang"] == "de"
    assert call["arguments"]["body"]["dialin_settings"]["From"] == "+15550101"


def test_a_caller_who_hangs_up_before_he_is_connected_has_left(played: dict[str, Any]) -> None:
    """The session doesn't wait for somebody who won't come; of one who is there, his leaving tells."""
    assert [each[1:] for each in played["daily: hung up"]["heard"]] == [
        ["disconnected", "client", 1000, "the caller has hung up"]
    ]
    assert [each[1] for each in played["daily: hangs up"]["heard"]] == ["connected"]


def test_a_bot_that_cant_join_has_lost_its_way(played: dict[str, Any]) -> None:
    """An error before the bot is in the room is final; one after that is the bot's own matter."""
    assert [each[1:] for each in played["daily: no room"]["heard"]] == [
        ["disconnected", "transport", 1006, "the bot couldn't join the room"]
    ]
    assert played["daily: trouble"]["heard"] == []


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
