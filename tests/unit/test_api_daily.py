"""Rooms at Daily: what is asked of Daily, and what of its answers becomes of it."""

import base64
import json
from collections.abc import Coroutine
from typing import Any

import msgspec
import pytest

from greenroom.api.schemas import Transport
from greenroom.api.transports import daily_options
from greenroom.api.transports.base import Prepared
from greenroom.api.transports.daily import DailyAdapter, RoomNotFound
from greenroom.api.transports.daily_rest import DailyRest
from greenroom.api.transports.provider import Provider, ProviderRefused
from greenroom.common.call_data import CallData
from greenroom.common.errors import Forbidden, InvalidBody
from greenroom.common.ids import uuid7
from greenroom.common.lifecycle import Limits, Session
from tests.support.adapter_cases import ASKED
from tests.support.daily_stub import KEY, DailyStub
from tests.support.leaping_time import LoopClock, run_virtual


class _World:
    """An adapter before a stub; its calls take no time."""

    def __init__(self, *, bring: tuple[str, ...] = ("*",), key: str = KEY, dialout: bool = False) -> None:
        self.clock = LoopClock()
        self.stub = DailyStub(now=lambda: self.clock.now().timestamp())
        provider = Provider(
            "Daily",
            "https://daily.example/v1",
            headers={"authorization": f"Bearer {key}"},
            transport=self.stub.transport(),
        )
        self.adapter = DailyAdapter(
            DailyRest(provider),
            api_key=key,
            api_url="https://daily.example/v1",
            bring=bring,
            dialout=dialout,
            clock=self.clock,
        )

    def session(self, **fields: Any) -> Session:
        """Return a session that isn't requested yet."""
        now = self.clock.now()
        values: dict[str, Any] = {"agent": "echo", "bot": "echo", "transport": "daily", "tenant": "acme", **fields}
        return Session(id=uuid7(), requested_at=now, queue_deadline_at=now, **values)

    async def prepare(self, options: dict[str, Any], **fields: Any) -> tuple[Session, Prepared]:
        """Prepare a session."""
        session = self.session(**fields)
        return session, await self.adapter.prepare(ASKED, session, options)

    async def answer(self, options: dict[str, Any]) -> Transport:
        """Prepare a session and answer its caller."""
        session, prepared = await self.prepare(options)
        return await self.adapter.answer(ASKED, session.id, prepared.public, again=False)


def _play(scenario: Coroutine[Any, Any, None]) -> None:
    run_virtual(scenario)


def _claims(token: str | None) -> dict[str, Any]:
    assert token is not None
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def _pointer(options: dict[str, Any]) -> str:
    with pytest.raises(InvalidBody) as refused:
        daily_options.read(options)
    return refused.value.errors[0].pointer


def test_a_room_is_private_small_and_expires() -> None:
    """Nobody gets in without a token, and the room goes by itself an hour after the session's longest end."""

    async def scenario() -> None:
        world = _World()
        session, prepared = await world.prepare({}, limits=Limits(max_duration_s=600))
        room = world.stub.rooms[f"gr-{session.id}"]
        config = room["config"]
        # It may lose its runner before anybody came, and begin anew on another.
        longest_s = 30 + 30 + 600 + 10 + (30 + 120 + 30) + 3600
        assert room["privacy"] == "private"
        assert config["exp"] == pytest.approx(session.requested_at.timestamp() + longest_s, abs=1)
        assert (config["eject_at_room_exp"], config["enable_prejoin_ui"]) == (True, False)
        assert (config["max_participants"], config["enable_knocking"]) == (3, False)
        assert prepared.info == {"room": room["name"], "room_url": room["url"]}

    _play(scenario())


