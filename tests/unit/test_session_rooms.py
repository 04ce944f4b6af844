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


# Whom to call: two numbers, and how long each is rung.
_NUMBERS: Final = '[{"phoneNumber":"+15550100","callerId":"id-1"},{"sipUri":"sip:ada@example.org"}]'
_CALLEE: Final = {"id": "call-1", "info": {"userId": "greenroom-callee"}}
_OPERATOR: Final = {"id": "call-1", "info": {"userId": "greenroom-operator"}}
_RINGS: Final = ["event", "_on_participant_joined", _CALLEE]


def _says(kind: str, call: str | None, **more: Any) -> list[Any]:
    return ["event", f"_on_dialout_{kind}", {**({"sessionId": call} if call else {}), **more}]


def _dials(steps: list[list[Any]], numbers: str = _NUMBERS) -> Scenario:
    secrets = {"room_token": "the-token", "dialout_settings": numbers}
    info = {**CASES["daily"].info, "ring_timeout_s": "20"}
    return _scenario("daily", [_JOINS, *steps], secrets=secrets, info=info)


_ANSWERS: Final = [_says("connected", "call-1"), _RINGS, ["wait", 3], _says("answered", "call-1"), ["wait", 1]]
_REACHED: Final = [_JOINS, _COMES, ["operator", "+15550111", 20], ["event", "_on_participant_joined", _OPERATOR]]
_DIALS: Final[dict[str, Scenario]] = {
    "dials: answered": _dials([*_ANSWERS, ["event", "_on_participant_left", _CALLEE, "leftCall"], ["wait"]]),
    "dials: second": _dials(
        [*_ANSWERS[:2], _says("error", "call-1", errorMsg="Busy Here"), ["wait", 1], _says("answered", "call-2")]
    ),
    "dials: joins late": _dials([_says("answered", "call-1"), _RINGS]),
    "dials: nobody": _dials([*_ANSWERS[:2], ["wait", 21], ["wait", 21]]),
    "dials: busy": _dials([_says("stopped", "call-1"), ["wait", 1], _says("error", "call-2", errorMsg="486 Busy")]),
    "dials: refused": _dials([["wait", 1]], '[{"sipUri":"sip:refuse@example.org"}]'),
    "dials: fails": _dials([_says("error", None, errorMsg="no route"), ["wait", 1]], '[{"sipUri":"sip:a@b.example"}]'),
    "dials: somebody": _dials([_COMES, _says("stopped", "call-1"), ["wait", 1], _says("stopped", "call-2")]),
    "dials: ends": _dials([*_ANSWERS[:2], ["prepare_to_close", 1000, "stopped"], ["wait", 1], ["close"]]),
    "dials: others": _dials([_says("answered", "of-the-bot"), _says("stopped", "of-the-bot"), ["wait", 1]]),
    "operator: answers": _scenario(
        "daily", [*_REACHED, _says("answered", "call-1"), ["apart", True], ["apart", False], ["wait", 1]]
    ),
    "operator: never": _scenario("daily", [*_REACHED, ["wait", 21], _LEAVES, ["wait"]]),
    "operator: hangs up": _scenario("daily", [*_REACHED, _says("stopped", "call-1"), ["wait", 1]]),
    "operator: nobody": _scenario("daily", [_JOINS, ["operator", "+15550111", 20], ["wait", 1]]),
    "voicemail": _scenario("daily", [_JOINS], info={**CASES["daily"].info, "voicemail_detection": '{"fast":true}'}),
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
    return play_rooms(_scenarios("daily") | _scenarios("livekit") | _DAILY | _DIALS)


def _dialled(told: Told) -> list[dict[str, Any]]:
    return [asked[1] for asked in told.more["asked"] if asked[0] == "start_dialout"]


def _hung_up(told: Told) -> list[str]:
    return [asked[1] for asked in told.more["asked"] if asked[0] == "stop_dialout"]


def test_somebody_who_is_called_is_there_once_he_has_picked_up(played: dict[str, Told]) -> None:
    """While his phone rings he is in the room and isn't the session's user; whichever Daily says first."""
    told = played["dials: answered"]
    assert told.heard == [["connected", "call-1"], ["disconnected", "client", 1000, "the room is empty"]]
    assert told.at[0] == pytest.approx(3, abs=0.1)
    assert _dialled(told) == [{"phoneNumber": "+15550100", "callerId": "id-1", "userId": "greenroom-callee"}]
    assert _hung_up(told) == []
    assert played["dials: joins late"].heard == [["connected", "call-1"]]
    news = [kind for kind, _ in told.news]
    assert news == [
        "dialout_connected",
        "participant_joined",
        "dialout_answered",
        "participant_left",
    ]


def test_nobody_is_called_twice(played: dict[str, Told]) -> None:
    """Should its process be lost, the next one finds the way into the room, and nobody to call."""
    assert played["dials: answered"].left == {"room_token": "the-token"}


def test_the_next_one_is_called_where_one_isnt_reached(played: dict[str, Told]) -> None:
    """One after the other, and no more once somebody has answered."""
    told = played["dials: second"]
    assert [number.get("sipUri") for number in _dialled(told)] == [None, "sip:ada@example.org"]
    assert told.heard == []
    assert "over" not in str(told.heard)


@pytest.mark.parametrize(
    ("title", "reason", "detail"),
    [
        ("nobody", "call-not-answered", "Nobody picked up in 20 s."),
        ("busy", "call-busy", "486 Busy"),
        ("refused", "call-not-put-through", "no dial-out here"),
        ("fails", "call-not-put-through", "no route"),
    ],
)
def test_a_session_that_reaches_nobody_is_over(played: dict[str, Told], title: str, reason: str, detail: str) -> None:
    """For what became of the last call; a phone that rings in vain is hung up."""
    told = played[f"dials: {title}"]
    assert told.heard == [["over", reason, detail]]
    assert _hung_up(told) == (["call-1", "call-2"] if title == "nobody" else [])


def test_a_call_in_vain_ends_nothing_while_somebody_is_there(played: dict[str, Told]) -> None:
    """Who came with a token of his own goes on speaking with the bot."""
    assert played["dials: somebody"].heard == [["connected", "ada"]]


def test_a_phone_that_rings_is_hung_up_when_the_session_ends(played: dict[str, Told]) -> None:
    """Nobody picks up to find himself alone in a room, and the other number isn't called."""
    told = played["dials: ends"]
    assert (len(_dialled(told)), _hung_up(told), told.heard) == (1, ["call-1"], [])


def test_calls_of_the_bots_own_decide_nothing(played: dict[str, Told]) -> None:
    """What Daily says of a call that has another id is told and isn't the session's."""
    told = played["dials: others"]
    assert (told.heard, len(_dialled(told))) == ([], 1)


def test_an_operator_isnt_the_sessions_user(played: dict[str, Told]) -> None:
    """He is called by the number that is named; whether he comes or goes, the call is the caller's."""
    told = played["operator: answers"]
    assert _dialled(told) == [{"phoneNumber": "+15550111", "displayName": "operator", "userId": "greenroom-operator"}]
    assert (told.heard, told.more["transferred"]) == ([["connected", "ada"]], "answered")
    never = played["operator: never"]
    assert (never.more["transferred"], _hung_up(never)) == ("transfer-failed", ["call-1"])
    assert never.heard == [["connected", "ada"], ["disconnected", "client", 1000, "the room is empty"]]
    assert played["operator: hangs up"].more["transferred"] == "transfer-failed"
    assert played["operator: hangs up"].heard == [["connected", "ada"]]
    assert played["operator: nobody"].more == {}


def test_what_the_operator_is_told_the_caller_doesnt_hear(played: dict[str, Told]) -> None:
    """Each hears only the bot, or nobody, until they are put together again, whatever else they may hear."""
    updates = [
        asked[1] for asked in played["operator: answers"].more["asked"] if asked[0] == "update_remote_participants"
    ]

    def hears(by: dict[str, bool]) -> dict[str, Any]:
        return {"permissions": {"canReceive": {"byParticipantId": by}}}

    assert updates == [
        {"ada": hears({"call-1": False, "bot": False}), "call-1": hears({"ada": False})},
        {"ada": hears({}), "call-1": hears({})},
    ]


def test_the_bot_is_told_to_look_out_for_voicemail(played: dict[str, Told]) -> None:
    """By its body, as Pipecat Cloud's bots are; and it finds nobody to call there, since that is done for it."""
    assert played["voicemail"].arguments["body"] == {"lang": "de", "voicemail_detection": {"fast": True}}
    assert played["dials: answered"].arguments["body"] == {"lang": "de"}


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
