"""Offers of browsers, brought to the session's process and back (SmallWebRTC).

An offer may come before the session is ready: it waits, as a media socket does. Then it goes to the process by
request and reply. Nobody there, or no reply in time, is a typed problem; the browser may send the offer again, which
takes the place of the one before.
"""

import asyncio
from typing import Any, Final, Literal

import msgspec
import structlog
from opentelemetry.trace import SpanKind

from greenroom.api.bridge import MediaNotTaken, SessionNotReady
from greenroom.api.peer_tokens import Entrant
from greenroom.api.waiters import Waiters
from greenroom.common import messages, subjects, telemetry
from greenroom.common.broker import Broker, NoResponder, RequestTimeout
from greenroom.common.errors import (
    GreenroomError,
    MediaAlreadyConnected,
    SessionEnded,
    SessionNotFound,
    TicketInvalid,
)
from greenroom.common.ids import is_uuid
from greenroom.common.ledger import Ledger
from greenroom.common.lifecycle import Session, State
from greenroom.common.peer_messages import (
    OfferPeer,
    PeerAnswered,
    PeerCandidate,
    PeerCandidates,
    PeerNotFound,
    PeerRefused,
    PeerReply,
    SdpInvalid,
)

_log = structlog.get_logger()

TRANSPORT: Final = "smallwebrtc"
WATCHED: Final = frozenset({State.REQUESTED, State.READY, State.ENDING, State.ENDED})
_OVER: Final = frozenset({State.ENDING, State.ENDED})
# A process answers in 20–40 ms; with a relay that doesn't answer, gathering candidates alone takes 5 s.
REPLY_TIMEOUT_S: Final = 10.0
# The ledger says ready some milliseconds before the broker knows the process' subscriptions, and for some seconds after
# the process was lost.
NOBODY_TIMEOUT_S: Final = 2.0
_NOBODY_RETRY_S: Final = 0.1
# A browser's offer has 2–12 KiB.
MAX_SDP: Final = 48 * 1024


class WrongTransport(GreenroomError):
    """The session isn't one that offers are sent to: its `transport` says how to connect."""

    code = "wrong-transport"
    status = 409
    title = "The session has another transport"


class OfferTimedOut(GreenroomError):
    """The session's process didn't answer in time: it is overloaded, or hangs. The offer may be sent again."""

    code = "offer-timed-out"
    status = 504
    title = "The offer wasn't answered in time"
    retryable = True
    default_retry_after_s = 1.0


_REPLY: Final = msgspec.json.Decoder[PeerReply](PeerAnswered | PeerRefused)
_REFUSALS: Final[dict[str, type[GreenroomError]]] = {
    error.code: error for error in (SessionEnded, MediaAlreadyConnected, TicketInvalid, SdpInvalid, PeerNotFound)
}


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """An SDP offer, as Pipecat's clients send it; fields that we don't know are left alone."""

    sdp: str
    type: Literal["offer"]
    # Of the connection that it changes; without it, it is a new one.
    pc_id: str | None = None
    # Begin that connection anew.
    restart_pc: bool | None = None
    # For the bot: `webrtc_connection.request_data`. Some clients write it in the other way.
    request_data: Any = None
    requestData: Any = None  # noqa: N815


class OfferAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The session's answer."""

    sdp: str
    type: str = "answer"
    pc_id: str


class Candidates(msgspec.Struct, frozen=True, kw_only=True):
    """ICE candidates, as Pipecat's clients send them; an empty one ends them."""

    pc_id: str
    candidates: list[PeerCandidate] = []


class CandidatesTaken(msgspec.Struct, frozen=True, kw_only=True):
    """The session's process has them."""

    status: str = "success"


