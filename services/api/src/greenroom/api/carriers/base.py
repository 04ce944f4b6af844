"""What a telephone carrier is to this service: webhooks that come from it, documents it is answered with, its API.

A carrier is a small module without any I/O: it reads what comes in and says what is to be sent. What is common to all
is done once: `calls` answers webhooks, `dialer` calls people, `adapter` is the transport, `rest` speaks HTTP.
"""

import enum
from collections.abc import Mapping
from datetime import datetime
from typing import Final, Literal, Protocol

import msgspec

from greenroom.common.errors import GreenroomError

# All that there are, whichever of them an installation is set up with.
NAMES: Final = frozenset({"twilio", "telnyx", "plivo", "exotel", "vobiz"})

type Direction = Literal["inbound", "outbound"]


class WebhookUnsigned(GreenroomError):
    """A webhook isn't from the carrier, or not for this address: its signature is missing or wrong.

    The carrier signs the public URL: GREENROOM_PUBLIC_URL has to be what the carrier was given, and the carrier's token
    or public key in the settings the one of the account that has the number.
    """

    code = "webhook-unsigned"
    status = 403
    title = "The webhook's signature is wrong"


class WebhookReplayed(GreenroomError):
    """A webhook was seen before with another content, or is too old. Check the clock of this machine."""

    code = "webhook-replayed"
    status = 403
    title = "The webhook was sent before"


class WebhookMalformed(GreenroomError):
    """A webhook is signed, but lacks what its kind must have; the detail names it. Is it the URL for this kind?"""

    code = "webhook-malformed"
    status = 400
    title = "The webhook lacks something"


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """A request of a carrier.

    Attributes:
        method: GET or POST.
        url: as the carrier was given it: the public origin, path and query.
        headers: names in lower case.
        query: of the URL.
        form: of the body, if it is a form (or flat JSON), else empty.
        body: as it came.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    query: Mapping[str, str] = {}
    form: Mapping[str, str] = {}
    body: bytes = b""

    @property
    def fields(self) -> dict[str, str]:
        """All that it says, form over query."""
        return {**self.query, **self.form}

    def need(self, *names: str) -> str:
        """Return the first of fields that is there.

        Raises:
            WebhookMalformed: none is.
        """
        fields = self.fields
        for name in names:
            if value := fields.get(name):
                return value
        raise WebhookMalformed(f"{' or '.join(names)} is missing.")


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A call, as a carrier names it; numbers as it writes them."""

    call_id: str
    caller: str = ""
    called: str = ""


class Status(enum.StrEnum):
    """How a call stands, in one vocabulary for all carriers."""

    QUEUED = "queued"
    RINGING = "ringing"
    ANSWERED = "answered"
    COMPLETED = "completed"
    BUSY = "busy"
    NO_ANSWER = "no-answer"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def final(self) -> bool:
        """Whether the call is over."""
        return self in _FINAL


_FINAL = frozenset({Status.COMPLETED, Status.BUSY, Status.NO_ANSWER, Status.FAILED, Status.CANCELED})


class CallNews(msgspec.Struct, frozen=True, kw_only=True):
    """What a carrier says of a call while it goes on, or at its end.

    Attributes:
        call: which.
        status: how it stands; None: nothing that is known here.
        told: in the carrier's own word.
        cause: why it ended, in the carrier's own words.
        duration_s: how long it took.
    """

    call: Call
    status: Status | None
    told: str
    cause: str = ""
    duration_s: int | None = None


type AnsweredBy = Literal["human", "machine", "fax", "unknown"]


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """An answer to a webhook."""

    body: bytes
    media_type: str = "application/xml"
    status: int = 200


class RestRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to a carrier's API.

    Attributes:
        method: of HTTP.
        url: absolute.
        form: body, as a form; a list is repeated.
        json: body, as JSON.
        headers: authentication among them.
        basic: user and password, if that is how one authenticates.
    """

    method: str
    url: str
    form: Mapping[str, str | list[str]] | None = None
    json: Mapping[str, object] | None = None
    headers: Mapping[str, str] = {}
    basic: tuple[str, str] | None = None


class RestAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a carrier's API answered; `body` is its JSON, empty if there is none."""

    status: int
    body: Mapping[str, object] = {}


