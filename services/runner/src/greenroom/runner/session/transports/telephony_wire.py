"""What carriers say when they open a media stream, both ways: what a bot would read, and what one has said.

Pipecat makes a telephony bot's transport from the first two messages of the carrier. Ours is made before the carrier
is there, so that the pipeline runs when the phone is answered: it reads `opening`, with names in place of the ids that
nobody knows yet, and `start_of` finds them in what the carrier says later.

    carrier        first messages                       ids in `start`
    twilio         connected, start                     streamSid, callSid
    telnyx         connected, start                     (outside) stream_id, call_control_id
    plivo, vobiz   start                                streamId, callId
    exotel         connected, start                     stream_sid, call_sid

What the request for the session said in `body` is in the opening of those carriers that have parameters of their own
(Twilio's `customParameters`, Exotel's `custom_parameters`), as text, as their bots know them. So it never goes through
the carrier. What the carrier itself adds in its `start` goes over it.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import msgspec

# Mu-law at 8 kHz, which all but one of the carriers are asked for.
_MULAW: Final = {"encoding": "audio/x-mulaw", "sampleRate": 8000}
# Nothing that carriers send before audio is longer.
_MAX_START_BYTES: Final = 16 * 1024


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """How a media stream begins.

    Attributes:
        stream_id: the carrier's id of the stream, which messages to it must have.
        call_id: its id of the call, which its API takes.
        encoding: of the audio, where the carrier's serializer has to know.
        parameters: what was added to the call, by names; of carriers that have such.
    """

    stream_id: str
    call_id: str
    encoding: str | None = None
    parameters: Mapping[str, str] = {}


class Wire(msgspec.Struct, frozen=True, kw_only=True):
    """One carrier's way to begin.

    Attributes:
        opening: the first two messages, as JSON values, for a start and what is known of the call (`from`, `to`).
        start: reads one message; None: it is none that begins a stream.
        parameters_in: what Pipecat calls the parameters in a bot's call data; None: the carrier has none.
    """

    opening: Callable[[Start, Mapping[str, str]], tuple[Any, Any]]
    start: Callable[[dict[str, Any]], Start | None]
    parameters_in: str | None = None


def opening(carrier: str, start: Start, call: Mapping[str, str]) -> tuple[str, str]:
    """Return the first two messages of a carrier's stream, as Pipecat reads them.

    Args:
        carrier: its name; one of `WIRES`.
        start: ids, or names in place of them.
        call: `from` and `to`, as far as they are known.
    """
    first, second = WIRES[carrier].opening(start, call)
    return msgspec.json.encode(first).decode(), msgspec.json.encode(second).decode()


def parameters_of(body: Mapping[str, Any]) -> dict[str, str]:
    """Return a body as parameters of a call, which are texts: others than texts as JSON."""
    return {
        name: value if isinstance(value, str) else msgspec.json.encode(value).decode() for name, value in body.items()
    }


def start_of(carrier: str, text: str) -> Start | None:
    """Return how a stream begins, from one message of a carrier; None: it says nothing of that."""
    if len(text) > _MAX_START_BYTES:
        return None
    try:
        message = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    if not isinstance(message, dict):
        return None
    found = cast("dict[str, Any]", message)
    if found.get("event") != "start" or not isinstance(found.get("start"), dict):
        return None
    return WIRES[carrier].start(found)


def _twilio_opening(start: Start, call: Mapping[str, str]) -> tuple[Any, Any]:
    return (
        {"event": "connected", "protocol": "Call", "version": "1.0.0"},
        {
            "event": "start",
            "sequenceNumber": "1",
            "start": {
                "streamSid": start.stream_id,
                "callSid": start.call_id,
                "tracks": ["inbound"],
                "mediaFormat": {**_MULAW, "channels": 1},
                "customParameters": {
                    "from_number": call.get("from", ""),
                    "to_number": call.get("to", ""),
                    **start.parameters,
                },
            },
            "streamSid": start.stream_id,
        },
    )


def _telnyx_opening(start: Start, call: Mapping[str, str]) -> tuple[Any, Any]:
    return (
        {"event": "connected", "version": "1.0.0"},
        {
            "event": "start",
            "sequence_number": "1",
            "start": {
                "call_control_id": start.call_id,
                "from": call.get("from", ""),
                "to": call.get("to", ""),
                "media_format": {"encoding": start.encoding or "PCMU", "sample_rate": 8000, "channels": 1},
            },
            "stream_id": start.stream_id,
        },
    )


def _plivo_opening(start: Start, call: Mapping[str, str]) -> tuple[Any, Any]:
    del call  # these carriers don't say
    return (
        {
            "event": "start",
            "sequenceNumber": 1,
            "start": {
                "callId": start.call_id,
                "streamId": start.stream_id,
                "tracks": ["inbound"],
                "mediaFormat": _MULAW,
            },
        },
        # Pipecat reads two messages of whoever it is; here the second would be audio already.
        {"event": "media", "streamId": start.stream_id, "media": {}},
    )


def _exotel_opening(start: Start, call: Mapping[str, str]) -> tuple[Any, Any]:
    return (
        {"event": "connected"},
        {
            "event": "start",
            "sequence_number": "1",
            "stream_sid": start.stream_id,
            "start": {
                "stream_sid": start.stream_id,
                "call_sid": start.call_id,
                "account_sid": call.get("account", ""),
                "from": call.get("from", ""),
                "to": call.get("to", ""),
                "custom_parameters": dict(start.parameters),
                "media_format": {"encoding": "audio/x-raw", "sample_rate": "8000", "bit_rate": "16"},
            },
        },
    )


def _inside(stream: str, call: str, parameters: str = "") -> Callable[[dict[str, Any]], Start | None]:
    """Return how to read a start that has both ids inside, and what was added to the call."""

    def read(message: dict[str, Any]) -> Start | None:
        inside = message["start"]
        return _start(inside.get(stream), inside.get(call), parameters=inside.get(parameters))

    return read


def _telnyx_start(message: dict[str, Any]) -> Start | None:
    inside = message["start"]
    form = inside.get("media_format")
    encoding = cast("dict[str, Any]", form).get("encoding") if isinstance(form, dict) else None
    return _start(message.get("stream_id"), inside.get("call_control_id"), encoding)


def _start(stream_id: object, call_id: object, encoding: object = None, parameters: object = None) -> Start | None:
    if not isinstance(stream_id, str) or not isinstance(call_id, str) or not stream_id or not call_id:
        return None
    return Start(
        stream_id=stream_id,
        call_id=call_id,
        encoding=encoding if isinstance(encoding, str) and encoding else None,
        parameters=parameters_of(cast("dict[str, Any]", parameters)) if isinstance(parameters, dict) else {},
    )


_PLIVO: Final = Wire(opening=_plivo_opening, start=_inside("streamId", "callId"))

WIRES: Final[dict[str, Wire]] = {
    "twilio": Wire(
        opening=_twilio_opening, start=_inside("streamSid", "callSid", "customParameters"), parameters_in="body"
    ),
    "telnyx": Wire(opening=_telnyx_opening, start=_telnyx_start),
    "plivo": _PLIVO,
    "vobiz": _PLIVO,
    "exotel": Wire(
        opening=_exotel_opening,
        start=_inside("stream_sid", "call_sid", "custom_parameters"),
        parameters_in="custom_parameters",
    ),
}
