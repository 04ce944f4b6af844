"""Phone calls over each carrier: its own wire format, our api, and real session processes."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import numpy as np
import pytest

from greenroom.api.carriers.references import reference
from greenroom.common.lifecycle import Outcome, State
from tests.support.api_world import eventually, problem_of, until
from tests.support.bot_line import spoken
from tests.support.carriers.exchange import CALLER, CARRIERS, NUMBER
from tests.support.carriers.phone import RATE
from tests.support.carriers.world import CarrierWorld, carrier_world
from tests.support.session_rig import HostProcess
from tests.support.telephony_bots import GREETING_S, LONG_S

# Those that can be told to wait and ask again.
HOLDING = tuple(name for name in CARRIERS if name != "exotel")
# Those with an API that ends calls.
HANGING_UP = HOLDING
# What was added to a call, and those that say so when its media begins.
ADDED = {"campaign": "7", "lang": "en"}
ADDING = ("twilio", "exotel")


@pytest.fixture(params=CARRIERS)
async def world(
    request: pytest.FixtureRequest, host: HostProcess, nats_url: str, database: str
) -> AsyncGenerator[CarrierWorld]:
    """Each carrier, and us."""
    async with carrier_world(request.param, host, nats_url, database) as world:
        yield world


def hertz(pcm: bytes) -> float:
    """Return the strongest frequency of some audio."""
    samples = np.frombuffer(pcm, dtype="<i2").astype(float)
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * RATE / len(samples))


def voiced(pcm: bytes | bytearray) -> float:
    """Return for how long something is heard, in seconds."""
    samples = np.abs(np.frombuffer(bytes(pcm), dtype="<i2").astype(int))
    frames = samples[: len(samples) // 160 * 160].reshape(-1, 160)
    return float((frames.max(axis=1) > 500).sum() * 0.02)


async def test_a_call_is_answered_heard_and_hung_up_by_the_caller(world: CarrierWorld) -> None:
    """The bot greets, keys reach it and are told in events, and the session ends when the caller puts it down."""
    await world.number()
    phone = await world.exchange.call(world.api.url)
    await until(lambda: voiced(phone.heard) > GREETING_S * 0.9)
    assert abs(hertz(bytes(phone.heard)) - 200) < 10
    await phone.press("4")
    await phone.hang_up()
    session = await world.ended((await world.only_session()).id)
    assert (session.outcome, session.reason) == (Outcome.COMPLETED, "client-left")
    assert session.transport_info["call_id"] == phone.leg.call_id
    assert session.carrier == world.name
    (pressed,) = await world.events(session, "dtmf")
    assert (pressed.data["digits"], pressed.data["direction"]) == ("4", "in")


async def test_the_session_knows_its_call(world: CarrierWorld) -> None:
    """In the same words for all carriers: before the media is there, with it, and in what is stored afterwards."""
    world.exchange.parameters = ADDED
    await world.number(body={"lang": "de"})
    phone = await world.exchange.call(world.api.url)
    session = await world.only_session()
    known = {"carrier": world.name, "direction": "inbound", "call_id": phone.leg.call_id, "from": CALLER, "to": NUMBER}
    requested = (await world.api.ledger.history("default", session.id))[0].session
    assert msgspec.to_builtins(requested.call) == {**known, "stream_id": None, "body": {}}
    told = {**known, "stream_id": phone.leg.stream_id, "body": ADDED if world.name in ADDING else {}}

    async def shown() -> dict[str, Any]:
        return (await world.client.get(f"/v1/sessions/{session.id}")).json()["call"]

    await eventually(shown, lambda call: call == told)
    await until(lambda: voiced(phone.heard) > GREETING_S * 0.9)
    await phone.hang_up()
    await world.ended(session.id)
    await world.api.record()
    (stored,) = (await world.client.get("/v1/sessions")).json()["sessions"]
    assert (stored["call"], stored["body"]) == (told, {"lang": "de"})


async def test_an_interruption_empties_the_carriers_buffer(world: CarrierWorld) -> None:
    """What the bot had said ahead is thrown away by the carrier, not played, when the bot is interrupted."""
    await world.number()
    phone = await world.exchange.call(world.api.url)
    await until(lambda: voiced(phone.heard) > GREETING_S * 0.9)
    await phone.press("1")
    await until(lambda: voiced(phone.heard) > GREETING_S + 0.5)
    await phone.press("2")
    await until(lambda: phone.clears)
    heard = voiced(phone.heard)
    await phone.press("4")
    await until(lambda: phone.marks)
    assert heard < GREETING_S + LONG_S / 2
    assert voiced(phone.heard) - heard < 1
    await phone.hang_up()


async def test_marks_and_keys_go_out(world: CarrierWorld) -> None:
    """A mark under the stream's own id comes back when it was played; a key of the bot is heard as its tones."""
    await world.number()
    phone = await world.exchange.call(world.api.url)
    await until(lambda: voiced(phone.heard) > GREETING_S * 0.9)
    await phone.press("4")
    await until(lambda: phone.marks)
    assert phone.marks == ["said"]
    greeted = len(phone.heard)
    await phone.press("3")
    await until(lambda: voiced(phone.heard[greeted:]) > 0.1)
    await phone.hang_up()
    tones = np.frombuffer(bytes(phone.heard[greeted:]), dtype="<i2").astype(float)
    spectrum = np.abs(np.fft.rfft(tones))
    strongest = np.argsort(spectrum)[-40:] * RATE / len(tones)
    # The five: 770 Hz and 1336 Hz.
    assert any(abs(found - 770) < 15 for found in strongest)
    assert any(abs(found - 1336) < 15 for found in strongest)
    session = await world.ended((await world.only_session()).id)
    keys = await world.events(session, "dtmf")
    assert [(key.data["digits"], key.data["direction"]) for key in keys] == [("4", "in"), ("3", "in"), ("5", "out")]


