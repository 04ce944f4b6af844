"""The transports that this installation is set up for."""

from greenroom.api.peer_tokens import PeerTokens
from greenroom.api.settings import ApiSettings
from greenroom.api.tickets import Tickets
from greenroom.api.transports.base import Adapter
from greenroom.api.transports.daily import DailyAdapter
from greenroom.api.transports.daily_rest import DailyRest
from greenroom.api.transports.livekit import LiveKitAdapter, api_url
from greenroom.api.transports.livekit_rest import LiveKitRest
from greenroom.api.transports.livekit_tokens import Signer
from greenroom.api.transports.provider import Provider
from greenroom.api.transports.smallwebrtc import SmallWebRTCAdapter
from greenroom.api.transports.websocket import WebSocketAdapter


def adapters(settings: ApiSettings, tickets: Tickets, peer_tokens: PeerTokens) -> list[Adapter]:
    """Return an adapter for each transport whose settings are there."""
    found: list[Adapter] = [WebSocketAdapter(tickets), SmallWebRTCAdapter(peer_tokens, settings.ice)]
    if settings.daily_api_key is not None:
        found.append(_daily(settings, settings.daily_api_key))
    if settings.livekit_url is not None:
        found.append(_livekit(settings, settings.livekit_url))
    return found


def _livekit(settings: ApiSettings, url: str) -> LiveKitAdapter:
    # Settings have both or neither.
    signer = Signer(settings.livekit_api_key or "", settings.livekit_api_secret or "")
    return LiveKitAdapter(LiveKitRest(Provider("LiveKit", api_url(url)), signer), signer, url=url)


def _daily(settings: ApiSettings, api_key: str) -> DailyAdapter:
    headers = {"authorization": f"Bearer {api_key}"}
    rest = DailyRest(Provider("Daily", settings.daily_api_url, headers=headers))
    return DailyAdapter(rest, api_key=api_key, api_url=settings.daily_api_url, bring=settings.daily_bring_rooms)
