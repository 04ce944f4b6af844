"""What edge and session process say to each other of a client's connection; its frames are in `media_frames`."""

import enum

import msgspec


class MediaKind(enum.IntEnum):
    """First byte of a media message; four bytes of sequence number follow, then the payload."""

    TEXT = 0
    BINARY = 1
    # Payload: close code (2 bytes, big-endian) and reason (UTF-8).
    CLOSE = 2
    # Edge to process: several messages in one; of each its kind (1 byte), length (4 bytes, big-endian) and payload.
    PACKED = 3
    # Process to edge: put so many messages (1 byte) into one, hold none longer than so many milliseconds (2 bytes).
    # Maybe what a lull is, too: how many bytes a message of audio has, where its samples begin, how many there are (4
    # bytes each), from which sum of squares on they are to be heard (8), and the same two bounds for quiet ones (1, 2).
    JOIN = 4


class ConnectMedia(msgspec.Struct, frozen=True, kw_only=True):
    """The edge asks the session process to take a client's WebSocket."""

    connection_id: str
    # Handshake headers that a bot may want to see, names in lower case; no cookies, no authorization.
    headers: dict[str, str] = {}
    query: dict[str, str] = {}
    # Whether the edge can put several messages of the client into one, if it is asked to.
    packs: bool = False


class MediaAccepted(msgspec.Struct, frozen=True, kw_only=True, tag="accepted"):
    """The session process listens: frames may flow."""

    connection_id: str
    subprotocol: str | None = None


class MediaRefused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """The session process doesn't take the client; `code` is one of the error catalogue."""

    code: str
    detail: str = ""


type MediaAnswer = MediaAccepted | MediaRefused