async def test_the_bot_hangs_up(world: CarrierWorld) -> None:
    """When the bot ends, its stream is closed, and the carrier's call with it."""
    await world.number()
    phone = await world.exchange.call(world.api.url)
    await until(lambda: voiced(phone.heard) > GREETING_S * 0.9)
    await phone.press("#")
    await phone.closed.wait()
    session = await world.ended((await world.only_session()).id)
    assert session.outcome is Outcome.COMPLETED
    if world.name in HANGING_UP:
        # Twilio's is asked by the bot itself, the others' by the api once it sees that the session has ended.
        await eventually(lambda: _hung_up(world), lambda asked: asked == [phone.leg.call_id])


async def test_a_session_that_is_stopped_hangs_up(world: CarrierWorld) -> None:
    """Whoever stops a session by our API ends its call."""
    await world.number()
    phone = await world.exchange.call(world.api.url)
    await until(lambda: voiced(phone.heard) > GREETING_S * 0.9)
    session = await world.only_session()
    stopped = await world.client.post(f"/v1/sessions/{session.id}/stop")
    assert stopped.status_code == 202
    await phone.closed.wait()
    assert (await world.ended(session.id)).reason == "client-stop"


async def test_a_carrier_that_says_the_call_is_over_ends_the_session(world: CarrierWorld) -> None:
    """The end is an event with the carrier's words, and the call isn't hung up once more."""
    await world.number()
    phone = await world.exchange.call(world.api.url)
    await until(lambda: voiced(phone.heard) > GREETING_S * 0.9)
    url = f"{world.api.url}/v1/webhooks/{world.name}/status"
    for _ in range(2):
        assert (await world.exchange.tell(url, phone.leg, "completed")).status_code == 200
    session = await world.ended((await world.only_session()).id)
    assert (session.outcome, session.reason) == (Outcome.COMPLETED, "client-left")
    (told,) = await world.events(session, "call_status")
    assert told.data["status"] == "completed"
    assert told.data["call_id"] == phone.leg.call_id
    assert told.data["duration_s"] == 7


