"""Commands to a live session: what can be asked of it, and what it answers.

A command has an id, given by whoever sends it or made for him. It travels as a request on `cmd.command` of its session
and is carried out at most once: the session's process remembers the ids it has seen, and the api writes down what was
answered, so the same id gets the same answer wherever and whenever it is asked again.

What a process doesn't know it refuses rather than carry out half of it, so unlike other messages these refuse fields
they don't have.
"""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

# Beyond this nobody listens, and no model takes it in.
MAX_TEXT: Final = 4_000
MAX_DIGITS: Final = 64
# What a function of the bot's may be given, and may return, as JSON.
MAX_ARGUMENTS_BYTES: Final = 16 * 1024
MAX_RESULT_BYTES: Final = 64 * 1024
# Replies must be sent within 30 s (`allow_responses` in deploy/nomad/nats).
MAX_CALL_S: Final = 20.0
# Of an answer of the bot's own routes: as JSON it must go into one message of 1 MiB.
MAX_HTTP_BYTES: Final = 512 * 1024
# Of a part of an answer that comes in parts.
MAX_HTTP_PART_BYTES: Final = 128 * 1024
MAX_SETTINGS: Final = 32

_PHONE_NUMBER: Final = r"\+[1-9][0-9]{5,14}"
_SIP_URI: Final = r"sips?:[A-Za-z0-9._~!$&'()*+,;=:@%/?\[\]-]{1,500}"
# A phone number with its country's code, a SIP URI, and either of them.
PHONE_NUMBER: Final = rf"^{_PHONE_NUMBER}(?!\n)$"
SIP_URI: Final = rf"^{_SIP_URI}(?!\n)$"
TRANSFER_TARGET: Final = rf"^({_PHONE_NUMBER}|{_SIP_URI})(?!\n)$"

# The lookahead is for Python's `$`, which also matches before a last newline.
type CommandId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:-]{1,128}(?!\n)$")]
type Text = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]
type Scalar = str | int | float | bool | None
type Settings = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=64)], Scalar], Meta(max_length=MAX_SETTINGS)
]
type Side = Literal["user", "bot"]
type TransferMode = Literal["cold", "warm"]
type Role = Literal["system", "developer", "user", "assistant"]


class Say(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="say"):
    """Have the bot speak `text`: behind what it is saying, or at once in place of it (`interrupt`)."""

    text: Text
    interrupt: bool = False
    # Whether the model will know that it was said.
    remember: bool = True


class BargeIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="barge_in"):
    """A supervisor cuts in: what the bot is saying ends, and `text` is spoken into the call in its voice."""

    text: Text


class Inject(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="inject"):
    """Add a message to the model's context, which nobody hears.

    With `run` the model answers to it: at once, and instead of what is being said (`interrupt`), or when the bot has
    finished.
    """

    text: Text
    role: Role = "developer"
    run: bool = True
    interrupt: bool = False


class Whisper(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="whisper"):
    """A supervisor tells the bot something that the user doesn't hear; it goes by it from its next answer on."""

    text: Text


class Interrupt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="interrupt"):
    """End what the bot is saying and about to say, as if the user had cut in."""


class Configure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="configure"):
    """Change settings of the bot's services while it runs.

    `version` must be higher than the one that is applied; the answer names the one that is applied then. `voice` is
    short for a setting of `tts`, `model` for one of `llm`, `language` for one of both `tts` and `stt`. `mode` and
    `values` are for the bot itself, which takes them if it exposes a function `configure`.
    """

    version: Annotated[int, Meta(ge=1, le=2**53)]
    voice: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    model: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    language: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    mode: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    llm: Settings = {}
    tts: Settings = {}
    stt: Settings = {}
    values: Settings = {}


class Mute(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="mute"):
    """Silence one side: for the other one, for the recording and for whoever listens in. `dtmf` is still heard."""

    side: Side


class Unmute(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="unmute"):
    """Let one side be heard again."""

    side: Side


class Transfer(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag="transfer"
):
    """Hand the caller over to `target`, a SIP URI or a phone number with its country's code (`+4930…`).

    Where the transport can't, it is refused. `cold`: of a phone call the session is over then, the carrier takes it
    away. `warm`: the bot has the operator called into the room, for `answer_timeout_s` at most, tells him the `summary`
    and leaves; if he can't be reached the call goes on with the bot. With `store_summary` it is kept with the session's
    event `transfer_requested`.
    """

    # What isn't said isn't sent: processes of earlier releases know only the first.
    target: Annotated[str, Meta(min_length=1, max_length=512)]
    mode: TransferMode = "cold"
    summary: Text | None = None
    store_summary: bool = False
    answer_timeout_s: Annotated[float, Meta(ge=1, le=60)] = 30.0


class Dtmf(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="dtmf"):
    """Press keys of the phone, behind what the bot is saying."""

    digits: Annotated[str, Meta(pattern=r"^[0-9*#]{1,64}(?!\n)$")]


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="snapshot"):
    """Ask how the session stands: `SessionState`."""


