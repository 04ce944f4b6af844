"""The transports a session process knows, by the names that sessions have for them.

Others are entry points of the group `greenroom.session_transports`, by name: something that makes a `SessionTransport`
of what `make_transport` gets. Their other half, in the api, is one of the same name in `greenroom.transports`.
"""

import functools
import importlib
from collections.abc import Callable
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Final

import structlog

from greenroom.common.broker import Broker
from greenroom.common.lifecycle import Session
from greenroom.runner.rtc import ANYWHERE, Network
from greenroom.runner.session.transports.absent import AbsentTransport
from greenroom.runner.session.transports.base import OnConnected, OnDisconnected, SessionTransport

_log = structlog.get_logger()

GROUP: Final = "greenroom.session_transports"

type _Make = Callable[[Session, Broker, OnConnected, OnDisconnected], SessionTransport]


def _websocket(
    session: Session, broker: Broker, on_connected: OnConnected, on_disconnected: OnDisconnected
) -> SessionTransport:
    from greenroom.runner.session.transports.websocket import WebSocketTransport  # noqa: PLC0415

    return WebSocketTransport(session, broker, on_connected, on_disconnected)


def _telephony(
    session: Session, broker: Broker, on_connected: OnConnected, on_disconnected: OnDisconnected
) -> SessionTransport:
    from greenroom.runner.session.transports.telephony import TelephonyTransport  # noqa: PLC0415

    return TelephonyTransport(session, broker, on_connected, on_disconnected)


def _daily(
    session: Session, broker: Broker, on_connected: OnConnected, on_disconnected: OnDisconnected
) -> SessionTransport:
    _need("daily")
    from greenroom.runner.session.transports.daily import DailyRoom  # noqa: PLC0415

    return DailyRoom(session, broker, on_connected, on_disconnected)


def _livekit(
    session: Session, broker: Broker, on_connected: OnConnected, on_disconnected: OnDisconnected
) -> SessionTransport:
    _need("livekit")
    from greenroom.runner.session.transports.livekit import LiveKitRoom  # noqa: PLC0415

    return LiveKitRoom(session, broker, on_connected, on_disconnected)


def _need(package: str) -> None:
    """Make sure that a package is there: Pipecat says of one that isn't with an error of no type."""
    if find_spec(package) is None:
        raise ModuleNotFoundError(name=package)


def _smallwebrtc(
    network: Network, session: Session, broker: Broker, on_connected: OnConnected, on_disconnected: OnDisconnected
) -> SessionTransport:
    from greenroom.runner.session.transports.smallwebrtc import SmallWebRTCTransport  # noqa: PLC0415

    return SmallWebRTCTransport(session, broker, on_connected, on_disconnected, network)


# Each imports what it needs when it is needed: Daily's alone starts ten threads.
_KNOWN: Final[dict[str, _Make]] = {
    "websocket": _websocket,
    **dict.fromkeys(("twilio", "telnyx", "plivo", "exotel", "vobiz"), _telephony),
    "daily": _daily,
    "livekit": _livekit,
}


def make_transport(
    session: Session,
    broker: Broker,
    on_connected: OnConnected,
    on_disconnected: OnDisconnected,
    network: Network = ANYWHERE,
) -> SessionTransport:
    """Return the transport of a session: one that says why where none is known, or what it needs isn't installed."""
    known = {**_KNOWN, "smallwebrtc": functools.partial(_smallwebrtc, network)}
    try:
        make = known.get(session.transport) or _plugged_in(session.transport)
        if make is None:
            return AbsentTransport(f"sessions over {session.transport!r} can't run here")
        return make(session, broker, on_connected, on_disconnected)
    except ImportError as error:
        return AbsentTransport(f"sessions over {session.transport!r} can't run here: {error.name} isn't installed")


def _plugged_in(name: str) -> _Make | None:
    return next((point.load() for point in entry_points(group=GROUP, name=name)), None)


@functools.cache
def _tell_of_taken_names() -> None:
    """Say which plug-ins are never asked for a transport, since their name is one of ours."""
    for point in entry_points(group=GROUP):
        if point.name in {*_KNOWN, "smallwebrtc"}:
            _log.warning("transport_name_taken", transport=point.name, plugin=point.value)


def preload(names: tuple[str, ...]) -> tuple[str, ...]:
    """Import what transports need, before sessions are forked; return those that can be used here.

    aiortc with its codecs costs a process 40 MB and 150 ms: forks share it, runners whose bots don't offer it go
    without. A plug-in with a name of ours is told of here, once, since sessions are many.
    """
    _tell_of_taken_names()
    if "smallwebrtc" not in names:
        return names
    try:
        importlib.import_module("greenroom.runner.session.transports.smallwebrtc")
    except ImportError as error:
        _log.warning("transport_not_installed", transport="smallwebrtc", missing=error.name)
        return tuple(name for name in names if name != "smallwebrtc")
    return names