def test_the_bot_owns_the_room_and_the_user_only_talks_in_it() -> None:
    """Both tokens are for this room and put their holders out as it expires; the user's only lets him talk."""

    async def scenario() -> None:
        world = _World()
        session, prepared = await world.prepare({"user": {"user_name": "Ada", "can_send": ["audio"]}})
        answer = await world.adapter.answer(ASKED, session.id, prepared.public, again=False)
        bot, user = _claims(prepared.secrets["room_token"]), _claims(answer.token)
        exp = world.stub.rooms[prepared.info["room"]]["config"]["exp"]
        assert {bot["r"], user["r"]} == {prepared.info["room"]}
        assert {bot["exp"], user["exp"]} == {exp}
        assert (bot["ejt"], user["ejt"]) == (True, True)
        assert (bot["o"], user["o"]) == (True, False)
        assert user["p"] == {"hasPresence": True, "canSend": ["audio"], "canAdmin": False}
        assert (user["u"], user["ss"], user["erui"]) == ("Ada", False, False)

    _play(scenario())


def test_each_answer_has_a_token_of_its_own() -> None:
    """A request that is repeated gets another token for the same room; after the room's end it gets none."""

    async def scenario() -> None:
        world = _World()
        session, prepared = await world.prepare({})
        first = await world.adapter.answer(ASKED, session.id, prepared.public, again=False)
        second = await world.adapter.answer(ASKED, session.id, prepared.public, again=True)
        assert first.url == second.url == prepared.info["room_url"]
        assert _claims(first.token)["jti"] != _claims(second.token)["jti"]
        over = msgspec.structs.replace(prepared.public, expires_at=world.clock.now())
        assert (await world.adapter.answer(ASKED, session.id, over, again=True)).token is None

    _play(scenario())


def test_what_daily_is_asked_for_is_what_was_wished() -> None:
    """Geography, size, recording, dial-out and SIP are passed on under Daily's own names."""

    async def scenario() -> None:
        world = _World()
        sip = {"display_name": "desk", "num_endpoints": 2, "codecs": {"audio": ["OPUS"]}}
        room = {"geo": "eu-central-1", "max_participants": 7, "enable_recording": "cloud", "enable_dialout": True}
        answer = await world.answer({"room": {**room, "sip": sip}})
        config = world.stub.rooms[answer.info["room"]]["config"]
        assert {name: config[name] for name in room} == room
        assert config["sip"] == {"video": False, "sip_mode": "dial-in", **sip}
        assert answer.sip_uri == f"sip:{config['sip_uri']['endpoint']}"
        assert "sip_uri" not in answer.info

    _play(scenario())


_BUCKET: dict[str, Any] = {
    "bucket_name": "acme-calls",
    "bucket_region": "eu-central-1",
    "assume_role_arn": "arn:aws:iam::123456789012:role/daily/Calls",
}


def test_recordings_and_transcripts_go_to_the_bucket_that_is_named() -> None:
    """Under Daily's names, closed to Daily's own API unless that is asked for; SIP has the provider that is named."""

    async def scenario() -> None:
        world = _World()
        room = {
            "recordings_bucket": {**_BUCKET, "allow_api_access": True},
            "transcription_bucket": _BUCKET,
            "enable_transcription_storage": True,
            "sip": {"provider": "daily"},
        }
        answer = await world.answer({"room": room})
        config = world.stub.rooms[answer.info["room"]]["config"]
        assert config["recordings_bucket"] == {**_BUCKET, "allow_api_access": True}
        assert config["transcription_bucket"] == {**_BUCKET, "allow_api_access": False}
        assert (config["sip"]["provider"], config["enable_transcription_storage"]) == ("daily", True)
        plain = world.stub.rooms[(await world.answer({"room": {"sip": {}}})).info["room"]]["config"]
        assert not {"recordings_bucket", "transcription_bucket", "enable_transcription_storage"} & set(plain)
        assert "provider" not in plain["sip"]

    _play(scenario())


