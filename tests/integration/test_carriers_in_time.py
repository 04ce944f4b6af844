"""Carriers are answered while they wait: whatever limits there are, and however slow the servers behind us are."""

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from greenroom.api.carriers.base import Carrier
from greenroom.api.phone_numbers import Number, Numbers
from greenroom.common import subjects
from greenroom.common.lifecycle import Connected, Ended, Outcome, Session, State
from tests.support.api_world import eventually, problem_of, until
from tests.support.carriers.dialect import Leg
from tests.support.carriers.exchange import CARRIERS
from tests.support.carriers.world import CarrierWorld, carrier_world
from tests.support.session_rig import HostProcess

# What an answer may take beyond a carrier's `answer_within_s`: Vobiz waits for three seconds, and has two.
_AFTER_S = 1.0


@pytest.fixture(params=CARRIERS)
async def world(
    request: pytest.FixtureRequest, host: HostProcess, nats_url: str, database: str
) -> AsyncGenerator[CarrierWorld]:
    """Each carrier, and us; a call may wait for longer than any carrier does."""
    async with carrier_world(request.param, host, nats_url, database, call_answer_s=10.0) as world:
        yield world


def carrier_of(world: CarrierWorld) -> Carrier:
    """Return the carrier, as the api knows it."""
    return world.api.parts.telephony.adapters[world.name].carrier


def answer_url(world: CarrierWorld) -> str:
    """Return where the carrier asks."""
    return f"{world.api.url}/v1/webhooks/{world.name}/answer"


async def limited(world: CarrierWorld, most: int) -> None:
    """Have calls over the carrier refused beyond a number of them; returns once the api knows."""
    limit = {"scope": "carrier", "max_sessions": most, "at_limit": "refuse"}
    assert (await world.client.put("/v1/limits/l", json=limit)).status_code == 200
    await until(lambda: world.api.parts.policy.current.limits)


async def test_a_limit_that_is_not_reached_makes_no_answer_late(world: CarrierWorld) -> None:
    """Waiting for what the limit says and waiting for a slot take no longer together than the carrier waits."""
    world.slots = 0
    await world.number()
    await limited(world, 20)
    began = time.monotonic()
    answered = await world.exchange.ask(answer_url(world), world.exchange.leg())
    assert time.monotonic() - began < carrier_of(world).answer_within_s + _AFTER_S
    assert answered.kind == "refuse"
    session = await world.ended((await world.only_session()).id)
    assert (session.outcome, session.reason) == (Outcome.REJECTED, "line-busy")


@pytest.mark.parametrize("world", ["twilio"], indirect=True)
async def test_a_call_that_a_limit_refuses_is_not_held(world: CarrierWorld) -> None:
    """It hears that the line is busy as soon as that is decided, and its session says why."""
    world.slots = 0
    await world.number(at_busy="hold", busy_text="Nobody is here.")
    await limited(world, 1)
    asking = asyncio.create_task(world.exchange.ask(answer_url(world), world.exchange.leg()))
    session = (await eventually(world.sessions))[0]
    refused = Ended(by="scheduler", epoch=0, outcome=Outcome.REJECTED, reason="limit-reached")
    await world.api.ledger.move(session.tenant, session.id, lambda _known: refused)
    answered = await asking
    assert (answered.kind, answered.text) == ("refuse", "Nobody is here.")
    assert (await world.only_session()).reason == "limit-reached"