class Stop(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="stop"):
    """End the session: the bot may finish its sentence, or not (`now`)."""

    now: bool = False
    reason: Annotated[str, Meta(max_length=200)] | None = None


class Call(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="call"):
    """Call a function that the bot exposes; `snapshot` lists them with the schemas of their arguments."""

    function: Annotated[str, Meta(min_length=1, max_length=128)]
    arguments: dict[str, Any] = {}
    # It is canceled after this.
    timeout_s: Annotated[float, Meta(gt=0, le=MAX_CALL_S)] = 10.0


type Command = (
    Say | BargeIn | Inject | Whisper | Interrupt | Configure | Mute | Unmute | Transfer | Dtmf | Snapshot | Stop | Call
)


class CommandRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A command on its way; `by` is the id of the key it was sent with."""

    id: CommandId
    by: str
    at: datetime
    command: Command


class CommandDone(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """It was carried out; `result` depends on the command."""

    id: str
    result: dict[str, Any] = {}


class CommandRefused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """It wasn't carried out; `code` is one of the error catalogue."""

    id: str
    code: str
    detail: str = ""


type CommandAnswer = CommandDone | CommandRefused


class TransferCall(msgspec.Struct, frozen=True, kw_only=True):
    """Asks the api, which has the carrier's account, to have the session's phone call handed over to `target`.

    It is asked once: where no answer comes nobody knows, and nobody asks again.
    """

    id: CommandId
    target: Annotated[str, Meta(pattern=TRANSFER_TARGET)]


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was said."""

    who: Side
    text: str
    start_ms: int


class ExposedFunction(msgspec.Struct, frozen=True, kw_only=True):
    """A function of the bot's that can be called; `arguments` is a JSON Schema."""

    name: str
    description: str = ""
    arguments: dict[str, Any] = {}


class SessionState(msgspec.Struct, frozen=True, kw_only=True):
    """How a session stands; the result of a `snapshot`."""

    connected: bool
    # Since its client connected, in milliseconds.
    duration_ms: int
    # Where its flow stands, if it follows one.
    node: str | None = None
    turns: int = 0
    muted: tuple[Side, ...] = ()
    # Of the last `configure`; 0 before the first.
    settings_version: int = 0
    # The last things that were said, the oldest first.
    lines: tuple[Line, ...] = ()
    # Frames: received, sent, lost, ….
    media: dict[str, Any] = {}
    listeners: int = 0
    functions: tuple[ExposedFunction, ...] = ()


# ---------------------------------------------------------------------------- listening in


class Listen(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody listens in; said again and again while it lasts, for audio flows only while somebody does."""

    listener_id: str
    by: str
    # Audio may be spoken into the call.
    barge_in: bool = False
    # How long this holds.
    lease_s: Annotated[float, Meta(gt=0, le=30)] = 5.0
    # The listener has left.
    over: bool = False


class Listening(msgspec.Struct, frozen=True, kw_only=True):
    """The session process knows; `rate` is of the audio, in samples per second."""

    listeners: int
    rate: int = 16_000


# ---------------------------------------------------------------------------- the bot's own HTTP


class HttpHeader(msgspec.Struct, frozen=True, kw_only=True):
    """A header of a request or an answer; a name may come more than once."""

    name: str
    value: str


class HttpCall(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP request for the routes that the bot itself has; `by` is the id of the key it was sent with."""

    by: str
    method: str
    # Begins with a slash; decoded.
    path: str
    query: str = ""
    headers: tuple[HttpHeader, ...] = ()
    body: bytes = b""
    timeout_s: Annotated[float, Meta(gt=0, le=MAX_CALL_S)] = 10.0
    # Whether the answer may come in parts (`HttpNext`); else it has to come as a whole.
    streams: bool = False


class HttpAnswered(msgspec.Struct, frozen=True, kw_only=True, tag="answered"):
    """What the bot's route answered."""

    status: int
    headers: tuple[HttpHeader, ...] = ()
    body: bytes = b""
    # More of the body follows: ask for it by this id.
    stream: str | None = None


class HttpRefused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """The bot has no routes, or they failed; `code` is one of the error catalogue."""

    code: str
    detail: str = ""


type HttpAnswer = HttpAnswered | HttpRefused


class HttpNext(msgspec.Struct, frozen=True, kw_only=True):
    """Asks for the next part of an answer that comes in parts; nothing is sent that wasn't asked for."""

    stream: str
    # How long to wait for there to be something.
    wait_s: Annotated[float, Meta(ge=0, le=MAX_CALL_S)] = 10.0
    # The client has gone: there will be no further question.
    stop: bool = False


class HttpPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part of an answer; an empty one with `more` means that there is nothing yet."""

    body: bytes = b""
    more: bool = False
    # The answer is incomplete: the route raised, was given up, or isn't known (any more).
    broken: bool = False


def kind_of(command: Command) -> str:
    """Return the name of a command: its tag."""
    return str(command.__struct_config__.tag)
