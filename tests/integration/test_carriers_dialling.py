"""Calls that we make: over each carrier's API, with its answers, its refusals, and who picks up."""

from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from greenroom.common.ids import uuid7
from greenroom.common.lifecycle import Outcome, Session
from tests.support.api_world import eventually, problem_of, until
from tests.support.carriers.exchange import CALLER, CARRIERS, NUMBER
from tests.support.carriers.world import CarrierWorld, carrier_world
from tests.support.session_rig import HostProcess

# What each says of who picked up, and what that means.
_ANSWERED_BY = {
    "twilio": ({"AnsweredBy": "machine_start"}, "machine"),
    "telnyx": ({"AnsweredBy": "human"}, "human"),
    "plivo": ({"Machine": "true", "Event": "MachineDetection"}, "machine"),
    "vobiz": ({"Machine": "false", "Event": "MachineDetection"}, "human"),
}


@pytest.fixture(params=CARRIERS)
async def world(
    request: pytest.FixtureRequest, host: HostProcess, nats_url: str, database: str
) -> AsyncGenerator[CarrierWorld]:
    """Each carrier, and us; the number is ours."""
    async with carrier_world(request.param, host, nats_url, database) as world:
        await world.number()
        yield world


async def dial(world: CarrierWorld, key: str | None = None, **options: Any) -> str:
    """Ask for a session that calls somebody; return its id."""
    wish = {"agent": "phone", "transport": world.name, "transport_options": {"to": CALLER, "from": NUMBER, **options}}
    headers = {"idempotency-key": key} if key else {}
    response = await world.client.post("/v1/sessions", json=wish, headers=headers)
    assert response.status_code == 201, response.text
    info = response.json()["transport"]["info"]
    assert info == {"direction": "outbound", "from": options.get("from", NUMBER), "to": CALLER}
    return response.json()["id"]


async def test_somebody_is_called_and_hears_the_bot(world: CarrierWorld) -> None:
    """The session is ready before the phone rings; whoever picks up hears the bot, and puts the receiver down."""
    session_id = await dial(world)
    await until(lambda: world.exchange.phones and len(world.exchange.phones[0].heard) > 4_000)
    (dialled,) = world.exchange.dialled
    assert (dialled.to, dialled.caller) == (CALLER, NUMBER)
    phone = world.exchange.phones[0]
    await phone.press("4")
    await phone.hang_up()
    session = await world.ended(session_id)
    assert (session.outcome, session.reason) == (Outcome.COMPLETED, "client-left")
    statuses = await eventually(lambda: _statuses(world, session), lambda found: "completed" in found)
    assert statuses == (["completed"] if world.name == "exotel" else ["answered", "completed"])


async def test_the_session_knows_whom_it_has_called(world: CarrierWorld) -> None:
    """At once who calls whom; the carrier's ids when somebody has picked up."""
    session_id = await dial(world)
    requested = (await world.api.ledger.history("default", session_id))[0].session
    known = {"carrier": world.name, "direction": "outbound", "from": NUMBER, "to": CALLER, "body": {}}
    assert msgspec.to_builtins(requested.call) == {**known, "call_id": None, "stream_id": None}

    async def shown() -> dict[str, Any]:
        return (await world.client.get(f"/v1/sessions/{session_id}")).json()["call"]

    call = await eventually(shown, lambda call: call["stream_id"] is not None)
    phone = world.exchange.phones[0]
    assert call == {**known, "call_id": phone.leg.call_id, "stream_id": phone.leg.stream_id}
    await phone.hang_up()
    assert msgspec.to_builtins((await world.ended(session_id)).call) == call


async def test_the_bot_that_called_hangs_up(world: CarrierWorld) -> None:
    """The bot's serializer has the carrier's ids, though it was made before there was a call."""
    session_id = await dial(world)
    await until(lambda: world.exchange.phones and len(world.exchange.phones[0].heard) > 4_000)
    phone = world.exchange.phones[0]
    await phone.press("#")
    await phone.closed.wait()
    assert (await world.ended(session_id)).outcome is Outcome.COMPLETED
    assert set(world.exchange.hung_up) <= {phone.leg.call_id}


