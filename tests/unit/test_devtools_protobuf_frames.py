"""The caller's frames against Pipecat's own serializer, in both directions."""

import pytest
from google.protobuf.message import DecodeError
from pipecat.frames.frames import (
    EndFrame,
    InputAudioRawFrame,
    InterruptionFrame,
    OutputAudioRawFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
    TextFrame,
    TranscriptionFrame,
)
from pipecat.frames.protobufs import frames_pb2
from pipecat.serializers.protobuf import ProtobufFrameSerializer

from greenroom.devtools import protobuf_frames
from greenroom.devtools.protobuf_frames import Audio, Interruption, Text

PCM = bytes(range(256)) * 5


async def test_pipecat_hears_what_the_caller_sends() -> None:
    """The same samples, at the same rate, on one channel."""
    frame = await ProtobufFrameSerializer().deserialize(protobuf_frames.encode_audio(PCM, 16_000))
    assert isinstance(frame, InputAudioRawFrame)
    assert (frame.audio, frame.sample_rate, frame.num_channels) == (PCM, 16_000, 1)


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        (
            OutputAudioRawFrame(audio=PCM, sample_rate=24_000, num_channels=1),
            Audio(pcm=PCM, rate=24_000, channels=1),
        ),
        (
            OutputAudioRawFrame(audio=PCM, sample_rate=48_000, num_channels=2),
            Audio(pcm=PCM, rate=48_000, channels=2),
        ),
        (InterruptionFrame(), Interruption()),
        (TextFrame(text="grüße"), Text(text="grüße")),
        (OutputTransportMessageFrame(message={"a": [1]}), Text(text='{"a": [1]}')),
        (OutputTransportMessageUrgentFrame(message={"label": "rtvi-ai"}), Text(text='{"label": "rtvi-ai"}')),
    ],
    ids=["audio", "stereo", "interruption", "text", "message", "urgent message"],
)
async def test_the_caller_understands_what_pipecat_sends(sent: object, received: object) -> None:
    """Audio, interruptions, text and messages."""
    data = await ProtobufFrameSerializer().serialize(sent)  # pyright: ignore[reportArgumentType] - any of its frames
    assert isinstance(data, bytes)
    assert protobuf_frames.decode(data) == received


async def test_frames_that_mean_nothing_to_a_caller_are_none() -> None:
    """A transcription is for others, and what a later Pipecat adds is passed over."""
    data = await ProtobufFrameSerializer().serialize(TranscriptionFrame(text="hi", user_id="u", timestamp="t"))
    assert isinstance(data, bytes)
    assert protobuf_frames.decode(data) is None
    assert protobuf_frames.decode(b"") is None
    later_field = b"\x7a\x02hi"  # field 15, two bytes
    assert protobuf_frames.decode(later_field) is None
    assert await ProtobufFrameSerializer().serialize(EndFrame()) is None


def test_what_is_no_frame_is_an_error() -> None:
    """The caller learns that somebody else talks on this socket."""
    with pytest.raises(DecodeError):
        protobuf_frames.decode(b"hello, this is text")


def test_the_described_fields_are_those_of_pipecat() -> None:
    """Same numbers, names and kinds; Pipecat may have more than we read."""
    theirs = frames_pb2.Frame.DESCRIPTOR  # pyright: ignore[reportAttributeAccessIssue] - made when it is imported
    ours = protobuf_frames._Frame.DESCRIPTOR
    assert [(field.name, field.number) for field in ours.fields] == [(f.name, f.number) for f in theirs.fields]
    for field in ours.fields:
        kept = theirs.fields_by_name[field.name].message_type.fields_by_name
        for part in field.message_type.fields:
            assert (part.number, part.type) == (kept[part.name].number, kept[part.name].type), part.full_name
