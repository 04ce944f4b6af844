"""Adapters of transports with the provider of each at hand, for what all of them have to keep."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, cast

import httpx

from greenroom.api.auth import Caller
from greenroom.api.carriers import make_carriers
from greenroom.api.carriers.adapter import CarrierAdapter
from greenroom.api.carriers.callbook import CallBook
from greenroom.api.carriers.dials import Dials
from greenroom.api.carriers.links import Links
from greenroom.api.carriers.rest import Rest
from greenroom.api.carriers.settings import CarrierSettings
from greenroom.api.ice import IceServers
from greenroom.api.peer_tokens import PeerTokens
from greenroom.api.phone_numbers import Number
from greenroom.api.tickets import Tickets
from greenroom.api.transports.base import Adapter, Asked
from greenroom.api.transports.daily import DailyAdapter
from greenroom.api.transports.daily_rest import DailyRest
from greenroom.api.transports.livekit import LiveKitAdapter
from greenroom.api.transports.livekit_rest import LiveKitRest
from greenroom.api.transports.livekit_tokens import Signer
from greenroom.api.transports.provider import Provider
from greenroom.api.transports.smallwebrtc import SmallWebRTCAdapter
from greenroom.api.transports.websocket import WebSocketAdapter
from greenroom.api.waiters import Waiters
from greenroom.common.broker import Broker
from greenroom.common.clock import Clock
from greenroom.common.ledger import Ledger
from tests.support import daily_stub, livekit_stub
from tests.support.carriers.exchange import CALLER, CARRIERS, NUMBER, dialect_of
from tests.support.carriers.provider import CarrierProvider
from tests.support.daily_stub import DailyStub
from tests.support.livekit_stub import LiveKitStub
from tests.support.provider_stub import ProviderStub

SECRET = b"gr_the-key-of-the-caller-himself-0123456789"
ASKED = Asked(
    caller=Caller(tenant="default", key_id="k", scopes=frozenset({"*"}), secret=SECRET), origin="https://api.example"
)


@dataclass
class AdapterCase:
    """One adapter.

    Attributes:
        adapter: under test.
        options: that it takes, one after the other; all of them make something where it makes anything.
        provider: behind it; None: there is none.
        left: what is left at the provider, by name.
        keys: secrets of the installation, which nobody gets but the session's process.
        makes: when something is made at the provider: as the way is prepared; when the session is ready, since it would
            ring at once; or never, the way being through this installation alone.
        way_in: whether whoever asks gets in with the answer. Phone calls are told to the carrier instead: it is asked
            to dial, and a call that comes in has the media socket in the document that its webhook is answered with.
        work: what runs beside the adapter in the api.
        closed: called when a session is over, as the edge closes its media socket: calls end with that at a carrier
            whose API ends none.
    """

    adapter: Adapter
    options: tuple[dict[str, Any], ...] = ({},)
    provider: ProviderStub | None = None
    left: Callable[[], set[str]] = field(default=set[str])
    keys: tuple[str, ...] = ()
    makes: Literal["nothing", "at once", "when ready"] = "nothing"
    way_in: bool = True
    work: Callable[[], Awaitable[None]] | None = None
    closed: Callable[[], None] = lambda: None

    @property
    def count(self) -> int:
        """How many things a session has at the provider while it lives."""
        return int(self.makes != "nothing")


def websocket(broker: Broker, clock: Clock) -> AdapterCase:
    """Return the adapter of the api's own WebSocket."""
    return AdapterCase(adapter=WebSocketAdapter(Tickets(broker, clock=clock)), keys=(SECRET.decode(),))


def smallwebrtc(broker: Broker, clock: Clock) -> AdapterCase:
    """Return the adapter of session processes that browsers speak with, with a relay between them."""
    keys: Any = None  # tokens are issued without looking keys up
    ice = IceServers((), ("turn:turn.example:3478",), "what-the-relay-knows", timedelta(hours=1))
    adapter = SmallWebRTCAdapter(PeerTokens(Tickets(broker, clock=clock), keys), ice, clock=clock)
    return AdapterCase(adapter=adapter, keys=(SECRET.decode(), "what-the-relay-knows"))