@pytest.mark.parametrize("world", ["twilio", "exotel", "plivo"], indirect=True)
async def test_what_a_call_was_asked_for_with_reaches_the_bot(world: CarrierWorld) -> None:
    """It is the bot's `body`, and its call's parameters where the carrier has such; the carrier's own go over it."""
    world.exchange.parameters = {"flow": "evening"}
    wish = {"agent": "phone", "transport": world.name, "transport_options": {"to": CALLER, "from": NUMBER}}
    body = {"name": "Ada", "visits": 3, "tags": ["vip"], "flow": "morning"}
    response = await world.client.post("/v1/sessions", json={**wish, "body": body})
    session_id = response.json()["id"]
    await until(lambda: world.exchange.phones and len(world.exchange.phones[0].heard) > 4_000)
    ask = {"command": {"type": "call", "function": "known"}}
    answer = await world.client.post(f"/v1/sessions/{session_id}/commands", json=ask)
    known = answer.json()["result"]["returned"]
    assert known["body"] == body
    asked = {"name": "Ada", "visits": "3", "tags": '["vip"]', "flow": "evening"}
    numbers = {"from_number": NUMBER, "to_number": CALLER}
    match world.name:
        case "twilio":
            assert known["call"]["body"] == {**numbers, **asked}
            assert (known["call"]["from"], known["call"]["to"]) == (NUMBER, CALLER)
        case "exotel":
            assert known["call"]["custom_parameters"] == asked
        case _:
            assert known["call"]["body"] == {}
    await world.exchange.phones[0].hang_up()


@pytest.mark.parametrize(
    ("callee", "reason"),
    [("busy", "call-busy"), ("no-answer", "call-not-answered"), ("failed", "call-not-put-through")],
)
async def test_somebody_who_is_not_reached_ends_the_session(world: CarrierWorld, callee: Any, reason: str) -> None:
    """The session says why, in one vocabulary for all carriers."""
    world.exchange.callee = callee
    session = await world.ended(await dial(world))
    assert session.reason == reason
    assert world.exchange.phones == []


@pytest.mark.parametrize(
    ("world", "told_first"),
    [(name, told) for name in ("telnyx", "plivo", "vobiz") for told in (True, False)] + [("twilio", False)],
    indirect=["world"],
)
async def test_a_phone_that_rings_is_let_go_with_its_session(world: CarrierWorld, told_first: bool) -> None:  # noqa: FBT001
    """Also where the carrier tells the call's id only after the session is over: Telnyx answers without one."""
    world.exchange.callee = "rings"
    session_id = await dial(world)
    await until(lambda: world.exchange.dialled)
    if told_first:
        world.exchange.rings.set()
        entry = await world.api.ledger.last("default", session_id)
        assert entry is not None
        await eventually(lambda: _statuses(world, entry.session), lambda found: "ringing" in found)
    await world.client.post(f"/v1/sessions/{session_id}/stop", json={})
    await world.ended(session_id)
    world.exchange.rings.set()
    await until(lambda: world.exchange.hung_up)
    (leg_id,) = set(world.exchange.hung_up)
    assert leg_id not in world.exchange.live
    assert world.exchange.phones == []


@pytest.mark.parametrize("world", list(_ANSWERED_BY), indirect=True)
async def test_who_picked_up_is_an_event(world: CarrierWorld) -> None:
    """With machine detection the carrier's finding is told in one vocabulary."""
    world.exchange.answered_by, by = _ANSWERED_BY[world.name]
    session_id = await dial(world, machine_detection=True)
    await until(lambda: world.exchange.phones)
    entry = await world.api.ledger.last("default", session_id)
    assert entry is not None

    async def look() -> list[str]:
        return [event.data["by"] for event in await world.events(entry.session, "call_answered_by")]

    assert await eventually(look) == [by]
    await world.exchange.phones[0].hang_up()


@pytest.mark.parametrize("world", ["exotel"], indirect=True)
async def test_a_carrier_that_does_not_say_who_picked_up_is_not_asked(world: CarrierWorld) -> None:
    """The request is refused, with a pointer."""
    options = {"to": CALLER, "from": NUMBER, "machine_detection": True}
    wish = {"agent": "phone", "transport": world.name, "transport_options": options}
    problem = problem_of(await world.client.post("/v1/sessions", json=wish))
    assert problem["errors"][0]["pointer"] == "/transport_options/machine_detection"


