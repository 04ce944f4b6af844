"""Callers who are handed over, at the api: what each carrier is asked, what becomes of its answer, and of the call."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any, cast

import httpx
import pytest

from greenroom.api.carriers import make_carriers
from greenroom.api.carriers.adapter import CarrierAdapter
from greenroom.api.carriers.base import Transfer
from greenroom.api.carriers.callbook import CallBook
from greenroom.api.carriers.rest import Rest
from greenroom.api.carriers.settings import CarrierSettings
from greenroom.api.carriers.telnyx import Account, Telnyx
from greenroom.api.carriers.transfers import Transfers
from greenroom.common.command_errors import CommandNotDone, CommandUnsupported, TransferFailed
from greenroom.common.lifecycle import Session
from greenroom.runner.session.transports import carrier_api
from tests.support.carriers.exchange import CARRIERS, dialect_of
from tests.support.carriers.provider import CarrierProvider
from tests.support.memory_broker import MemoryServer
from tests.support.provider_stub import Fault, Said

ABLE = [name for name in CARRIERS if name != "exotel"]
ORIGIN = "https://voice.example.org"
DESK = "+4930987654"
SIP = "sip:desk@example.org;transport=tls"
AT = datetime(2026, 5, 14, 10, tzinfo=UTC)


class World:
    """One carrier with one call, the api's side of it, and the session that has it."""

    def __init__(self, name: str) -> None:
        self.dialect = dialect_of(name)
        self.provider = CarrierProvider(self.dialect)
        self.broker = MemoryServer().connect()
        self.book = CallBook(self.broker)
        rest = Rest(httpx.AsyncClient(transport=self.provider.transport()))
        named = cast("Any", self.dialect.settings("https://carrier.example"))
        carriers = make_carriers(CarrierSettings(nats_url="nats://127.0.0.1:1", **named))
        self.transfers = Transfers(broker=self.broker, book=self.book, rest=rest, carriers=carriers)
        nothing: Any = None
        self.adapter = CarrierAdapter(carriers[name], numbers=nothing, book=self.book, dials=nothing, rest=rest)
        fields: dict[str, Any] = {"agent": "a", "bot": "a", "requested_at": AT, "queue_deadline_at": AT}
        self.session = Session(id="s1", tenant="default", transport=name, **fields)
        self.provider.live.add("call-1")

    async def begin(self, tenant: str = "default") -> None:
        """Have the call belong to the session."""
        await self.book.claim(self.dialect.name, "call-1", tenant, "s1", origin=ORIGIN)

    async def transfer(self, target: str = DESK) -> None:
        """Ask for it as the session's process does."""
        await carrier_api.transfer(self.broker, self.session, target)

    async def released(self) -> bool:
        """End the session; tell whether the call was hung up."""
        await self.adapter.release("default", "s1", {})
        return "call-1" not in self.provider.live


@pytest.fixture
async def world(request: pytest.FixtureRequest) -> AsyncGenerator[World]:
    """A carrier that can."""
    world = World(getattr(request, "param", "twilio"))
    serving = asyncio.create_task(world.transfers.run())
    await asyncio.sleep(0)
    yield world
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


@pytest.mark.parametrize("name", ABLE)
@pytest.mark.parametrize("target", [DESK, SIP, "sip:a&b@example.org"])
def test_the_document_says_whom_to_dial(name: str, target: str) -> None:
    """A number or a SIP URI, each by the dialect's word for it; nothing of it is taken for markup."""
    world = World(name)
    assert world.dialect.reads_dial(world.adapter.carrier.put_through(target).body) == target


@pytest.mark.parametrize("world", ABLE, indirect=True)
async def test_each_carrier_is_asked_in_its_own_words_and_never_hangs_up_after(world: World) -> None:
    """It has the document, or the address of one; the call is no longer the session's to end."""
    await world.begin()
    await world.transfer(SIP)
    [told] = world.provider.transferred
    assert told.call_id == "call-1"
    if told.url:
        assert told.url.startswith(f"{ORIGIN}/v1/webhooks/{world.dialect.name}/calls/default.s1.")
        assert told.url.endswith("/transfer")
    else:
        assert world.dialect.reads_dial(told.document) == SIP
    record = await world.book.of_session("s1")
    assert record is not None
    assert record.transfer_to == SIP
    assert not await world.released()


@pytest.mark.parametrize("world", ABLE, indirect=True)
@pytest.mark.parametrize("status", [400, 404, 429])
async def test_what_was_refused_is_still_ours(world: World, status: int) -> None:
    """The command fails with the carrier's words, and the call is hung up with its session."""
    await world.begin()
    world.provider.fail(status, body={"message": "no such call"})
    with pytest.raises(TransferFailed, match=world.dialect.name):
        await world.transfer()
    assert await world.released()


@pytest.mark.parametrize("fault", [Fault("lost"), Fault(said=Said(status=503))])
async def test_what_nobody_knows_is_not_hung_up(world: World, fault: Fault) -> None:
    """It may have been handed over; if it wasn't, it ends with the bot's media."""
    await world.begin()
    world.provider.faults.append(fault)
    with pytest.raises(TransferFailed, match="isn't known"):
        await world.transfer()
    assert not await world.released()


async def test_only_the_sessions_own_call_is_handed_over(world: World) -> None:
    """None that isn't there, none of another tenant's, none that is over; the carrier isn't even asked."""
    with pytest.raises(CommandNotDone):
        await world.transfer()
    await world.begin("another")
    with pytest.raises(CommandNotDone):
        await world.transfer()
    assert world.provider.asked == []


async def test_a_call_that_is_over_is_not_handed_over(world: World) -> None:
    """The carrier has said so."""
    await world.begin()
    await world.book.learn("s1", over=True)
    with pytest.raises(CommandNotDone):
        await world.transfer()
    assert world.provider.asked == []


@pytest.mark.parametrize("world", ["exotel"], indirect=True)
async def test_a_carrier_that_cannot_is_not_asked(world: World) -> None:
    """The refusal says that it can't, and the call isn't marked as handed over."""
    await world.begin()
    with pytest.raises(CommandUnsupported, match="exotel"):
        await world.transfer()
    record = await world.book.of_session("s1")
    assert record is not None
    assert record.transfer_to == ""
    assert world.provider.asked == []


def test_telnyx_needs_to_know_its_account() -> None:
    """Calls that come in work without it; the refusal names the setting."""
    account = Account(api_key="key", public_key="", account_sid="", application_id="")
    refusal = Telnyx(account).transfer(Transfer(call_id="c", target=DESK, document_url=""))
    assert isinstance(refusal, str)
    assert "GREENROOM_TELNYX_ACCOUNT_SID" in refusal


async def test_without_an_api_that_could_ask_nothing_is_done() -> None:
    """The command fails at once, and says so."""
    world = World("twilio")
    with pytest.raises(TransferFailed, match="nothing was done"):
        await world.transfer()
