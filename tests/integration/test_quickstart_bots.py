"""Bots in the shape of Pipecat's quickstarts, unmodified: under Pipecat's development runner, and offered here."""

import asyncio
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from greenroom.devtools import call
from greenroom.devtools.caller import RATE, Caller
from greenroom.runner.discovery import BotSpec, load
from greenroom.runner.session.attach import SETUP_VARIABLE
from tests.support import daily_room, daily_stub
from tests.support.api_world import eventually
from tests.support.carriers.exchange import running_exchange
from tests.support.carriers.phone import Phone
from tests.support.daily_stub import DailyStub
from tests.support.dev_runner import development_runner
from tests.support.openai_stub import CHAT, KEY, TRANSCRIPTIONS, Says, running_openai_stub
from tests.support.rtc_caller import RtcCaller, converse, over_http
from tests.support.workspace import ROOT

BOTS = ROOT / "tests/support/quickstart_bots"
QUESTION = "what time is it"


@pytest.mark.parametrize(
    ("bot", "transports"),
    [
        ("websocket", ("websocket",)),
        ("telephony", ("twilio", "telnyx", "plivo", "exotel")),
        ("webrtc", ("daily", "smallwebrtc")),
        ("daily", ("daily",)),
    ],
)
def test_a_quickstart_is_offered_for_what_it_takes(bot: str, transports: tuple[str, ...]) -> None:
    """Its file is imported as it is, and says by itself which transports it takes."""
    offer = load(BotSpec(name=bot, target=f"{BOTS / bot}_bot.py:bot")).offer
    assert (offer.error, offer.transports) == (None, transports)


def test_a_quickstart_whose_transport_is_not_installed_says_so() -> None:
    """LiveKit is an extra: without it the offer names what is missing, with it the bot is offered for livekit."""
    offer = load(BotSpec(name="livekit", target=f"{BOTS}/livekit_bot.py:bot")).offer
    if find_spec("livekit") is None:
        assert offer.error is not None
        assert "No module named 'livekit'" in offer.error
    else:
        assert (offer.error, offer.transports) == (None, ("livekit",))


async def test_the_websocket_quickstart_runs_under_the_development_runner(tmp_path: Path) -> None:
    """It greets who connects, hears what is said, and answers."""
    async with running_openai_stub() as stub:
        stub.default_transcript = QUESTION
        stub.default_reply = Says("Hello there my friend.")
        keys = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": stub.url}
        async with development_runner(BOTS / "websocket_bot.py", "websocket", tmp_path, **keys) as address:
            held = await Caller(f"ws://{address}/ws-client", call.spoken([QUESTION]), linger_s=0.5).run()
    assert len(held.heard) > RATE  # half a second in 16 bit
    assert stub.asked(TRANSCRIPTIONS)
    assert [QUESTION in str(request.body["messages"]) for request in stub.asked(CHAT)][-1]


async def test_the_webrtc_quickstart_runs_under_the_development_runner(tmp_path: Path) -> None:
    """A peer connection over the machine's own addresses: it greets, hears what is said, and answers."""
    async with running_openai_stub() as stub:
        stub.default_transcript = QUESTION
        stub.default_reply = Says("Hello there my friend.")
        keys = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": stub.url}
        async with (
            development_runner(BOTS / "webrtc_bot.py", "webrtc", tmp_path, **keys) as address,
            RtcCaller(over_http(f"http://{address}/api/offer")) as caller,
        ):
            [line] = call.spoken([QUESTION])
            await converse(caller, line.pcm)
    assert stub.asked(TRANSCRIPTIONS)
    assert [QUESTION in str(request.body["messages"]) for request in stub.asked(CHAT)][-1]


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo", "exotel"])
async def test_the_telephony_quickstart_runs_under_the_development_runner(tmp_path: Path, carrier: str) -> None:
    """It finds out who calls, greets, hears what is said in that carrier's messages, and answers in them.

    The caller hangs up first, so the bot has no call to end at the carrier; if it tried, that would come to the stub.
    """
    async with running_openai_stub() as stub, running_exchange(carrier) as exchange:
        stub.default_transcript = QUESTION
        stub.default_reply = Says("Hello there my friend.")
        keys = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": stub.url, "CARRIER_API_URL": exchange.url}
        account = {name.upper(): value for name, value in exchange.dialect.settings(exchange.url).items()}
        setup = {SETUP_VARIABLE: f"{ROOT}/tests/support/carriers/redirected.py"}
        async with development_runner(
            BOTS / "telephony_bot.py", carrier, tmp_path, **keys, **account, **setup
        ) as address:
            phone = Phone(exchange.dialect, exchange.leg())
            exchange.phones.append(phone)
            await phone.connect(f"ws://{address}/ws")
            await heard(phone, 0.1)
            [line] = call.spoken([QUESTION])
            await phone.say(line.pcm)
            await heard(phone, phone.voiced_s + 0.3)
            await phone.hang_up()
    assert stub.asked(TRANSCRIPTIONS)
    assert [QUESTION in str(request.body["messages"]) for request in stub.asked(CHAT)][-1]
    assert exchange.requests == []


async def heard(phone: Phone, seconds: float) -> None:
    """Wait until so much was heard in all."""
    async with asyncio.timeout(30):
        while phone.voiced_s < seconds:
            assert not phone.closed.is_set()
            await asyncio.sleep(0.05)


async def test_the_daily_quickstart_runs_under_the_development_runner(tmp_path: Path) -> None:
    """A room is made for it at Daily's stub, and it greets who comes there; Daily's library is a fake."""
    told, daily = tmp_path / "room.jsonl", DailyStub()
    async with running_openai_stub() as stub, daily.listening(daily_stub.BASE) as url:
        keys = {
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": stub.url,
            "DAILY_API_KEY": daily_stub.KEY,
            "DAILY_API_URL": url,
            "PYTHONPATH": str(ROOT),
        }
        through = ("-m", "tests.support.daily_room", str(told))
        async with (
            development_runner(BOTS / "daily_bot.py", "daily", tmp_path, through=through, **keys) as address,
            httpx.AsyncClient(base_url=f"http://{address}") as client,
        ):
            started = await client.post("/start", json={"createDailyRoom": True})
            assert started.status_code == httpx.codes.OK, started.text
            await eventually(lambda: _left(told), lambda left: left == ["ada", daily_room.BOT_ID])
    [joined] = [each for each in daily_room.read(told) if "joined" in each]
    assert (joined["joined"], joined["token"]) == (started.json()["dailyRoom"], started.json()["dailyToken"])
    assert [room["url"] for room in daily.rooms.values()] == [joined["joined"]]


async def _left(told: Path) -> list[str]:
    """Return who has left the room, in order: its guest does when he has heard enough."""
    return [each["left"] for each in daily_room.read(told) if "left" in each]