def test_whom_the_user_hears_and_since_when_he_gets_in_is_in_each_of_his_tokens() -> None:
    """Whose media get to him goes by `user_id`, and the bot has one; `nbf` is no later than the room's end."""

    async def scenario() -> None:
        world = _World()
        nbf = int(world.clock.now().timestamp()) + 60
        receive = {"base": False, "by_user_id": {"greenroom-bot": True, "ada": {"audio": True, "screenVideo": True}}}
        session, prepared = await world.prepare({"user": {"can_receive": receive, "nbf": nbf}})
        for again in (False, True):
            claims = _claims((await world.adapter.answer(ASKED, session.id, prepared.public, again=again)).token)
            assert claims["nbf"] == nbf
            ada = {"audio": True, "video": False, "screenAudio": False, "screenVideo": True}
            assert claims["p"]["canReceive"] == {"base": False, "byUserId": {"greenroom-bot": True, "ada": ada}}
        bot = _claims(prepared.secrets["room_token"])
        assert (bot["ud"], "nbf" in bot) == ("greenroom-bot", False)
        with pytest.raises(InvalidBody) as late:
            await world.prepare({"user": {"nbf": nbf + 10**6}})
        assert late.value.errors[0].pointer == "/transport_options/user/nbf"

    _play(scenario())


def test_who_is_called_is_a_secret_and_the_room_may_call() -> None:
    """The session's process gets whom to call, one after the other, and how long; nobody else their numbers."""

    async def scenario() -> None:
        world = _World()
        numbers = [{"phoneNumber": "+15550100", "callerId": "id-1"}, {"sipUri": "sip:ada@example.org"}]
        options = {"dialout_settings": numbers, "ring_timeout_s": 20, "voicemail_detection": {"testInPrebuilt": False}}
        _, prepared = await world.prepare(options)
        assert world.stub.rooms[prepared.info["room"]]["config"]["enable_dialout"] is True
        assert json.loads(prepared.secrets["dialout_settings"]) == numbers
        assert (prepared.info["ring_timeout_s"], prepared.carrier) == ("20", "daily")
        assert prepared.info["voicemail_detection"] == '{"testInPrebuilt":false}'
        assert prepared.call == CallData(carrier="daily", direction="outbound")
        assert "555" not in str(prepared.info) + str(prepared.public)

    _play(scenario())


@pytest.mark.parametrize(
    ("options", "fields", "pointer"),
    [
        ({}, {"body": {"dialout_settings": [{"phoneNumber": "+15550100"}]}}, "/dialout_settings"),
        ({}, {"config": {"dialout_settings": [{"phoneNumber": "+15550100"}]}}, "/dialout_settings"),
        ({"ring_timeout_s": 60}, {"limits": Limits(join_timeout_s=60)}, "/ring_timeout_s"),
    ],
)
def test_nobody_is_called_twice_or_longer_than_is_waited(
    options: dict[str, Any], fields: dict[str, Any], pointer: str
) -> None:
    """A bot that finds numbers in its body calls them itself; and a session that nobody has joined ends."""

    async def scenario() -> None:
        world = _World()
        with pytest.raises(InvalidBody) as refused:
            await world.prepare({"dialout_settings": [{"phoneNumber": "+15550100"}], **options}, **fields)
        assert refused.value.errors[0].pointer == f"/transport_options{pointer}"
        assert not world.stub.rooms
        # What is in the body alone is the bot's own matter.
        if not options:
            await world.prepare({}, **fields)

    _play(scenario())


@pytest.mark.parametrize("dialout", [True, False])
def test_a_callers_room_may_call_where_the_account_may(dialout: bool) -> None:  # noqa: FBT001
    """So that he can be handed over to an operator; an account that may not would be refused the room."""

    async def scenario() -> None:
        world = _World(dialout=dialout)
        _, call = await world.prepare({"dialin": {"call_id": "c-1", "call_domain": "d-1"}})
        _, plain = await world.prepare({})
        configs = [world.stub.rooms[each.info["room"]]["config"] for each in (call, plain)]
        assert ["enable_dialout" in config for config in configs] == [dialout, False]

    _play(scenario())


