"""The transports a session process knows, by the names that sessions have for them."""

from collections.abc import Callable
from typing import Final

from greenroom.common.broker import Broker
from greenroom.common.lifecycle import Session
from greenroom.runner.session.transports.absent import AbsentTransport
from greenroom.runner.session.transports.base import OnConnected, OnDisconnected, SessionTransport


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


# Each imports what it needs when it is needed: Daily's alone starts ten threads.
_KNOWN: Final[dict[str, Callable[[Session, Broker, OnConnected, OnDisconnected], SessionTransport]]] = {
    "websocket": _websocket,
    **dict.fromkeys(("twilio", "telnyx", "plivo", "exotel", "vobiz"), _telephony),
}


def make_transport(
    session: Session, broker: Broker, on_connected: OnConnected, on_disconnected: OnDisconnected
) -> SessionTransport:
    """Return the transport of a session: one that says why where none is known, or what it needs isn't installed."""
    make = _KNOWN.get(session.transport)
    if make is None:
        return AbsentTransport(f"sessions over {session.transport!r} can't run here")
    try:
        return make(session, broker, on_connected, on_disconnected)
    except ImportError as error:
        return AbsentTransport(f"sessions over {session.transport!r} can't run here: {error.name} isn't installed")