class Dial(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to call, and where the carrier shall ask and tell.

    Attributes:
        to: number to call.
        caller: number that is shown; one of ours.
        answer_url: asked once somebody picks up.
        status_url: told how the call stands.
        machine_url: told who picked up; None: nobody wants to know.
        stream_url: of the media, for a carrier that is told when it dials.
        ring_timeout_s: how long to ring.
    """

    to: str
    caller: str
    answer_url: str
    status_url: str
    machine_url: str | None
    stream_url: str
    ring_timeout_s: int


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """Which call is to be handed over.

    Attributes:
        call_id: its id.
        target: a phone number with its country's code, or a SIP URI.
        document_url: asked by a carrier that fetches what to do (`put_through`) rather than being told.
    """

    call_id: str
    target: str
    document_url: str


class Carrier(Protocol):
    """One carrier, set up with an account."""

    # As transports, numbers and URLs name it.
    name: str
    # How long it may be kept waiting for an answer to a webhook; it would wait longer itself, but so does the caller.
    answer_within_s: float
    # Whether it can be told to wait and ask again.
    holds: bool
    # Whether it says who picked up.
    detects_machines: bool
    # Whether it writes numbers with the country's code, but without the plus in front of it.
    leaves_out_plus: bool

    @property
    def secret(self) -> bytes:
        """What only the carrier and this installation know; tickets and references are derived from it."""
        ...

    @property
    def environment(self) -> dict[str, str]:
        """What a bot needs to hang up, by the names of environment variables that Pipecat reads."""
        ...

    @property
    def bot_api_url(self) -> str:
        """Where a bot's serializer reaches this account's API; empty: it would ask somebody else, and mustn't."""
        ...

    def verify(self, webhook: Webhook, now: datetime) -> str | None:
        """Make sure that a webhook is the carrier's; return its nonce, if it has one.

        Raises:
            WebhookUnsigned: it isn't, or not for this address.
            WebhookReplayed: it is too old.
        """
        ...

    def call(self, webhook: Webhook) -> Call:
        """Return which call a webhook asks about. Raises `WebhookMalformed`."""
        ...

    def news(self, webhook: Webhook) -> CallNews:
        """Return how a call stands. Raises `WebhookMalformed`."""
        ...

    def answered_by(self, webhook: Webhook) -> tuple[AnsweredBy, str] | None:
        """Return who picked up, and the carrier's own word for it; None: it doesn't say."""
        ...

    def connect(self, stream_url: str) -> Document:
        """Return the document that connects a call with a media socket."""
        ...

    def hold(self, text: str, again_url: str, pause_s: int) -> Document:
        """Return the document that says a text, waits, and asks again."""
        ...

    def refuse(self, text: str) -> Document:
        """Return the document that says a text, or that the line is busy, and ends the call."""
        ...

    def dial(self, dial: Dial) -> RestRequest:
        """Return the request that calls somebody."""
        ...

    def dialled(self, answer: RestAnswer) -> str:
        """Return the id of the call that was made; empty: the carrier tells it later."""
        ...

    def hang_up(self, call_id: str) -> tuple[RestRequest, ...]:
        """Return the requests that end a call, the second if there is nothing to the first; none: it can't be asked to.

        A call whose media socket is closed ends by itself.
        """
        ...

    def transfer(self, transfer: Transfer) -> RestRequest | str:
        """Return the request that takes a call from its media socket and hands it over; text: why there is none."""
        ...

    def put_through(self, target: str) -> Document:
        """Return the document that connects a call with a phone number or a SIP URI, and ends it after that."""
        ...

    def is_over(self, answer: RestAnswer) -> bool:
        """Tell whether the refusal of a hang-up means that there is no such call any more."""
        ...
