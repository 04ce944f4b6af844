"""The transports that this installation is set up for: our own, and those of installed packages.

A package adds one by an entry point of the group `greenroom.transports`, whose name is the transport's: something that
makes an `Adapter` of the api's settings, or returns None where it isn't set up. Its other half, in session processes,
is an entry point of the same name in the group `greenroom.session_transports`.
"""

from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

import structlog

from greenroom.api.carriers.base import NAMES as CARRIERS
from greenroom.api.offers import TRANSPORT as SMALLWEBRTC
from greenroom.api.peer_tokens import PeerTokens
from greenroom.api.settings import ApiSettings
from greenroom.api.tickets import Tickets
from greenroom.api.transports.base import Adapter
from greenroom.api.transports.daily import NAME as DAILY
from greenroom.api.transports.daily import DailyAdapter
from greenroom.api.transports.daily_rest import DailyRest
from greenroom.api.transports.livekit import NAME as LIVEKIT
from greenroom.api.transports.livekit import LiveKitAdapter, api_url
from greenroom.api.transports.livekit_rest import LiveKitRest
from greenroom.api.transports.livekit_tokens import Signer
from greenroom.api.transports.provider import Provider
from greenroom.api.transports.smallwebrtc import SmallWebRTCAdapter
from greenroom.api.transports.websocket import NAME as WEBSOCKET
from greenroom.api.transports.websocket import WebSocketAdapter
from greenroom.common.errors import SettingsInvalid

_log = structlog.get_logger()

GROUP: Final = "greenroom.transports"
# Taken whether or not this installation is set up for them: session processes have the other halves anyway.
OURS: Final = frozenset({WEBSOCKET, SMALLWEBRTC, DAILY, LIVEKIT}) | CARRIERS


def adapters(settings: ApiSettings, tickets: Tickets, peer_tokens: PeerTokens) -> list[Adapter]:
    """Return an adapter for each of our own transports whose settings are there."""
    found: list[Adapter] = [WebSocketAdapter(tickets), SmallWebRTCAdapter(peer_tokens, settings.ice)]
    if settings.daily_api_key is not None:
        found.append(_daily(settings, settings.daily_api_key))
    if settings.livekit_url is not None:
        found.append(_livekit(settings, settings.livekit_url))
    return found


def plugged_in(settings: ApiSettings) -> list[Adapter]:
    """Return the adapters that installed packages add; one with a name of ours is left out, and that is logged.

    Raises:
        SettingsInvalid: one can't be made, or isn't called what its entry point is.
    """
    points = entry_points(group=GROUP)
    for point in points:
        if point.name in OURS:
            _log.warning("transport_name_taken", transport=point.name, plugin=point.value)
    made = [_plug_in(point, settings) for point in points if point.name not in OURS]
    return [adapter for adapter in made if adapter is not None]


def _plug_in(point: EntryPoint, settings: ApiSettings) -> Adapter | None:
    try:
        adapter: Any = point.load()(settings)
        name: Any = None if adapter is None else adapter.name
    except Exception as error:
        raise SettingsInvalid(f"the transport {point.name} ({point.value}) can't be made: {error!r}") from error
    if name not in {None, point.name}:
        raise SettingsInvalid(f"the transport {point.name} ({point.value}) calls itself {name!r}")
    return adapter


def _livekit(settings: ApiSettings, url: str) -> LiveKitAdapter:
    # Settings have both or neither.
    signer = Signer(settings.livekit_api_key or "", settings.livekit_api_secret or "")
    return LiveKitAdapter(LiveKitRest(Provider("LiveKit", api_url(url)), signer), signer, url=url)


def _daily(settings: ApiSettings, api_key: str) -> DailyAdapter:
    headers = {"authorization": f"Bearer {api_key}"}
    rest = DailyRest(Provider("Daily", settings.daily_api_url, headers=headers))
    return DailyAdapter(
        rest,
        api_key=api_key,
        api_url=settings.daily_api_url,
        bring=settings.daily_bring_rooms,
        dialout=settings.daily_dialout,
    )