@pytest.mark.parametrize("world", ["vobiz"], indirect=True)
async def test_what_came_before_the_wait_is_taken_off_it(world: CarrierWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a slow database there is less time for a slot, and the caller still hears what the number says."""
    find = Numbers.find

    async def slow(numbers: Numbers, carrier: str, number: str) -> Number | None:
        await asyncio.sleep(carrier_of(world).answer_within_s * 0.75)
        return await find(numbers, carrier, number)

    monkeypatch.setattr(Numbers, "find", slow)
    world.slots = 0
    await world.number(busy_text="Nobody is here.")
    answered = await world.exchange.ask(answer_url(world), world.exchange.leg())
    assert (answered.kind, answered.text) == ("refuse", "Nobody is here.")


class Slow:
    """A broker that does what it is asked for on a subject, and says so only once it is `released`."""

    def __init__(
        self, world: CarrierWorld, subject: subjects.Subject, monkeypatch: pytest.MonkeyPatch, what: str = "append"
    ) -> None:
        self.released = asyncio.Event()
        do = getattr(world.api.parts.broker, what)

        async def slow(*args: Any, **kwargs: Any) -> Any:
            done = await do(*args, **kwargs)
            if any(subject.parse(arg) is not None for arg in args if isinstance(arg, str)):
                await self.released.wait()
            return done

        monkeypatch.setattr(world.api.parts.broker, what, slow)


@pytest.fixture
def impatient(world: CarrierWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the carrier wait for half a second only."""
    monkeypatch.setattr(carrier_of(world), "answer_within_s", 0.5, raising=False)


async def too_late(world: CarrierWorld, leg: Leg | None = None) -> None:
    """Have the carrier ask, and get no document in its time."""
    began = time.monotonic()
    asks = world.exchange.dialect.asks(leg or world.exchange.leg())
    refused = await world.exchange.webhook(answer_url(world), asks)
    assert time.monotonic() - began < carrier_of(world).answer_within_s + 2 * _AFTER_S
    assert problem_of(refused)["code"] == "answer-timed-out"
    assert refused.status_code == 503


async def through() -> None:
    """Wait until nothing is under way that is for nobody any more."""
    await until(lambda: not any(task.get_name().startswith("carrier answer") for task in asyncio.all_tasks()))


async def let_go(world: CarrierWorld) -> Session:
    """Return the only session, once it has ended; whoever the carrier's fallback has put on isn't hung up."""
    session = await world.ended((await world.only_session()).id)
    await world.api.parts.telephony.adapters[world.name].release(session.tenant, session.id, {})
    assert world.exchange.hung_up == []
    return session


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("world", ["vobiz"], indirect=True)
@pytest.mark.parametrize("subject", [subjects.WEBHOOK, subjects.CALL])
async def test_a_call_that_is_late_before_it_has_a_session_gets_none(
    world: CarrierWorld, subject: subjects.Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The carrier takes its fallback, so there is nobody to make a session for when the broker is there again."""
    slow = Slow(world, subject, monkeypatch)
    await world.number()
    await too_late(world)
    slow.released.set()
    await through()
    assert await world.sessions() == []


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("world", "subject", "slots"),
    [
        ("vobiz", subjects.SESSION_LIFECYCLE, 1),
        ("vobiz", subjects.SESSION_LIFECYCLE, 0),
        ("vobiz", subjects.TICKET, 1),
        ("twilio", subjects.TICKET, 1),
    ],
    indirect=["world"],
)
async def test_a_session_whose_answer_is_late_is_given_up(
    world: CarrierWorld, subject: subjects.Subject, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting or running, it ends as soon as the broker is there again; the call is left to the carrier's fallback."""
    world.slots = slots
    slow = Slow(world, subject, monkeypatch)
    await world.number(at_busy="hold")
    await too_late(world)
    assert (await world.only_session()).state is not State.ENDED
    slow.released.set()
    session = await let_go(world)
    assert (session.outcome, session.reason) == (Outcome.CANCELED, "caller-gave-up")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("world", ["twilio"], indirect=True)
async def test_somebody_who_is_connected_stays_so(world: CarrierWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A webhook that comes again, and is answered late, doesn't end the call that the first one has connected."""
    await world.number()
    phone = await world.exchange.call(world.api.url)
    await until(lambda: phone.heard)
    session = await world.only_session()
    # What the process of the session, which is a real one, leaves to its runner.
    await world.api.ledger.move(session.tenant, session.id, lambda known: Connected(epoch=known.epoch))
    slow = Slow(world, subjects.TICKET, monkeypatch, "last")
    await too_late(world, phone.leg)
    slow.released.set()
    await through()
    assert (await world.only_session()).state is State.READY
    await phone.hang_up()
