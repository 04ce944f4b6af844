"""What a carrier's stub has to know of its carrier."""

import base64
from collections.abc import Mapping
from typing import Any, Literal, Protocol
from xml.etree import ElementTree as ET

import msgspec

# How a webhook brings its fields: by GET, or by POST.
type By = Literal["query", "form", "json"]
# What comes on a stream: audio to be played, the buffer to be emptied, a mark to be told of, nothing that matters.
type Heard = tuple[Literal["audio", "clear", "mark", "other"], Any]


class Leg(msgspec.Struct, kw_only=True):
    """One call, as its carrier names it."""

    call_id: str
    stream_id: str
    caller: str
    called: str
    outbound: bool = False
    parameters: dict[str, str] = {}


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """What the carrier was told to do."""

    kind: Literal["connect", "hold", "refuse"]
    url: str = ""
    text: str = ""
    pause_s: float = 0.0


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request to the carrier's API."""

    method: str
    path: str
    headers: Mapping[str, str]
    # Of the form or the JSON; what is repeated is a list.
    fields: Mapping[str, Any]


class Dialled(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody is to be called."""

    to: str
    caller: str
    answer_url: str = ""
    status_url: str = ""
    # Told that the phone rings, where that has an address of its own.
    ring_url: str = ""
    machine_url: str = ""
    stream_url: str = ""


class Transferred(msgspec.Struct, frozen=True, kw_only=True):
    """A call is to be taken from its media; by a document that is there, or that is to be asked for."""

    call_id: str
    document: str = ""
    url: str = ""


class Dialect(Protocol):
    """One carrier."""

    name: str
    # Whether audio is mu-law; else PCM.
    mulaw: bool
    # How much audio a message to us has.
    frame_s: float
    # How it asks about a call that came in, and how it says and asks everything else.
    asks_by: By = "form"
    tells_by: By = "form"
    # Whether the carrier says that a buffer is empty by telling all of its marks.
    marks_after_clear: bool

    def settings(self, api_url: str) -> dict[str, str]:
        """Return the settings of our api for this carrier."""
        ...

    def sign(self, method: str, url: str, form: Mapping[str, str], *, at: float | None = None) -> dict[str, str]:
        """Return the headers that a webhook is signed with."""
        ...

    def target(self, url: str) -> str:
        """Return the URL of a webhook, as the customer wrote it down."""
        ...

    def asks(self, leg: Leg) -> dict[str, str]:
        """Return what the carrier says when it asks what to do with a call."""
        ...

    def tells(self, leg: Leg, status: str) -> dict[str, Any]:
        """Return what it says when a call's state has changed."""
        ...

    def reads(self, status: int, body: bytes) -> Answered:
        """Return what it understands of an answer."""
        ...

    def reads_dial(self, document: str | bytes) -> str:
        """Return whom a document connects a call with."""
        ...

    def opening(self, leg: Leg) -> list[dict[str, Any]]:
        """Return its first messages on the media socket."""
        ...

    def media(self, leg: Leg, number: int, payload: bytes) -> dict[str, Any]:
        """Return a message with audio."""
        ...

    def dtmf(self, leg: Leg, digit: str) -> dict[str, Any]:
        """Return a message with a key."""
        ...

    def mark(self, leg: Leg, name: str) -> dict[str, Any]:
        """Return the message that a mark was played."""
        ...

    def stop(self, leg: Leg) -> dict[str, Any] | None:
        """Return its last message; None: it just closes."""
        ...

    def hears(self, leg: Leg, message: dict[str, Any]) -> Heard:
        """Read a message of ours."""
        ...

    def dials(self, request: Request) -> Dialled | None:
        """Return whom a request to its API is to call; None: it asks for something else."""
        ...

    def dialled(self, leg: Leg) -> tuple[int, dict[str, Any]]:
        """Return its answer to that."""
        ...

    def hangs_up(self, request: Request) -> str | None:
        """Return the id of the call that a request is to end; None: it asks for something else."""
        ...

    def hung_up(self, *, known: bool) -> tuple[int, dict[str, Any]]:
        """Return its answer to that."""
        ...

    def transfers(self, request: Request) -> Transferred | None:
        """Return which call a request is to hand over; None: it asks for something else."""
        ...

    def transferred(self, *, known: bool) -> tuple[int, dict[str, Any]]:
        """Return its answer to that."""
        ...

    def authentic(self, request: Request) -> bool:
        """Tell whether a request has the account's credentials."""
        ...


def b64(data: bytes) -> str:
    """Return base64."""
    return base64.b64encode(data).decode()


def basic(user: str, password: str) -> str:
    """Return the header of basic authentication."""
    return f"Basic {b64(f'{user}:{password}'.encode())}"


def read_dial(document: str | bytes, sip: str) -> str:
    """Return whom a document connects a call with; `sip` is the dialect's word for SIP URIs."""
    root = ET.fromstring(document)  # noqa: S314 our own
    assert root.tag == "Response"
    [dial] = root
    [noun] = dial
    target = noun.text or ""
    assert (dial.tag, noun.tag) == ("Dial", "Number" if target.startswith("+") else sip)
    return target


def read_xml(body: bytes, say: str, wait: str) -> Answered:
    """Read a document of either dialect; `say` and `wait` are its words for them."""
    root = ET.fromstring(body)  # noqa: S314 our own
    assert root.tag == "Response"
    stream = root.find(".//Stream")
    if stream is not None:
        return Answered(kind="connect", url=stream.get("url") or (stream.text or ""))
    text = root.findtext(say) or ""
    redirect = root.findtext("Redirect")
    if redirect is not None:
        pause = root.find(wait)
        assert pause is not None
        return Answered(kind="hold", url=redirect, text=text, pause_s=float(pause.get("length", "1")))
    assert root.find("Hangup") is not None or root.find("Reject") is not None, body
    return Answered(kind="refuse", text=text)
