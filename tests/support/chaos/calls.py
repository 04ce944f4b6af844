"""What is said and heard in the calls of a run, drawn from its seed. Pure.

The samples of each track are noise of its own: each of them tells the run, the call, the track and the position.
"""

import random
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from greenroom.common.messages import EventType
from tests.support.chaos.plan import TALK_S

type Samples = NDArray[np.int16]
type Side = Literal["user", "bot"]

CALLS: Final = 20
RATE: Final = 16_000
SIDES: Final[tuple[Side, ...]] = ("user", "bot")
# Heard by each side, in the time of the run: audio comes twice as fast as it would live.
_AUDIO_S: Final = 2 * TALK_S
_KINDS: Final = (
    EventType.USER_SPOKE,
    EventType.AGENT_SPOKE,
    EventType.TOOL_CALLED,
    EventType.NODE_ENTERED,
    EventType.METRICS,
)


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """An event, at its time."""

    at_s: float
    kind: EventType
    data: dict[str, Any]


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk of audio, at the time of its publication; its samples are those of `audio`."""

    at_s: float
    side: Side
    position: int
    samples: int


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One call: what is published of it, in order, and when it is over."""

    number: int
    steps: tuple[Said | Heard, ...]
    end_s: float

    @property
    def samples(self) -> int:
        """How long its recording is."""
        return max((step.position + step.samples for step in self.steps if isinstance(step, Heard)), default=0)


def calls_of(seed: int) -> tuple[Call, ...]:
    """Return the calls of a run."""
    return tuple(_call(random.Random(f"{seed}/{number}"), number) for number in range(CALLS))


def audio(seed: int, number: int, side: Side, samples: int) -> Samples:
    """Return what one side of a call sounds like, from its beginning on."""
    noise = np.random.default_rng([seed, number, SIDES.index(side)])
    return noise.integers(-(2**15), 2**15, samples, dtype=np.int16)


def recording(seed: int, call: Call) -> Samples:
    """Return what the recording of a call has to be: one row an instant, the caller left and the bot right."""
    whole = np.zeros((call.samples, len(SIDES)), np.int16)
    for column, side in enumerate(SIDES):
        sound = audio(seed, call.number, side, call.samples)
        for step in call.steps:
            if isinstance(step, Heard) and step.side == side:
                at = slice(step.position, step.position + step.samples)
                whole[at, column] = sound[at]
    return whole


def _call(draw: random.Random, number: int) -> Call:
    begin_s = draw.uniform(0, TALK_S / 3)
    end_s = draw.uniform(begin_s + TALK_S / 3, TALK_S)
    steps: list[Said | Heard] = [
        Said(
            at_s=draw.uniform(begin_s, end_s),
            kind=draw.choice(_KINDS),
            data={"call": number, "event": event, "text": "x" * draw.randint(0, 400)},
        )
        for event in range(draw.randint(10, 60))
    ]
    for side in SIDES:
        steps += _chunks(draw, side, begin_s, end_s)
    return Call(number=number, steps=tuple(sorted(steps, key=lambda step: step.at_s)), end_s=end_s)


def _chunks(draw: random.Random, side: Side, begin_s: float, end_s: float) -> list[Heard]:
    """Return chunks as a recorder of a live call cuts them: a second at most, with pauses between some."""
    chunks: list[Heard] = []
    position, end = 0, int(_AUDIO_S * RATE * draw.uniform(0.2, 1))
    while position < end:
        if draw.random() < 0.2:
            position += draw.randint(1, 2 * RATE)
        samples = draw.choice((RATE, RATE, draw.randint(1, RATE)))
        at_s = min(begin_s + (end_s - begin_s) * position / end, end_s)
        chunks.append(Heard(at_s=at_s, side=side, position=position, samples=samples))
        position += samples
    return chunks