def test_a_room_outlives_a_session_that_was_handed_over_while_somebody_is_in_it() -> None:
    """And lasts for as long as was asked for; the room of any other session isn't needed any more."""

    async def scenario() -> None:
        world = _World()
        session, prepared = await world.prepare({"after_transfer_s": 7200}, limits=Limits(max_duration_s=600))
        name = prepared.info["room"]
        # To its end, on another runner before that, the margin, and what was asked for.
        longest_s = (30 + 30 + 600 + 10) + (30 + 30 + 120) + 3600 + 7200
        exp = world.stub.rooms[name]["config"]["exp"]
        assert exp == pytest.approx(session.requested_at.timestamp() + longest_s, abs=1)
        over = msgspec.structs.replace(session, reason="transferred")
        world.stub.present[name] = ["caller", "operator"]
        assert await world.adapter.in_use(over, {"room": name}) is True
        assert (
            await world.adapter.in_use(msgspec.structs.replace(session, reason="client-left"), prepared.info) is False
        )
        world.stub.present[name] = []
        assert await world.adapter.in_use(over, {"room": name}) is False
        assert await world.adapter.in_use(over, {"room": "gr-gone"}) is False

    _play(scenario())


@pytest.mark.parametrize("many", [1, 2, 3])
def test_a_room_that_is_full_is_refused(many: int) -> None:
    """The bot couldn't get in; that one more fits is enough, since the user may be there already."""

    async def scenario() -> None:
        world = _World()
        url = world.stub.add_room("standup", max_participants=2)
        world.stub.present["standup"] = ["somebody"] * many
        if many == 1:
            assert (await world.prepare({"room_url": url}))[1].info["room_url"] == url
            return
        with pytest.raises(RoomNotFound) as refused:
            await world.prepare({"room_url": url})
        assert refused.value.detail.endswith("It is full: 2 are in it, and that is its `max_participants`.")

    _play(scenario())


def test_a_call_that_waits_gets_a_room_with_sip_and_its_settings() -> None:
    """The bot gets what Pipecat connects the call with; the ledger knows the id of the call and nobody's number."""

    async def scenario() -> None:
        world = _World()
        dialin = {"call_id": "c-1", "call_domain": "d-1", "to": "+15550100", "from": "+15550101"}
        session, prepared = await world.prepare({"dialin": dialin})
        config = world.stub.rooms[prepared.info["room"]]["config"]
        assert config["sip"]["display_name"] == "+15550101"
        assert prepared.info["call_id"] == "c-1"
        assert "+1555" not in str(prepared.info) + str(prepared.public)
        settings = json.loads(prepared.secrets["dialin_settings"])
        assert (settings["call_id"], settings["To"], settings["From"]) == ("c-1", "+15550100", "+15550101")
        assert prepared.secrets["daily_api_key"] == KEY
        made = len(world.stub.tokens)
        assert (await world.adapter.answer(ASKED, session.id, prepared.public, again=False)).token is None
        assert len(world.stub.tokens) == made

    _play(scenario())


def test_a_room_that_is_brought_is_used_and_left() -> None:
    """It isn't changed and not deleted; tokens are for it, and put their holders out when the session is over."""

    async def scenario() -> None:
        world = _World()
        url = world.stub.add_room("standup", max_participants=20)
        before = json.dumps(world.stub.rooms)
        answer = await world.answer({"room_url": url + "/"})
        assert answer.url == url
        assert _claims(answer.token)["ejt"] is True
        assert world.adapter.plan(world.session(), {"room_url": url}) is None
        assert world.adapter.room({"room_url": url}) == url
        assert json.dumps(world.stub.rooms) == before

    _play(scenario())


def test_a_room_that_isnt_there_is_named() -> None:
    """Unknown, expired and foreign rooms are 422 with a pointer; nothing is made."""

    async def scenario() -> None:
        world = _World()
        world.stub.add_room("old", exp=world.clock.now().timestamp() - 1)
        world.stub.add_room("here")
        for url in ("https://greenroom.daily.co/none", "https://greenroom.daily.co/old", "https://other.daily.co/here"):
            with pytest.raises(RoomNotFound) as missing:
                await world.prepare({"room_url": url})
            assert missing.value.errors[0].pointer == "/transport_options/room_url"
        assert not world.stub.tokens

    _play(scenario())