def daily(broker: Broker, clock: Clock) -> AdapterCase:
    """Return the adapter of Daily."""
    del broker
    stub = DailyStub(now=lambda: clock.now().timestamp())
    headers = {"authorization": f"Bearer {stub.key}"}
    provider = Provider("Daily", "https://daily.example/v1", headers=headers, transport=stub.transport())
    adapter = DailyAdapter(DailyRest(provider), api_key=stub.key, api_url="https://daily.example/v1", clock=clock)
    options: tuple[dict[str, Any], ...] = (
        {},
        {"room": {"geo": "eu-central-1", "max_participants": 5, "sip": {"display_name": "desk"}}},
        {"user": {"user_name": "Ada", "user_id": "u-1", "can_send": ["audio"]}},
        {"dialin": {"call_id": "c-1", "call_domain": "d-1", "to": "+15550100", "from": "+15550101"}},
    )
    return AdapterCase(
        adapter=adapter,
        options=options,
        provider=stub,
        left=lambda: set(stub.rooms),
        keys=(daily_stub.KEY,),
        makes="at once",
    )


def livekit(broker: Broker, clock: Clock) -> AdapterCase:
    """Return the adapter of LiveKit."""
    del broker
    stub = LiveKitStub(now=lambda: clock.now().timestamp())
    signer = Signer(livekit_stub.KEY, livekit_stub.SECRET)
    rest = LiveKitRest(Provider("LiveKit", "https://livekit.example", transport=stub.transport()), signer, clock=clock)
    adapter = LiveKitAdapter(rest, signer, url="wss://livekit.example", clock=clock)
    options: tuple[dict[str, Any], ...] = (
        {},
        {"max_participants": 5, "user": {"identity": "ada", "name": "Ada", "can_publish": ["microphone"]}},
    )
    return AdapterCase(
        adapter=adapter,
        options=options,
        provider=stub,
        left=lambda: set(stub.rooms),
        keys=(livekit_stub.SECRET,),
        makes="at once",
    )


class OneNumber:
    """The numbers of an installation that has one."""

    async def find(self, carrier: str, number: str) -> Number | None:
        """See `Numbers.find`."""
        return Number(carrier=carrier, number=NUMBER, tenant="default", agent="echo") if number == NUMBER else None


def carrier(name: str, broker: Broker, clock: Clock) -> AdapterCase:
    """Return the adapter of a carrier of phone calls, with what dials."""
    dialect = dialect_of(name)
    stub = CarrierProvider(dialect)
    named = dialect.settings("https://carrier.example")
    carriers = make_carriers(CarrierSettings(nats_url="nats://127.0.0.1:1", **cast("Any", named)))
    book, rest = CallBook(broker, clock), Rest(httpx.AsyncClient(transport=stub.transport()))
    ledger = Ledger(broker, clock=clock)
    dials = Dials(
        broker=broker,
        ledger=ledger,
        waiters=Waiters(broker, ledger),
        book=book,
        links=Links(Tickets(broker, clock=clock)),
        rest=rest,
        carriers=carriers,
        clock=clock,
    )
    numbers: Any = OneNumber()
    adapter = CarrierAdapter(carriers[name], numbers=numbers, book=book, dials=dials, rest=rest)
    learning: set[asyncio.Task[None]] = set()

    def learn(session_id: str, call_id: str) -> None:
        # Telnyx doesn't answer with the id of the call that it makes: it comes with the first webhook.
        if name == "telnyx":
            task = asyncio.ensure_future(book.learn(session_id, call_id=call_id))
            learning.add(task)
            task.add_done_callback(learning.discard)

    stub.on_call = learn
    options: tuple[dict[str, Any], ...] = (
        {"to": CALLER, "from": NUMBER},
        {"to": CALLER, "from": NUMBER, "ring_timeout_s": 20, "machine_detection": carriers[name].detects_machines},
    )
    return AdapterCase(
        adapter=adapter,
        options=options,
        provider=stub,
        left=lambda: set(stub.live),
        keys=tuple(value for field, value in named.items() if field.endswith(("_token", "_api_key"))),
        makes="when ready",
        way_in=False,
        work=dials.run,
        closed=stub.close_sockets if name == "exotel" else lambda: None,
    )


CASES: dict[str, Callable[[Broker, Clock], AdapterCase]] = {
    "websocket": websocket,
    "smallwebrtc": smallwebrtc,
    "daily": daily,
    "livekit": livekit,
    **{name: functools.partial(carrier, name) for name in CARRIERS},
}
