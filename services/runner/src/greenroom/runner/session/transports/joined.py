"""The audio of several messages that came at once, read in one go.

Of each message with 20 ms of audio Pipecat's serializer makes an object for the wire and one for the pipeline, in a
turn of the transport's loop: a tenth of what a session takes while its user is silent. But such messages differ in
nothing but their samples. Once it is known what is in front of and behind these (`Layout`, learned from a message that
the serializer has read), the samples of a pack's messages are put together where they lie, and what is made of them is
one frame. A pack in which anything else is said is read message by message.

Only for Pipecat's own Protobuf serializer as it is: what others do with a message isn't known.
"""

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, Protocol, Self

from pipecat.frames.frames import Frame, InputAudioRawFrame
from pipecat.serializers.base_serializer import FrameSerializer
from pipecat.serializers.protobuf import ProtobufFrameSerializer

from greenroom.common.media_frames import Lull

# A client whose messages are all different (numbered, for example) isn't tried for ever.
_TRIES: Final = 5
_WIDTH: Final = 2
# How much audio of a silent client comes at once: a third of what a chunk of the recording holds.
_LULL_S: Final = 0.3
# Of a client that stops in the middle of that. The recording takes what is up to 0.2 s late for continuous, and what is
# left over has waited for 60 ms before, for the others of its piece, and waits once more, in the process.
LULL_HOLD_MS: Final = 100
# However short a client's messages are; the wish has a byte for it.
_MAX_LULL_MESSAGES: Final = 40
# What is shorter may be found in the message at another place by chance.
_MIN_SAMPLES_BYTES: Final = 64


class Layout(NamedTuple):
    """What all audio messages of a client have in common: bytes before and behind `length` bytes of samples."""

    head: bytes
    tail: bytes
    length: int
    rate: int
    channels: int

    @property
    def size(self) -> int:
        """How many bytes such a message has."""
        return len(self.head) + self.length + len(self.tail)

    def joined(self, messages: Sequence[bytes]) -> "JoinedAudio | None":
        """Return the samples of all messages; None: not all of them are of this layout."""
        head, tail, size = self.head, self.tail, self.size
        for message in messages:
            if len(message) != size or not message.startswith(head) or not message.endswith(tail):
                return None
        start, end = len(head), len(head) + self.length
        return JoinedAudio(b"".join([message[start:end] for message in messages]), self, len(messages))


class JoinedAudio(bytes):
    """Samples in place of the messages that they came in."""

    layout: Layout
    # How many messages they came in.
    messages: int

    def __new__(cls, samples: bytes, layout: Layout, messages: int) -> Self:
        """Remember where they are from."""
        joined = super().__new__(cls, samples)
        joined.layout = layout
        joined.messages = messages
        return joined


class Joins(Protocol):
    """Whoever takes messages out of packs, and joins them if they are of a layout."""

    layout: Layout | None


class JoinedReading:
    """Put around the `deserialize` of one serializer, on the instance: reads what was joined, and learns layouts.

    Args:
        serializer: of the bot's transport, whose messages are read by nobody else.
        carrier: is told of the layout.
    """

    def __init__(self, serializer: FrameSerializer, carrier: Joins) -> None:
        self._deserialize = serializer.deserialize
        self._carrier = carrier
        self._tries = _TRIES
        serializer.deserialize = self._read

    async def _read(self, data: str | bytes) -> Frame | None:
        if isinstance(data, JoinedAudio):
            layout = data.layout
            return InputAudioRawFrame(audio=bytes(data), sample_rate=layout.rate, num_channels=layout.channels)
        frame = await self._deserialize(data)
        if self._tries and type(frame) is InputAudioRawFrame and isinstance(data, bytes):
            known = self._carrier.layout
            if known is None or known.joined([data]) is None:
                self._tries -= 1
                self._carrier.layout = await _layout_of(data, frame, self._deserialize)
        return frame


async def _layout_of(
    message: bytes, frame: InputAudioRawFrame, read: Callable[[str | bytes], Awaitable[Frame | None]]
) -> Layout | None:
    """Return how the message is laid out, if other samples in their place make it another frame of that kind."""
    length = len(frame.audio)
    start = message.find(frame.audio)
    if length < _MIN_SAMPLES_BYTES or start < 0 or frame.pts is not None:
        return None
    layout = Layout(message[:start], message[start + length :], length, frame.sample_rate, frame.num_channels)
    probe = random.Random(0).randbytes(length)  # noqa: S311 - nobody is to be surprised by it
    other = await read(layout.head + probe + layout.tail)
    if type(other) is not InputAudioRawFrame or other.audio != probe:
        return None
    return layout if (other.sample_rate, other.num_channels) == (layout.rate, layout.channels) else None


def lull_of(layout: Layout | None, quiet_below: float | None, usual: int) -> Lull | None:
    """Return what to ask of the edge while the client is silent; None: he isn't, or nothing is gained.

    Args:
        layout: of the client's messages of audio.
        quiet_below: the mean square (of 16-bit samples) below which he is silent.
        usual: how many messages are put into one as it is.
    """
    if layout is None or quiet_below is None or layout.channels != 1:
        return None
    samples = layout.length // _WIDTH
    messages = min(int(_LULL_S * layout.rate / samples), _MAX_LULL_MESSAGES)
    if messages <= usual:
        return None
    return Lull(
        size=layout.size,
        start=len(layout.head),
        samples=samples,
        loud=int(quiet_below * samples),
        messages=messages,
        hold_ms=LULL_HOLD_MS,
    )


def reads_alike(serializer: FrameSerializer) -> bool:
    """Tell whether a serializer is Pipecat's own for Protobuf, as it is."""
    return type(serializer) is ProtobufFrameSerializer and "deserialize" not in vars(serializer)