# Of a session that may wait for 30 s, and then take 20 s to start.
_LIMITS = Limits(queue_timeout_s=30, start_timeout_s=20)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"nbf": 6}, "It opens in 6 s, and the session may start at once."),
        ({"nbf": 3600, "exp": 7200}, "It opens in 3600 s, and the session may start at once."),
        ({"exp": 49}, "It expires in 49 s, and the session has 50 s to start."),
        ({"nbf": -60, "exp": 1}, "It expires in 1 s, and the session has 50 s to start."),
        ({"max_participants": 1}, "It doesn't hold two: the bot, and somebody to speak with."),
    ],
)
def test_a_room_that_the_session_cant_take_place_in_is_refused(config: dict[str, int], why: str) -> None:
    """Closed when the bot may come, gone before it is sure to be there, or too small: 422 that says which."""

    async def scenario() -> None:
        world = _World()
        url = world.stub.add_room("standup", **_from_now(world, config))
        with pytest.raises(RoomNotFound) as refused:
            await world.prepare({"room_url": url}, limits=_LIMITS)
        (problem,) = refused.value.errors
        assert (refused.value.status, problem.pointer, problem.detail) == (422, "/transport_options/room_url", why)
        assert not world.stub.tokens

    _play(scenario())


@pytest.mark.parametrize(
    "config",
    [{}, {"nbf": -60}, {"nbf": 4, "exp": 3600}, {"exp": 51}, {"max_participants": 2}],
    ids=["unbounded", "open", "its clock is ahead", "just long enough", "for two"],
)
def test_a_room_that_it_can_take_place_in_is_taken(config: dict[str, int]) -> None:
    """Open from now until the session has started at the latest, and for two; how long it then lasts is its own."""

    async def scenario() -> None:
        world = _World()
        url = world.stub.add_room("standup", **_from_now(world, config))
        _, prepared = await world.prepare({"room_url": url}, limits=_LIMITS)
        assert prepared.info["room_url"] == url

    _play(scenario())


def _from_now(world: _World, config: dict[str, int]) -> dict[str, Any]:
    now = world.clock.now().timestamp()
    return {name: value + now if name in {"nbf", "exp"} else value for name, value in config.items()}


@pytest.mark.parametrize("privacy", ["public", "private"])
def test_whether_a_room_that_is_brought_is_public_is_shown(privacy: str) -> None:
    """A public room is taken, since it is Daily's default; the answer and the session say that anybody gets in."""

    async def scenario() -> None:
        world = _World()
        url = world.stub.add_room("standup", privacy)
        session, prepared = await world.prepare({"room_url": url})
        answer = await world.adapter.answer(ASKED, session.id, prepared.public, again=False)
        assert (answer.info["privacy"], prepared.info["privacy"]) == (privacy, privacy)

    _play(scenario())


