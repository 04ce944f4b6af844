"""Where recorded audio lies on the timeline of a call, and how it is cut into chunks. Pure: no clock, no I/O.

Both sides of a call share one timeline, counted in samples at 16 kHz from the moment of the connection. Audio that
arrives back to back is laid down back to back, whatever the jitter of its arrival; after a real pause it lies where
the clock says, so that silence is as long as it was.
"""

from typing import Final, Literal

import msgspec

# Samples per second of everything recorded.
RATE: Final = 16_000
# Bytes per sample: 16 bit, mono.
WIDTH: Final = 2
# The longest chunk: one second.
MAX_CHUNK_SAMPLES: Final = RATE

# What a frame's arrival says of its samples: a microphone's frame arrives when its last sample has been heard,
# a paced output frame is sent when its first one is due.
type Anchor = Literal["first_sample", "last_sample"]


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Where a frame goes: `position` of its first sample; whether it begins a new run, behind a gap."""

    position: int
    begins_run: bool


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """Contiguous samples from `position` on: 16-bit little-endian mono, at most one second."""

    position: int
    pcm: bytes


class Placer:
    """Gives every frame of one track its place.

    Args:
        anchor: what the moment of a frame's arrival stands for.
        tolerance: how many samples late a frame may come and still continue the one before it. Frames that come
            early (a burst after a stall) always do: audio is never laid over audio.
    """

    def __init__(self, *, anchor: Anchor, tolerance: int) -> None:
        self._anchor: Final = anchor
        self._tolerance: Final = tolerance
        # Where the next frame starts if it continues the last one.
        self._cursor = 0
        self._running = False

    def place(self, now: int, samples: int) -> Placement:
        """Return the place of a frame of `samples` samples that arrives when the timeline is at `now`."""
        start = now - samples if self._anchor == "last_sample" else now
        begins = not self._running or start - self._cursor > self._tolerance
        position = max(start, self._cursor) if begins else self._cursor
        self._running = True
        self._cursor = position + samples
        return Placement(position=position, begins_run=begins)

    def end_run(self) -> None:
        """Let the next frame begin a new run, however soon it comes."""
        self._running = False


class Chunker:
    """Gathers placed samples of one track into chunks."""

    def __init__(self) -> None:
        self._position = 0
        self._samples = bytearray()
        self._since = 0.0

    @property
    def end(self) -> int:
        """The position behind the last sample that was added."""
        return self._position + len(self._samples) // WIDTH

    def add(self, position: int, pcm: bytes, at: float) -> list[Chunk]:
        """Add samples that begin at `position`, heard at `at` (seconds); return the chunks that became full.

        Samples that would lie over earlier ones are left out.
        """
        overlap = max(self.end - position, 0)
        if overlap:
            pcm, position = pcm[overlap * WIDTH :], self.end
        if not pcm:
            return []
        full: list[Chunk] = []
        if position != self.end:
            full += self.flush()
            self._position = position
        if not self._samples:
            self._since = at
        self._samples += pcm
        while len(self._samples) >= MAX_CHUNK_SAMPLES * WIDTH:
            full.append(self._cut(MAX_CHUNK_SAMPLES * WIDTH))
            self._since = at
        return full

    @property
    def since(self) -> float | None:
        """When the first sample was heard of what is gathered; None: nothing is."""
        return self._since if self._samples else None

    def due(self, before: float) -> list[Chunk]:
        """Return what was gathered if its first sample was heard before `before` (seconds), else nothing."""
        return self.flush() if self._samples and self._since <= before else []

    def flush(self) -> list[Chunk]:
        """Return what was gathered, as no or one chunk."""
        return [self._cut(len(self._samples))] if self._samples else []

    def _cut(self, size: int) -> Chunk:
        chunk = Chunk(position=self._position, pcm=bytes(self._samples[:size]))
        del self._samples[:size]
        self._position += size // WIDTH
        return chunk
