"""Adapters of transports with the provider of each at hand, for what all of them have to keep."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from greenroom.api.auth import Caller
from greenroom.api.ice import IceServers
from greenroom.api.peer_tokens import PeerTokens
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
from greenroom.common.broker import Broker
from greenroom.common.clock import Clock
from tests.support import daily_stub, livekit_stub
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
    """

    adapter: Adapter
    options: tuple[dict[str, Any], ...] = ({},)
    provider: ProviderStub | None = None
    left: Callable[[], set[str]] = field(default=set[str])
    keys: tuple[str, ...] = ()


def websocket(broker: Broker, clock: Clock) -> AdapterCase:
    """Return the adapter of the api's own WebSocket."""
    return AdapterCase(adapter=WebSocketAdapter(Tickets(broker, clock=clock), clock=clock), keys=(SECRET.decode(),))


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
        adapter=adapter, options=options, provider=stub, left=lambda: set(stub.rooms), keys=(daily_stub.KEY,)
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
        adapter=adapter, options=options, provider=stub, left=lambda: set(stub.rooms), keys=(livekit_stub.SECRET,)
    )


CASES: dict[str, Callable[[Broker, Clock], AdapterCase]] = {
    "websocket": websocket,
    "smallwebrtc": smallwebrtc,
    "daily": daily,
    "livekit": livekit,
}