async def test_a_webhook_that_is_not_the_carriers_is_refused(world: CarrierWorld) -> None:
    """A wrong or missing signature is a problem, whatever is asked or told, and nothing has happened."""
    await world.number()
    leg, told = world.exchange.leg(), world.exchange.dialect.tells
    webhooks = f"{world.api.url}/v1/webhooks/{world.name}"
    await _refused(world, f"{webhooks}/answer", world.exchange.dialect.asks(leg))
    assert await world.sessions() == []
    phone = await world.exchange.call(world.api.url, leg)
    await until(lambda: voiced(phone.heard) > GREETING_S * 0.9)
    session = await world.only_session()
    secret = world.api.parts.telephony.adapters[world.name].carrier.secret
    of_call = f"{webhooks}/calls/{reference(secret, session.tenant, session.id)}"
    await _refused(world, f"{webhooks}/status", told(leg, "completed"))
    await _refused(world, f"{of_call}/status", told(leg, "completed"))
    await _refused(world, f"{of_call}/answer", world.exchange.dialect.asks(leg))
    machine = {"AnsweredBy": "machine_start", "Machine": "true"}
    await _refused(world, f"{of_call}/machine", world.exchange.dialect.asks(leg) | machine)
    assert await world.only_session() == session
    for kind in ("call_status", "call_answered_by"):
        assert await world.events(session, kind) == []
    await phone.hang_up()


async def _refused(world: CarrierWorld, url: str, fields: dict[str, Any]) -> None:
    proof = world.exchange.dialect.sign("POST", f"{world.api.url}/v1/webhooks/{world.name}/answer", fields)
    for sent_to, text in ((url, "AAAA"), (url, ""), (f"{url}?token=AAAA", "")):
        refused = await world.exchange.webhook(sent_to, fields, headers=dict.fromkeys(proof, text))
        assert problem_of(refused)["code"] == "webhook-unsigned", sent_to


async def test_a_webhook_that_comes_again_makes_no_second_session(world: CarrierWorld) -> None:
    """One call has one session and one media socket, however often the carrier asks."""
    await world.number()
    leg = world.exchange.leg()
    url = f"{world.api.url}/v1/webhooks/{world.name}/answer"
    first = await world.exchange.ask(url, leg)
    again = await world.exchange.ask(url, leg)
    assert again == first
    assert len(await world.sessions()) == 1


async def test_a_call_that_finds_no_slot_hears_that_the_line_is_busy(world: CarrierWorld) -> None:
    """It is refused within the carrier's time, and its session says why."""
    world.slots = 0
    await world.number(busy_text="Nobody is here.")
    answered = await world.exchange.ask(f"{world.api.url}/v1/webhooks/{world.name}/answer", world.exchange.leg())
    assert answered.kind == "refuse"
    assert answered.text == ("" if world.name == "exotel" else "Nobody is here.")
    session = await world.ended((await world.only_session()).id)
    assert (session.outcome, session.reason) == (Outcome.REJECTED, "line-busy")


@pytest.mark.parametrize("world", CARRIERS[:1], indirect=True)
async def test_a_call_to_a_suspended_tenant_hears_that_the_line_is_busy(world: CarrierWorld) -> None:
    """There is no session, and the carrier isn't told of a failure, which it would try again."""
    await world.number(busy_text="Nobody is here.")
    await world.api.execute("INSERT INTO tenants (name) VALUES ('default') ON CONFLICT DO NOTHING")
    await world.api.execute("UPDATE tenants SET state = 'suspended' WHERE name = 'default'")
    await until(lambda: "default" in world.api.parts.policy.current.suspended)
    answered = await world.exchange.ask(f"{world.api.url}/v1/webhooks/{world.name}/answer", world.exchange.leg())
    assert (answered.kind, answered.text) == ("refuse", "Nobody is here.")
    assert await world.sessions() == []


