"""Callers who are handed over: by each carrier's API, with its refusals, and what becomes of the session."""

from collections.abc import AsyncGenerator

import httpx
import pytest

from greenroom.api.carriers.references import reference
from greenroom.common.lifecycle import Outcome, Session, State
from tests.support.api_world import problem_of, until
from tests.support.carriers.exchange import CALLER, CARRIERS, NUMBER
from tests.support.carriers.phone import Phone
from tests.support.carriers.world import CarrierWorld, carrier_world
from tests.support.session_rig import HostProcess

DESK = "+4930987654"
ABLE = [name for name in CARRIERS if name != "exotel"]


@pytest.fixture(params=ABLE)
async def world(
    request: pytest.FixtureRequest, host: HostProcess, nats_url: str, database: str
) -> AsyncGenerator[CarrierWorld]:
    """Each carrier that can, and us; the number is ours."""
    async with carrier_world(request.param, host, nats_url, database) as world:
        await world.number()
        yield world


async def called(world: CarrierWorld) -> tuple[Phone, Session]:
    """Return a caller who hears the bot, and the session."""
    phone = await world.exchange.call(world.api.url)
    await until(lambda: len(phone.heard) > 4_000)
    return phone, await world.only_session()


async def transfer(
    world: CarrierWorld, session_id: str, target: str = DESK, command_id: str = "transfer-1"
) -> httpx.Response:
    """Send the command."""
    command = {"id": command_id, "timeout_s": 25, "command": {"type": "transfer", "target": target}}
    return await world.client.post(f"/v1/sessions/{session_id}/commands", json=command, timeout=30)


def failed(response: httpx.Response, code: str) -> str:
    """Return the detail of a failure."""
    problem = problem_of(response)
    assert (problem["status"], problem["code"]) == ({"transfer-failed": 502}.get(code, 422), code), problem
    return problem["detail"]


async def state_of(world: CarrierWorld, session_id: str) -> State:
    """Return how a session stands."""
    entry = await world.api.ledger.last("default", session_id)
    assert entry is not None
    return entry.session.state


@pytest.mark.parametrize("target", [DESK, "sip:desk@example.org;transport=tls"])
async def test_a_caller_is_handed_over_and_the_session_ends(world: CarrierWorld, target: str) -> None:
    """The carrier connects the call with the target and takes the bot's media away; nobody hangs the call up."""
    phone, session = await called(world)
    answer = await transfer(world, session.id, target)
    assert (answer.status_code, answer.json()["result"]) == (200, {"by": "carrier"}), answer.text
    await phone.closed.wait()
    ended = await world.ended(session.id)
    assert (ended.outcome, ended.reason) == (Outcome.COMPLETED, "transferred")
    assert world.exchange.put_through == {phone.leg.call_id: target}
    assert world.exchange.hung_up == []
    [told] = await world.events(ended, "transfer_requested")
    assert told.data == {"target": target, "by": "carrier"}
    [audited] = await world.events(ended, "command")
    assert (audited.data["command"], audited.data["target"], audited.data["outcome"]) == ("transfer", target, "done")
    asked = len(world.exchange.requests)
    again = await transfer(world, session.id, target)
    assert (again.json(), again.headers["idempotent-replayed"]) == (answer.json(), "true")
    assert len(world.exchange.requests) == asked


@pytest.mark.parametrize("world", ["plivo", "telnyx"], indirect=True)
async def test_somebody_who_was_called_is_handed_over(world: CarrierWorld) -> None:
    """As one who called; the carrier asks for the document where it asked what to do with the call."""
    options = {"to": CALLER, "from": NUMBER}
    wish = {"agent": "phone", "transport": world.name, "transport_options": options}
    session_id = (await world.client.post("/v1/sessions", json=wish)).json()["id"]
    await until(lambda: world.exchange.phones and len(world.exchange.phones[0].heard) > 4_000)
    answer = await transfer(world, session_id)
    assert answer.status_code == 200, answer.text
    assert (await world.ended(session_id)).reason == "transferred"
    assert list(world.exchange.put_through.values()) == [DESK]
    assert world.exchange.hung_up == []