class Offers:
    """Brings offers and candidates to session processes.

    Args:
        broker: carries them.
        ledger: says which sessions are there.
        waiters: waits for those that aren't ready.
        hold_s: how long.
    """

    def __init__(self, *, broker: Broker, ledger: Ledger, waiters: Waiters, hold_s: float) -> None:
        self._broker = broker
        self._ledger = ledger
        self._waiters = waiters
        self._hold_s = hold_s

    async def offer(self, entrant: Entrant, session_id: str, offer: Offer) -> OfferAnswer:
        """Bring an offer.

        Raises:
            SessionNotFound, SessionEnded, WrongTransport: there is nobody to bring it to.
            SessionNotReady: it can't be brought yet; nothing happened.
            SdpInvalid: the offer can't be answered.
            TicketInvalid: the token has expired, and this isn't the connection that was made with it.
            MediaAlreadyConnected: somebody else is connected.
            OfferTimedOut: no answer in time.
            BrokerUnavailable: it isn't known whether the offer arrived.
        """
        if not offer.sdp.startswith("v=0") or len(offer.sdp) > MAX_SDP:
            raise SdpInvalid("It doesn't begin with v=0, or is too long.")
        request = OfferPeer(
            sdp=offer.sdp,
            pc_id=offer.pc_id,
            restart=offer.restart_pc or False,
            credential=entrant.credential,
            may_open=entrant.may_open,
            request_data=offer.request_data if offer.request_data is not None else offer.requestData,
        )
        session = await self._ready(entrant.tenant, session_id)
        with telemetry.session_span(
            "media.connect",
            session_id=session.id,
            tenant=session.tenant,
            traceparent=session.traceparent,
            kind=SpanKind.SERVER,
        ):
            answered = await self._ask(session, "offer", request)
        _log.info("offer_answered", session_id=session.id, tenant=session.tenant)
        return OfferAnswer(sdp=answered.sdp, pc_id=answered.pc_id)

    async def candidates(self, entrant: Entrant, session_id: str, given: Candidates) -> None:
        """Bring ICE candidates. Raises as `offer`, and `PeerNotFound`: there is no such connection."""
        request = PeerCandidates(
            pc_id=given.pc_id,
            candidates=tuple(given.candidates),
            credential=entrant.credential,
            may_open=entrant.may_open,
        )
        session = await self._ready(entrant.tenant, session_id)
        await self._ask(session, "ice", request)

    async def _ready(self, tenant: str, session_id: str) -> Session:
        if not is_uuid(session_id):
            raise SessionNotFound
        async with self._waiters.watch(tenant, session_id, WATCHED) as watch:
            entry = await self._ledger.last(tenant, session_id)
            if entry is None:
                raise SessionNotFound(f"There is no session {session_id}.")
            if entry.session.transport != TRANSPORT:
                raise WrongTransport(f"The session's transport is {entry.session.transport}.")
            if entry.session.state is not State.READY:
                entry = await self._waiters.wait(watch, entry, _decided, self._hold_s)
        match entry.session.state:
            case State.READY:
                return entry.session
            case State.ENDING | State.ENDED:
                raise SessionEnded(f"The session has ended: {entry.session.reason}.")
            case state:
                raise SessionNotReady(f"The session is still {state}.")

    async def _ask(self, session: Session, name: str, request: msgspec.Struct) -> PeerAnswered:
        subject = subjects.SESSION_CMD.format(tenant=session.tenant, session_id=session.id, name=name)
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + NOBODY_TIMEOUT_S
        while True:
            try:
                message = await self._broker.request(subject, messages.encode(request), timeout_s=REPLY_TIMEOUT_S)
                break
            except RequestTimeout as error:
                raise OfferTimedOut from error
            except NoResponder as error:
                if loop.time() > give_up_at:
                    raise SessionNotReady("The session's process isn't there.") from error
                await asyncio.sleep(_NOBODY_RETRY_S)
        reply = _REPLY.decode(message.data)
        if isinstance(reply, PeerAnswered):
            return reply
        refusal = _REFUSALS.get(reply.code)
        if refusal is None:
            raise MediaNotTaken(f"The session's process said {reply.code}.")
        raise refusal(reply.detail)


def _decided(session: Session) -> bool:
    return session.state is State.READY or session.state in _OVER
