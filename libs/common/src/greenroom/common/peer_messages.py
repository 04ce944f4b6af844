"""What the api and a session process say to each other about a browser's peer connection (SmallWebRTC).

    api ── cmd.offer  OfferPeer  ──▶ session process ──▶ PeerAnswered | PeerRefused
    api ── cmd.ice    PeerCandidates ──▶ session process ──▶ PeerAnswered | PeerRefused

The media itself goes from the browser to the session process, past all of us.
"""

from typing import Any

import msgspec

from greenroom.common.errors import GreenroomError


class SdpInvalid(GreenroomError):
    """The session description, or an ICE candidate, isn't one that a peer connection can be made of.

    An offer has audio in its first media section, in a codec that browsers have (Opus, PCMU, PCMA).
    """

    code = "sdp-invalid"
    status = 422
    title = "The session description isn't valid"


class PeerNotFound(GreenroomError):
    """The session has no peer connection with this `pc_id`; begin with an offer without one."""

    code = "peer-not-found"
    status = 404
    title = "There is no such peer connection"


class OfferPeer(msgspec.Struct, frozen=True, kw_only=True):
    """A client's SDP offer: its first one, or another one for the connection that it has."""

    sdp: str
    # The connection it is about; None: a new one.
    pc_id: str | None = None
    # The client has given its connection up and begins a new one in its place.
    restart: bool = False
    # SHA-256 of what the client was let in with: whoever has connected may come again with the same.
    credential: str
    # Whether that is good for a new connection; else only for the connection that was made with it.
    may_open: bool = False
    # What the client says to the bot; nobody has checked it.
    request_data: Any = None


class PeerCandidate(msgspec.Struct, frozen=True, kw_only=True):
    """An ICE candidate of the client; an empty text ends them."""

    candidate: str
    sdp_mid: str | None = None
    sdp_mline_index: int | None = None


class PeerCandidates(msgspec.Struct, frozen=True, kw_only=True):
    """Further ICE candidates of a client's connection."""

    pc_id: str
    candidates: tuple[PeerCandidate, ...]
    credential: str
    may_open: bool = False


class PeerAnswered(msgspec.Struct, frozen=True, kw_only=True, tag="answered"):
    """The session process took it; `sdp` is its answer to an offer."""

    pc_id: str
    sdp: str = ""


class PeerRefused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """The session process didn't take it; `code` is one of the error catalogue."""

    code: str
    detail: str = ""


type PeerReply = PeerAnswered | PeerRefused