async def test_what_the_carrier_refuses_fails_the_command_and_the_call_goes_on(world: CarrierWorld) -> None:
    """Trouble and refusals are told with the carrier's words; the caller stays, may be handed over after all."""
    phone, session = await called(world)
    for number, (status, known, told) in enumerate(
        ((400, True, "trouble"), (503, True, "isn't known"), (0, False, ""))
    ):
        world.exchange.trouble = [status] if status else []
        if not known:
            world.exchange.live.discard(phone.leg.call_id)
        detail = failed(await transfer(world, session.id, command_id=f"failing-{number}"), "transfer-failed")
        assert told in detail
        assert world.name in detail
    assert await state_of(world, session.id) is State.READY
    assert not phone.closed.is_set()
    assert world.exchange.put_through == {}
    refused = await world.events(session, "command")
    assert [event.data["code"] for event in refused] == ["transfer-failed"] * 3
    assert await world.events(session, "transfer_requested") == []
    world.exchange.live.add(phone.leg.call_id)
    assert (await transfer(world, session.id, command_id="at-last")).status_code == 200
    assert (await world.ended(session.id)).reason == "transferred"


@pytest.mark.parametrize("world", ["twilio"], indirect=True)
async def test_a_caller_who_was_not_handed_over_leaves_as_anybody(world: CarrierWorld) -> None:
    """What isn't a number or a SIP URI never reaches the carrier; a hang-up after that is one."""
    phone, session = await called(world)
    for target in ("4930123456", "desk", "https://example.org", "sip:a b", DESK + "\n"):
        failed(await transfer(world, session.id, target, f"to-{len(target)}"), "transfer-target-invalid")
    assert world.exchange.requests == []
    await phone.hang_up()
    assert (await world.ended(session.id)).reason == "client-left"


@pytest.mark.parametrize("world", ["twilio"], indirect=True)
async def test_a_carrier_that_leaves_the_media_open_is_not_listened_to(world: CarrierWorld) -> None:
    """The session ends by itself then, and doesn't hang up."""
    world.exchange.keeps_media = True
    phone, session = await called(world)
    assert (await transfer(world, session.id)).status_code == 200
    await phone.closed.wait()
    ended = await world.ended(session.id)
    assert (ended.outcome, ended.reason) == (Outcome.COMPLETED, "transferred")
    assert world.exchange.hung_up == []


@pytest.mark.parametrize("world", ["exotel"], indirect=True)
async def test_a_carrier_that_cannot_says_so(world: CarrierWorld) -> None:
    """The command is refused, nothing is asked, and the call goes on."""
    phone, session = await called(world)
    assert "exotel" in failed(await transfer(world, session.id), "command-unsupported")
    assert world.exchange.requests == []
    assert await state_of(world, session.id) is State.READY
    await phone.hang_up()
    assert (await world.ended(session.id)).reason == "client-left"


@pytest.mark.parametrize("world", ["plivo", "vobiz"], indirect=True)
async def test_whom_to_dial_is_told_to_the_carrier_and_only_while_it_is_to_dial(world: CarrierWorld) -> None:
    """A request without its signature learns nothing, nor one for a call that stays with the bot."""
    phone, session = await called(world)
    secret = world.exchange.dialect.settings("")[f"{world.name}_auth_token"].encode()
    path = f"/v1/webhooks/{world.name}/calls/{reference(secret, 'default', session.id)}/transfer"
    fields = world.exchange.dialect.asks(phone.leg)
    assert (await world.exchange.webhook(world.api.url + path, fields)).status_code == 404
    assert (await transfer(world, session.id)).status_code == 200
    assert (await world.ended(session.id)).reason == "transferred"
    assert DESK in (await world.exchange.webhook(world.api.url + path, fields)).text
    nobody = await world.client.post(path, data=fields)
    assert (nobody.status_code, problem_of(nobody)["code"]) == (403, "webhook-unsigned")