async def test_a_refusal_of_the_carrier_ends_the_session(world: CarrierWorld) -> None:
    """What the carrier says is the session's detail, and nobody is called twice."""
    world.exchange.trouble = [400]
    session = await world.ended(await dial(world))
    assert (session.outcome, session.reason) == (Outcome.FAILED, "call-not-put-through")
    assert session.detail == f"{world.name}: HTTP 400: trouble"
    assert world.exchange.dialled == []


async def test_trouble_at_the_carrier_does_not_ring_twice(world: CarrierWorld) -> None:
    """Whether a request that failed made a call isn't known, so it isn't repeated."""
    world.exchange.trouble = [500]
    session = await world.ended(await dial(world))
    assert (session.reason, len(world.exchange.requests)) == ("call-not-put-through", 1)


async def test_a_call_that_nobody_knows_of_is_refused(world: CarrierWorld) -> None:
    """Whoever picks up a call whose session has ended, since the carrier's answer got lost, is let go at once."""
    world.exchange.forgotten = 1
    session = await world.ended(await dial(world))
    assert session.reason == "call-not-put-through"
    await until(lambda: not world.exchange.live)
    assert (len(world.exchange.dialled), world.exchange.phones) == (1, [])


@pytest.mark.parametrize("world", ["twilio"], indirect=True)
async def test_a_call_counts_by_carrier_and_number(world: CarrierWorld) -> None:
    """Limits find the carrier and the number that calls, written as the list of numbers has it; others are refused."""
    session_id = await dial(world, **{"from": NUMBER.removeprefix("+")})
    entry = await world.api.ledger.last("default", session_id)
    assert entry is not None
    assert (entry.session.carrier, entry.session.number) == (world.name, NUMBER)
    options = {"to": CALLER, "from": NUMBER}
    for field, other in (("carrier", "another"), ("number", CALLER)):
        wish = {"agent": "phone", "transport": world.name, "transport_options": options, field: other}
        problem = problem_of(await world.client.post("/v1/sessions", json=wish))
        assert [error["pointer"] for error in problem["errors"]] == [f"/{field}"]
    await world.client.post(f"/v1/sessions/{session_id}/stop")


async def test_a_carrier_that_asks_for_patience_gets_it(world: CarrierWorld) -> None:
    """A request that was put off has made no call: it is repeated when the carrier says."""
    world.exchange.trouble = [429]
    await dial(world)
    await until(lambda: world.exchange.phones)
    assert len(world.exchange.dialled) == 1
    await world.exchange.phones[0].hang_up()


async def test_a_repeated_request_calls_once(world: CarrierWorld) -> None:
    """Same key, same session, one call."""
    key = uuid7()
    assert await dial(world, key) == await dial(world, key)
    await until(lambda: world.exchange.phones)
    await world.exchange.phones[0].hang_up()
    assert len(world.exchange.dialled) == 1


async def test_only_ones_own_numbers_are_shown(world: CarrierWorld) -> None:
    """A number that isn't the tenant's can't be called from; nobody is called."""
    async with world.api.client(tenant="others") as other:
        options = {"to": CALLER, "from": NUMBER}
        wish = {"agent": "phone", "transport": world.name, "transport_options": options}
        problem = problem_of(await other.post("/v1/sessions", json=wish))
        assert problem["errors"][0]["pointer"] == "/transport_options/from"
    unknown = await world.client.post(
        "/v1/sessions", json={"agent": "phone", "transport": world.name, "transport_options": {"to": CALLER}}
    )
    assert problem_of(unknown)["code"] == "invalid-body"
    assert world.exchange.requests == []


@pytest.mark.parametrize("world", [name for name in CARRIERS if name != "exotel"], indirect=True)
async def test_a_stranger_cannot_answer_for_a_session(world: CarrierWorld) -> None:
    """A reference that wasn't made here leads nowhere, even from the carrier itself."""
    leg = world.exchange.leg(outbound=True)
    url = f"{world.api.url}/v1/webhooks/{world.name}/calls/default.{uuid7()}.AAAA/answer"
    answered = await world.exchange.webhook(url, world.exchange.dialect.asks(leg))
    assert problem_of(answered)["code"] == "not-found"


async def _statuses(world: CarrierWorld, session: Session) -> list[str]:
    return [event.data["status"] for event in await world.events(session, "call_status")]
