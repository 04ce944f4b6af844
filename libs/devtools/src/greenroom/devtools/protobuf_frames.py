"""The frames that Pipecat's Protobuf serializer speaks over a WebSocket, without Pipecat.

The message types are described here in code (field numbers as in Pipecat's frames.proto), so that no generated
file has to be kept in step with a protobuf release.
"""

from typing import Any, Final

import msgspec
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_STRING, _BYTES, _UINT32, _UINT64 = _Field.TYPE_STRING, _Field.TYPE_BYTES, _Field.TYPE_UINT32, _Field.TYPE_UINT64

_MESSAGES: Final[dict[str, tuple[tuple[str, int, int], ...]]] = {
    "TextFrame": (("id", 1, _UINT64), ("name", 2, _STRING), ("text", 3, _STRING)),
    "AudioRawFrame": (
        ("id", 1, _UINT64),
        ("name", 2, _STRING),
        ("audio", 3, _BYTES),
        ("sample_rate", 4, _UINT32),
        ("num_channels", 5, _UINT32),
    ),
    "TranscriptionFrame": (("id", 1, _UINT64), ("name", 2, _STRING), ("text", 3, _STRING), ("user_id", 4, _STRING)),
    "MessageFrame": (("data", 1, _STRING),),
    "InterruptionFrame": (("id", 1, _UINT64), ("name", 2, _STRING)),
}
# The order is the field number in the `oneof`.
_CHOICES: Final = (
    ("text", "TextFrame"),
    ("audio", "AudioRawFrame"),
    ("transcription", "TranscriptionFrame"),
    ("message", "MessageFrame"),
    ("interruption", "InterruptionFrame"),
)


class Audio(msgspec.Struct, frozen=True, kw_only=True):
    """Mono or interleaved PCM, 16 bit little-endian; `rate` in samples per second."""

    pcm: bytes
    rate: int
    channels: int = 1


class Interruption(msgspec.Struct, frozen=True, kw_only=True):
    """The bot was interrupted: audio that waits to be played is void."""


class Text(msgspec.Struct, frozen=True, kw_only=True):
    """Text or a JSON message from the bot."""

    text: str


type ReceivedFrame = Audio | Interruption | Text


def _frame_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="greenroom/caller_frames.proto", package="pipecat", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            message.field.add(name=field, number=number, type=kind, label=_Field.LABEL_OPTIONAL)
    frame = file.message_type.add(name="Frame")
    frame.oneof_decl.add(name="frame")
    for number, (field, type_name) in enumerate(_CHOICES, start=1):
        frame.field.add(
            name=field,
            number=number,
            type=_Field.TYPE_MESSAGE,
            type_name=f".pipecat.{type_name}",
            label=_Field.LABEL_OPTIONAL,
            oneof_index=0,
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("pipecat.Frame"))


_Frame: Final = _frame_class()


def encode_audio(pcm: bytes, rate: int) -> bytes:
    """Return a frame with mono PCM16 audio, ready to be sent."""
    frame = _Frame()
    frame.audio.audio = pcm
    frame.audio.sample_rate = rate
    frame.audio.num_channels = 1
    return frame.SerializeToString()


def decode(data: bytes) -> ReceivedFrame | None:
    """Return what the bot sent, or None for a frame that means nothing to a caller.

    Raises:
        google.protobuf.message.DecodeError: it isn't a frame.
    """
    frame = _Frame.FromString(data)
    match frame.WhichOneof("frame"):
        case "audio":
            return Audio(pcm=frame.audio.audio, rate=frame.audio.sample_rate, channels=frame.audio.num_channels or 1)
        case "interruption":
            return Interruption()
        case "text":
            return Text(text=frame.text.text)
        case "message":
            return Text(text=frame.message.data)
        case _:
            return None
