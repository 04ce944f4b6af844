"""What carriers' webhooks may not do, and whose numbers are: the api alone, on real servers."""

import time
from collections.abc import AsyncGenerator

import pytest

from greenroom.common import subjects
from tests.support.api_world import ApiWorld, problem_of, running_api
from tests.support.carriers.exchange import CARRIERS, NUMBER, Exchange, dialect_of, running_exchange
from tests.support.carriers.world import TRANSPORTS

_WISH = {"agent": "phone"}


@pytest.fixture
async def api(nats_url: str, database: str) -> AsyncGenerator[ApiWorld]:
    """An api that is set up with all carriers."""
    settings: dict[str, str] = {}
    for name in CARRIERS:
        settings |= dialect_of(name).settings("http://127.0.0.1:9")
    async with running_api(nats_url, database, first=False, call_answer_s=0.1, **settings) as api:
        await api.add_agent("phone", transports=TRANSPORTS)
        yield api


async def _refused(exchange: Exchange, api: ApiWorld, *, at: float) -> str:
    fields = exchange.dialect.asks(exchange.leg())
    answered = await exchange.webhook(f"{api.url}/v1/webhooks/telnyx/answer", fields, at=at)
    return problem_of(answered)["code"]


async def test_an_old_webhook_is_refused(api: ApiWorld) -> None:
    """What Telnyx signed ten minutes ago, somebody has kept."""
    async with running_exchange("telnyx") as exchange:
        assert await _refused(exchange, api, at=time.time() - 600) == "webhook-replayed"
        assert await _refused(exchange, api, at=time.time() + 600) == "webhook-replayed"


async def test_a_nonce_is_good_for_one_content(api: ApiWorld) -> None:
    """Vobiz doesn't sign the body: a kept signature can't be put to another call, while a repetition is taken."""
    async with running_exchange("vobiz") as exchange:
        url = f"{api.url}/v1/webhooks/vobiz/answer"
        fields = exchange.dialect.asks(exchange.leg())
        kept = exchange.dialect.sign("POST", url, fields)
        for _ in range(2):
            assert (await exchange.webhook(url, fields, headers=kept)).status_code == 200
        other = await exchange.webhook(url, exchange.dialect.asks(exchange.leg()), headers=kept)
        assert problem_of(other)["code"] == "webhook-replayed"


@pytest.mark.parametrize("name", CARRIERS)
async def test_a_webhook_without_its_call_is_malformed(api: ApiWorld, name: str) -> None:
    """It is signed, but there is nothing to do with it."""
    async with running_exchange(name) as exchange:
        for what in ("answer", "status"):
            answered = await exchange.webhook(f"{api.url}/v1/webhooks/{name}/{what}", {"Nothing": "1"})
            assert problem_of(answered)["code"] == "webhook-malformed"


@pytest.mark.parametrize("name", CARRIERS)
async def test_a_long_url_answers_no_call(api: ApiWorld, name: str) -> None:
    """What comes behind the `?` is bounded: more is refused before there is a session."""
    async with running_exchange(name) as exchange, api.client() as client:
        assert (await client.put(f"/v1/numbers/{name}/{NUMBER}", json=_WISH)).status_code == 200
        fields = exchange.dialect.asks(exchange.leg())
        for what in ("answer", "status"):
            url = f"{api.url}/v1/webhooks/{name}/{what}?about={'x' * 4096}"
            problem = problem_of(await exchange.webhook(url, fields))
            assert (problem["status"], problem["code"]) == (413, "body-too-large")
        assert await api.broker.count("SESSIONS", subjects.SESSION_ALL.wildcard()) == 0
        assert await api.broker.count("CALLS", subjects.CALL.wildcard()) == 0


async def test_a_carrier_without_settings_is_not_there(nats_url: str, database: str) -> None:
    """Neither its webhooks nor its transport are offered."""
    async with running_api(nats_url, database, first=False) as api, api.client() as client:
        await api.add_agent("phone", transports=TRANSPORTS)
        answered = await client.post("/v1/webhooks/twilio/answer", data={"CallSid": "CA1"})
        assert problem_of(answered)["code"] == "transport-unavailable"
        options = {"to": "+4915112345678", "from": NUMBER}
        wish = {"agent": "phone", "transport": "twilio", "transport_options": options}
        assert problem_of(await client.post("/v1/sessions", json=wish))["code"] == "transport-unavailable"


async def test_a_number_is_made_listed_and_forgotten(api: ApiWorld) -> None:
    """With the addresses that the carrier is to be given; written with or without a plus it is one number."""
    async with api.client("numbers:write") as client:
        path = f"/v1/numbers/plivo/{NUMBER}"
        made = (
            await client.put(path, json={**_WISH, "at_busy": "hold", "hold_text": "Grüße", "body": {"a": 1}})
        ).json()
        assert made["answer_url"] == f"{api.url}/v1/webhooks/plivo/answer"
        assert (await client.get("/v1/numbers")).json() == {"numbers": [made]}
        replaced = (await client.put(path, json=_WISH)).json()
        assert (replaced["at_busy"], replaced["body"]) == ("refuse", {})
        assert (await client.delete(path)).status_code == 204
        assert problem_of(await client.delete(path))["code"] == "number-not-found"
        assert (await client.get("/v1/numbers")).json() == {"numbers": []}


async def test_a_number_belongs_to_one_tenant(api: ApiWorld) -> None:
    """Nobody takes another's number, sees it, or deletes it, however it is written."""
    async with api.client() as owner, api.client(tenant="others") as other:
        assert (await owner.put(f"/v1/numbers/twilio/{NUMBER}", json=_WISH)).status_code == 200
        for written in (NUMBER, NUMBER.removeprefix("+")):
            taken = await other.put(f"/v1/numbers/twilio/{written}", json=_WISH)
            assert problem_of(taken)["code"] == "number-taken"
            assert problem_of(await other.delete(f"/v1/numbers/twilio/{written}"))["code"] == "number-not-found"
        assert (await other.get("/v1/numbers")).json() == {"numbers": []}


@pytest.mark.parametrize(
    ("path", "wish", "code"),
    [
        (f"/v1/numbers/carrier-pigeon/{NUMBER}", _WISH, "invalid-body"),
        ("/v1/numbers/twilio/not-a-number", _WISH, "invalid-body"),
        (f"/v1/numbers/exotel/{NUMBER}", {**_WISH, "at_busy": "hold"}, "invalid-body"),
        (f"/v1/numbers/twilio/{NUMBER}", {"agent": "nobody"}, "agent-not-found"),
        (f"/v1/numbers/twilio/{NUMBER}", {**_WISH, "colour": "red"}, "unknown-field"),
    ],
)
async def test_a_number_that_cannot_be_meant_is_refused(api: ApiWorld, path: str, wish: object, code: str) -> None:
    """With a typed problem, and nothing is stored."""
    async with api.client() as client:
        assert problem_of(await client.put(path, json=wish))["code"] == code
        assert (await client.get("/v1/numbers")).json() == {"numbers": []}


async def test_numbers_need_their_scope(api: ApiWorld) -> None:
    """Whoever may make sessions may not say who answers the phone."""
    async with api.client("sessions:write") as client:
        assert problem_of(await client.put(f"/v1/numbers/twilio/{NUMBER}", json=_WISH))["code"] == "forbidden"
