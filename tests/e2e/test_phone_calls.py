"""Phone calls over a carrier's stub, in real time, with a whole Greenroom: what is said, counted, and moved."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import asyncpg
import pytest

from greenroom.common.ledger import Ledger
from greenroom.common.nats_broker import NatsBroker
from greenroom.devtools import call
from greenroom.devtools.client import ApiClient
from tests.support.carriers.exchange import CALLER, NUMBER, Exchange, running_exchange
from tests.support.carriers.phone import Phone
from tests.support.openai_stub import CHAT, KEY, OpenAIStub, Says, running_openai_stub
from tests.support.stack import PATIENCE_S, RunningStack, all_events, running_stack, wait_for_event, wait_for_session
from tests.support.workspace import ROOT

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

SENTENCE = "i would like to book a table"
QUESTION = "what time is it"
REPLY = "Hello there my friend what can I do for you."
OTHER = "+4930654321"
QUICKSTART = ROOT / "tests/support/quickstart_bots/telephony_bot.py"


@pytest.fixture(scope="module")
async def exchange() -> AsyncIterator[Exchange]:
    """Twilio."""
    async with running_exchange("twilio") as running:
        yield running


@pytest.fixture(scope="module")
async def stub() -> AsyncIterator[OpenAIStub]:
    """What the quickstart hears, thinks and speaks with."""
    async with running_openai_stub() as running:
        running.default_transcript = QUESTION
        running.default_reply = Says(REPLY)
        yield running


@pytest.fixture(scope="module")
async def stack(
    exchange: Exchange, stub: OpenAIStub, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RunningStack]:
    """A stack with an account at the carrier, with the front desk, whose calls outlive a runner, and the quickstart."""
    settings = {f"GREENROOM_{name.upper()}": value for name, value in exchange.dialect.settings(exchange.url).items()}
    keys = {
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": stub.url,
        "GREENROOM_SESSION_ENV": "OPENAI_API_KEY,OPENAI_BASE_URL",
        "GREENROOM_BOTS": str(QUICKSTART),
    }
    async with running_stack(tmp_path_factory.mktemp("phone"), **settings, **keys) as running:
        async with running.client() as client, asyncio.timeout(PATIENCE_S):
            while "frontdesk" not in {agent["name"] for agent in (await client.get("/v1/agents"))["agents"]}:
                await asyncio.sleep(0.1)
        database = await asyncpg.connect(running.stack.database_url)
        changed = await database.execute("UPDATE agents SET on_loss = 'always' WHERE name = 'frontdesk'")
        assert changed == "UPDATE 1"
        await database.close()
        yield running


@pytest.fixture(scope="module")
async def client(stack: RunningStack) -> AsyncIterator[ApiClient]:
    """A client whose numbers the front desk and the quickstart answer."""
    async with stack.client() as client:
        for number, agent in ((NUMBER, "frontdesk"), (OTHER, "telephony_bot")):
            await client.put(f"/v1/numbers/twilio/{number}", {"agent": agent})
        yield client


async def hears(phone: Phone, more_s: float, than_s: float = 0.0) -> None:
    """Wait until more was heard."""
    async with asyncio.timeout(PATIENCE_S):
        while phone.voiced_s < than_s + more_s:
            assert not phone.closed.is_set()
            await asyncio.sleep(0.05)


async def session_of(stack: RunningStack, call_id: str) -> str:
    """Return the session of a call that came in."""
    broker = await NatsBroker.connect(stack.stack.nats_url, name="test")
    try:
        watch = await Ledger(broker).watch()
        async with asyncio.timeout(PATIENCE_S), aclosing(aiter(watch)) as entries:  # pyright: ignore[reportArgumentType]
            async for entry in entries:
                if entry.session.transport_info.get("call_id") == call_id:
                    return entry.session.id
    finally:
        await broker.close()
    raise AssertionError(call_id)


async def dial(client: ApiClient, **wish: Any) -> dict[str, Any]:
    """Ask for a session that calls somebody."""
    options = {"to": CALLER, "from": NUMBER}
    return await client.post(
        "/v1/sessions", {"agent": "frontdesk", "transport": "twilio", "transport_options": options, **wish}
    )


async def hears_anew(client: ApiClient, phone: Phone, session_id: str) -> None:
    """Wait until a session is tried for the second time, and its bot is heard."""
    async with asyncio.timeout(PATIENCE_S):
        while (await client.get(f"/v1/sessions/{session_id}"))["attempt"] == 1:
            await asyncio.sleep(0.02)
    # Of the first process nothing has come for seconds, but the carrier may not have played all of it.
    await hears(phone, 0.5, than_s=phone.voiced_s + phone.buffered_s)


async def picked_up(exchange: Exchange, count: int) -> Phone:
    """Return the phone of the latest call, once that many were ever connected."""
    async with asyncio.timeout(PATIENCE_S):
        while len(exchange.phones) < count:
            await asyncio.sleep(0.05)
    return exchange.phones[-1]


async def test_a_caller_speaks_with_the_front_desk(stack: RunningStack, exchange: Exchange, client: ApiClient) -> None:
    """A sentence over the telephone is understood and answered, both are in the transcript, and hanging up ends it."""
    phone = await exchange.call(stack.stack.api_url)
    session_id = await session_of(stack, phone.leg.call_id)
    await wait_for_event(client, session_id, "agent_spoke")
    greeted_s = phone.voiced_s
    [line] = call.spoken([SENTENCE])
    await phone.say(line.pcm)
    events = await wait_for_event(client, session_id, "user_spoke")
    await hears(phone, 1.0, than_s=greeted_s)
    assert [_words(text) for text in _texts(events, "user_spoke")] == [_words(SENTENCE)]
    async with asyncio.timeout(PATIENCE_S):
        while len(answers := _texts(await all_events(client, session_id), "agent_spoke")) < 2:
            await asyncio.sleep(0.1)
    assert "how many people" in answers[1]
    await phone.hang_up()
    ended = await wait_for_session(client, session_id)
    assert (ended["outcome"], ended["reason"]) == ("completed", "client-left")
    assert (ended["carrier"], ended["number"]) == ("twilio", NUMBER)


async def test_the_telephony_quickstart_answers_a_call(
    stack: RunningStack, exchange: Exchange, stub: OpenAIStub, client: ApiClient
) -> None:
    """Unchanged, as an agent: it greets, hears and answers; transcript and metrics are kept though it knows of none."""
    phone = await exchange.call(stack.stack.api_url, exchange.leg(called=OTHER))
    session_id = await session_of(stack, phone.leg.call_id)
    await wait_for_event(client, session_id, "agent_spoke")
    greeted_s = phone.voiced_s
    [line] = call.spoken([QUESTION])
    await phone.say(line.pcm)
    events = await wait_for_event(client, session_id, "user_spoke")
    await hears(phone, 0.3, than_s=greeted_s)
    assert _texts(events, "user_spoke") == [QUESTION]
    assert QUESTION in str(stub.asked(CHAT)[-1].body["messages"])
    await phone.hang_up()
    ended = await wait_for_session(client, session_id)
    assert (ended["outcome"], ended["reason"], ended["agent"]) == ("completed", "client-left", "telephony_bot")
    events = await wait_for_event(client, session_id, "call_completed")
    assert _texts(events, "agent_spoke")[0] == REPLY
    assert "metrics" in {event["type"] for event in events}


async def test_a_number_is_counted_whoever_calls(stack: RunningStack, exchange: Exchange, client: ApiClient) -> None:
    """With one call at a time on a number, one that is to be made from it waits until the one that came in is over."""
    await client.put("/v1/limits/one-line", {"scope": "number", "key": NUMBER, "max_sessions": 1})
    try:
        await asyncio.sleep(2.1)  # schedulers go by it within 2 s
        phone, phones, dialled = await exchange.call(stack.stack.api_url), len(exchange.phones), len(exchange.dialled)
        session = await dial(client)
        waiting = await client.get(f"/v1/sessions/{session['id']}")
        assert (waiting["carrier"], waiting["number"]) == ("twilio", NUMBER)
        assert waiting["state"] == "requested"
        assert f"number {NUMBER} at 1/1" in waiting["queue"]["reason"]
        assert len(exchange.dialled) == dialled
        await phone.hang_up()
        callee = await picked_up(exchange, phones + 1)
        await hears(callee, 0.3)
        await callee.hang_up()
        await wait_for_session(client, session["id"])
    finally:
        await client.delete("/v1/limits/one-line")


async def test_calls_outlive_their_runner(stack: RunningStack, exchange: Exchange, client: ApiClient) -> None:
    """A call that came in and one that was made go on when their runner is killed: both hear the bot again, and a key.

    With `on_loss=always`. The carrier's sockets stay at the edge; nobody is called twice, and what the new processes
    send has the ids of the streams, or the carrier would play nothing of it.
    """
    await asyncio.sleep(2.1)  # for as long the limit of another test may still hold
    caller, phones = await exchange.call(stack.stack.api_url), len(exchange.phones)
    session = await dial(client, on_loss="always")
    callee = await picked_up(exchange, phones + 1)
    session_id = await session_of(stack, caller.leg.call_id)
    for each in (session_id, session["id"]):
        await wait_for_event(client, each, "agent_spoke")
    calls, first = len(exchange.dialled), stack.stack.services["runner"]
    try:
        await (await stack.stack.start_service("runner")).wait_ready(PATIENCE_S)
    finally:
        first.signal(signal.SIGKILL)
        await first.exited()
    both = (caller, session_id), (callee, session["id"])
    await asyncio.gather(*(hears_anew(client, phone, each) for phone, each in both))
    assert len(exchange.dialled) == calls
    await caller.press("4")
    for phone, each in both:
        await phone.hang_up()
        ended = await wait_for_session(client, each)
        assert (ended["outcome"], ended["reason"], ended["attempt"]) == ("completed", "client-left", 2)
    events = await wait_for_event(client, session_id, "dtmf")
    assert [event["data"]["digits"] for event in events if event["type"] == "dtmf"] == ["4"]


def _texts(events: list[dict[str, Any]], kind: str) -> list[str]:
    return [event["data"]["text"] for event in events if event["type"] == kind]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())