def test_which_rooms_may_be_brought_is_a_setting() -> None:
    """`{tenant}` in a pattern is who asks: tenants don't get into each other's rooms."""

    async def scenario() -> None:
        world = _World(bring=("{tenant}-*",))
        mine, other = world.stub.add_room("acme-1"), world.stub.add_room("bank-1")
        assert (await world.answer({"room_url": mine})).token
        with pytest.raises(Forbidden):
            await world.prepare({"room_url": other})

    _play(scenario())


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        ({"room": {"max_participants": 1}}, "/transport_options/room/max_participants"),
        ({"room": {"geo": "moon"}}, "/transport_options/room/geo"),
        ({"room": {"privacy": "public"}}, "/transport_options/room"),
        ({"room": {"sip": {"sip_mode": "dial-out"}}}, "/transport_options/room/sip/sip_mode"),
        ({"user": {"can_send": ["audio", "smell"]}}, "/transport_options/user/can_send/1"),
        ({"user": {"is_owner": True}}, "/transport_options/user"),
        ({"user": {"user_id": "greenroom-bot"}}, "/transport_options/user/user_id"),
        ({"dialin": {"call_id": "c"}}, "/transport_options/dialin"),
        ({"room": {"sip": {"provider": "acme"}}}, "/transport_options/room/sip/provider"),
        (
            {"room": {"recordings_bucket": {"bucket_name": "x"}}},
            "/transport_options/room/recordings_bucket/bucket_name",
        ),
        ({"room": {"transcription_bucket": {}}}, "/transport_options/room/transcription_bucket"),
        ({"user": {"can_receive": {"base": "all"}}}, "/transport_options/user/can_receive/base"),
        ({"user": {"nbf": -1}}, "/transport_options/user/nbf"),
        ({"dialout_settings": [{}]}, "/transport_options/dialout_settings/0"),
        ({"dialout_settings": [{"phoneNumber": "15550100"}]}, "/transport_options/dialout_settings/0/phoneNumber"),
        ({"dialout_settings": [{"sipUri": "tel:1"}]}, "/transport_options/dialout_settings/0/sipUri"),
        (
            {"dialout_settings": [{"sipUri": "sip:a@b.example", "callerId": "c"}]},
            "/transport_options/dialout_settings/0/callerId",
        ),
        (
            {"dialout_settings": [{"sipUri": "sip:a@b.example", "phoneNumber": "+15550100"}]},
            "/transport_options/dialout_settings/0",
        ),
        ({"dialout_settings": [{"phoneNumber": "+15550100"}] * 6}, "/transport_options/dialout_settings"),
        (
            {"room_url": "https://greenroom.daily.co/x", "dialout_settings": [{"phoneNumber": "+15550100"}]},
            "/transport_options/dialout_settings",
        ),
        (
            {"dialin": {"call_id": "c", "call_domain": "d"}, "dialout_settings": [{"phoneNumber": "+15550100"}]},
            "/transport_options/dialout_settings",
        ),
        ({"room_url": "http://greenroom.daily.co/x"}, "/transport_options/room_url"),
        ({"room_url": "https://greenroom.daily.co/a/b"}, "/transport_options/room_url"),
        ({"room_url": "https://greenroom.daily.co/x?t=1"}, "/transport_options/room_url"),
        ({"room_url": "https://u@greenroom.daily.co/x"}, "/transport_options/room_url"),
        ({"room_url": "https://[::1/x"}, "/transport_options/room_url"),
        ({"room_url": "https://greenroom.daily.co/gr-0198"}, "/transport_options/room_url"),
        ({"room_url": "https://greenroom.daily.co/x", "room": {}}, "/transport_options/room"),
        (
            {"room_url": "https://greenroom.daily.co/x", "dialin": {"call_id": "c", "call_domain": "d"}},
            "/transport_options/dialin",
        ),
    ],
)
def test_options_that_cant_be_are_refused_where_they_are(options: dict[str, Any], pointer: str) -> None:
    """Each problem has a pointer; rooms of other sessions, owners and public rooms can't be asked for."""
    assert _pointer(options) == pointer


def test_what_daily_refuses_is_told_in_its_words() -> None:
    """A key that isn't known and a property that the account lacks are 502, in Daily's words and without the key."""

    async def scenario() -> None:
        with pytest.raises(ProviderRefused) as unknown:
            await _World(key="revoked").prepare({})
        assert unknown.value.detail == "Daily: HTTP 401 authentication-error"
        world = _World()
        world.stub.fail(400, body={"error": "invalid-request-error", "info": "dialout isn't enabled for the domain"})
        with pytest.raises(ProviderRefused) as refused:
            await world.prepare({"room": {"enable_dialout": True}})
        assert "dialout isn't enabled for the domain" in refused.value.detail
        world.stub.fail(200, body={"unexpected": True})
        with pytest.raises(ProviderRefused):
            await world.prepare({})

    _play(scenario())


def test_deleting_a_room_that_is_gone_is_no_error() -> None:
    """Deleted by hand, expired or never made: there is nothing to do."""

    async def scenario() -> None:
        world = _World()
        world.stub.add_room("gr-old", exp=world.clock.now().timestamp() - 1)
        for room in ("gr-old", "gr-none"):
            await world.adapter.release("acme", "s", {"room": room})
        assert world.stub.calls("DELETE") == 2

    _play(scenario())