@pytest.mark.parametrize("world", HOLDING, indirect=True)
async def test_a_call_is_held_until_there_is_a_slot(world: CarrierWorld) -> None:
    """The caller hears why, keeps the place in the queue, and is connected as soon as a slot is there."""
    world.slots = 0
    await world.number(at_busy="hold", hold_text="Please hold the line.")
    leg = world.exchange.leg()
    answered = await world.exchange.ask(f"{world.api.url}/v1/webhooks/{world.name}/answer", leg)
    assert (answered.kind, answered.text) == ("hold", "Please hold the line.")
    waiting = await world.only_session()
    assert waiting.state is State.REQUESTED
    await world.open(1)
    phone = await world.exchange.call(world.api.url, leg)
    await until(lambda: voiced(phone.heard) > GREETING_S * 0.9)
    assert (await world.only_session()).id == waiting.id
    await phone.hang_up()


@pytest.mark.parametrize("world", HOLDING, indirect=True)
async def test_a_call_is_held_no_longer_than_its_number_says(
    world: CarrierWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it hears that the line is busy, though its session would still wait."""
    # No longer than it takes until the call asks again.
    monkeypatch.setattr(world.api.parts.telephony.adapters[world.name].carrier, "answer_within_s", 0.2, raising=False)
    world.slots = 0
    await world.number(at_busy="hold", hold_s=3.0, busy_text="Nobody is here.")
    leg = world.exchange.leg()
    answered = await world.exchange.ask(f"{world.api.url}/v1/webhooks/{world.name}/answer", leg)
    assert answered.kind == "hold"
    assert (await world.only_session()).state is State.REQUESTED
    for _ in range(10):
        if answered.kind == "hold":
            await asyncio.sleep(answered.pause_s)
            answered = await world.exchange.ask(answered.url, leg)
    assert (answered.kind, answered.text) == ("refuse", "Nobody is here.")
    session = await world.ended((await world.only_session()).id)
    assert (session.outcome, session.reason) == (Outcome.REJECTED, "line-busy")


@pytest.mark.parametrize("world", HOLDING, indirect=True)
async def test_a_caller_who_hangs_up_while_held_leaves_the_queue(world: CarrierWorld) -> None:
    """The session is canceled: nobody would be there."""
    world.slots = 0
    await world.number(at_busy="hold")
    leg = world.exchange.leg()
    answered = await world.exchange.ask(f"{world.api.url}/v1/webhooks/{world.name}/answer", leg)
    assert answered.kind == "hold"
    await world.exchange.tell(f"{world.api.url}/v1/webhooks/{world.name}/status", leg, "completed")
    session = await world.ended((await world.only_session()).id)
    assert (session.outcome, session.reason) == (Outcome.CANCELED, "caller-gave-up")


async def test_a_call_to_nobodys_number_is_refused(world: CarrierWorld) -> None:
    """No session is made for it."""
    answered = await world.exchange.ask(f"{world.api.url}/v1/webhooks/{world.name}/answer", world.exchange.leg())
    assert answered.kind == "refuse"
    assert await world.sessions() == []


async def test_a_built_in_bot_hears_the_caller(world: CarrierWorld) -> None:
    """A spoken sentence goes to the echo bot and back, from 8 kHz to 16 kHz and back, and stays what it was."""
    await world.number("line")
    phone = await world.exchange.call(world.api.url)
    said = spoken("hello is anybody there")
    await phone.say(said)
    length_s = voiced(np.frombuffer(said, dtype="<i2")[::2].tobytes())
    await until(lambda: voiced(phone.heard) > length_s * 0.8)
    await phone.hang_up()
    assert _alike(said, bytes(phone.heard)) > 0.8


async def _hung_up(world: CarrierWorld) -> list[str]:
    return world.exchange.hung_up


def _alike(said: bytes, heard: bytes) -> float:
    """Return how alike the loudness of two recordings is over time, wherever the one begins in the other."""

    def loudness(samples: Any, window: int) -> Any:
        squares = samples[: len(samples) // window * window].astype(float).reshape(-1, window) ** 2
        return np.sqrt(squares.mean(axis=1))

    first = loudness(np.frombuffer(said, dtype="<i2"), 320)
    second = loudness(np.frombuffer(heard, dtype="<i2"), 160)
    second = np.pad(second, (len(first), len(first)))
    windows = [second[at : at + len(first)] for at in range(len(second) - len(first))]
    return max(float(np.corrcoef(first, window)[0, 1]) for window in windows if window.std() > 0)
