"""Phone calls whose runner is lost: what each carrier said at the beginning is heard by the next process."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from greenroom.common.lifecycle import OnLoss, Outcome, State
from tests.support.api_world import until
from tests.support.carriers.exchange import CALLER, CARRIERS, NUMBER
from tests.support.carriers.phone import Phone
from tests.support.carriers.world import CarrierWorld, carrier_world
from tests.support.session_rig import HostProcess
from tests.support.telephony_bots import GREETING_S

GREETED_S = GREETING_S * 0.9


@pytest.fixture(params=CARRIERS)
async def world(
    request: pytest.FixtureRequest, host: HostProcess, nats_url: str, database: str
) -> AsyncGenerator[CarrierWorld]:
    """Each carrier, and us; the number is answered by an agent with `on_loss=always`."""
    async with carrier_world(request.param, host, nats_url, database) as world:
        await world.number("steady")
        yield world


async def greeted_again(world: CarrierWorld, phone: Phone, session_id: str) -> None:
    """Lose the runner of a greeted caller, and wait until the bot greets once more."""
    await until(lambda: phone.voiced_s > GREETED_S)
    heard = phone.voiced_s
    await world.move(session_id)
    assert not phone.closed.is_set()
    assert world.exchange.hung_up == []
    await until(lambda: phone.voiced_s > heard + GREETED_S)


async def test_a_call_goes_on_in_another_process(world: CarrierWorld) -> None:
    """The caller is greeted anew under the stream's own id, keys reach the new bot, and it can hang up the call."""
    phone = await world.exchange.call(world.api.url)
    session = await world.only_session()
    await greeted_again(world, phone, session.id)
    await phone.press("4")
    await until(lambda: phone.marks)
    await phone.press("#")
    await phone.closed.wait()
    ended = await world.ended(session.id)
    assert (ended.outcome, ended.attempt) == (Outcome.COMPLETED, 2)
    assert ended.call is not None
    assert (ended.call.call_id, ended.call.stream_id) == (phone.leg.call_id, phone.leg.stream_id)
    if world.name == "twilio":  # whose API is asked by the bot itself
        await until(lambda: world.exchange.hung_up == [phone.leg.call_id])


@pytest.mark.parametrize("world", ["twilio", "telnyx"], indirect=True)
async def test_a_call_that_was_made_goes_on_and_is_not_made_again(world: CarrierWorld) -> None:
    """Whoever was called is greeted anew, and called once; the session ends when the receiver is put down."""
    wish = {"agent": "steady", "transport": world.name, "transport_options": {"to": CALLER, "from": NUMBER}}
    response = await world.client.post("/v1/sessions", json=wish)
    session_id = response.json()["id"]
    await until(lambda: world.exchange.phones)
    phone = world.exchange.phones[0]
    await greeted_again(world, phone, session_id)
    assert len(world.exchange.dialled) == 1
    await phone.hang_up()
    ended = await world.ended(session_id)
    assert (ended.outcome, ended.reason, ended.attempt) == (Outcome.COMPLETED, "client-left", 2)


@pytest.mark.parametrize("world", ["twilio"], indirect=True)
async def test_what_is_set_of_the_agent_decides_for_incoming_calls(world: CarrierWorld) -> None:
    """A call to an agent that wouldn't go on does once the tenant says so, and waits longer than its carrier would."""
    await world.number("phone")
    changed = await world.client.patch("/v1/agents/phone", json={"on_loss": "always"})
    assert changed.status_code == 200, changed.text
    phone = await world.exchange.call(world.api.url)
    session = await world.only_session()
    assert session.agent == "phone"
    assert session.limits.queue_timeout_s < session.limits.second_wait_s == 30.0
    world.slots = 0
    await until(lambda: phone.voiced_s > GREETED_S)
    await world.move(session.id)
    entry = await world.api.ledger.last("default", session.id)
    assert entry is not None
    assert (entry.session.state, entry.session.on_loss) == (State.REQUESTED, OnLoss.ALWAYS)
    waits = entry.session.queue_deadline_at - entry.at
    assert waits.total_seconds() == pytest.approx(30.0, abs=1.0)
    await phone.hang_up()


@pytest.mark.parametrize("world", ["twilio"], indirect=True)
async def test_a_caller_who_hangs_up_in_between_leaves_nothing(world: CarrierWorld) -> None:
    """While nobody is there to hear it, the carrier says that the call is over: the session ends where it waits."""
    phone = await world.exchange.call(world.api.url)
    session = await world.only_session()
    await until(lambda: phone.voiced_s > GREETED_S)
    world.slots = 0
    await world.move(session.id)
    await phone.hang_up()
    await world.exchange.tell(f"{world.api.url}/v1/webhooks/twilio/status", phone.leg, "completed")
    ended = await world.ended(session.id)
    assert (ended.outcome, ended.reason) == (Outcome.CANCELED, "caller-gave-up")


@pytest.mark.parametrize("world", ["twilio"], indirect=True)
async def test_a_call_that_may_not_be_moved_ends_with_its_process(world: CarrierWorld) -> None:
    """Without `on_loss=always` a process that loses its runner closes the call, instead of leaving it silent."""
    await world.number("phone")
    await asyncio.sleep(2.1)  # for as long another number may be believed in
    phone = await world.exchange.call(world.api.url)
    await until(lambda: phone.voiced_s > GREETED_S)
    session = await world.only_session()
    assert session.agent == "phone"
    world.runs[session.id].abandon()
    await phone.closed.wait()
