"""Where audio belongs: samples of both tracks and of all attempts on the one timeline of a recording.

Each attempt to run a session (each epoch) has a process, and each process a timeline: sample 0 is at its origin.
The recording begins at the earliest origin, so that times of events (relative to the same origin) are positions in
the recording. Positions and lengths are in samples, unless a name says otherwise.
"""

from bisect import bisect_right
from collections.abc import Iterable
from typing import Final, Literal, get_args

import msgspec

type Track = Literal["user", "bot"]

# Left and right channel of the recording.
TRACKS: Final[tuple[Track, ...]] = get_args(Track.__value__)
SAMPLE_BYTES: Final = 2
NS: Final = 1_000_000_000


class ChunkNote(msgspec.Struct, frozen=True, kw_only=True):
    """What the journal keeps of a chunk; `seq` counts the chunks of one track and epoch from 1."""

    track: Track
    epoch: int
    seq: int
    position: int
    samples: int
    origin_ns: int


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Audio that its sender numbered and that never came; seconds on the recording's timeline."""

    track: Track
    from_s: float
    to_s: float


class _Run:
    """Chunks without a missing number between them."""

    __slots__ = ("end", "first", "last", "start")

    def __init__(self, note: ChunkNote) -> None:
        self.first = self.last = note.seq
        self.start = note.position
        self.end = note.position + note.samples


class Coverage:
    """Which chunks of one track and epoch there are; memory grows with the holes, not with the length."""

    def __init__(self) -> None:
        self.chunks = 0
        self.samples = 0
        self.begin: int | None = None
        self.end = 0
        self._runs: list[_Run] = []

    def add(self, note: ChunkNote) -> None:
        """Add a chunk, in any order; one that is there already changes nothing."""
        runs = self._runs
        # Chunks come in order nearly always: then this is the end of the list, and the loop below finds it at once.
        index = len(runs) if not runs or note.seq > runs[-1].first else bisect_right(runs, note.seq, key=_first)
        before = runs[index - 1] if index else None
        if before is not None and note.seq <= before.last:
            return
        after = runs[index] if index < len(runs) else None
        run = _Run(note)
        if before is not None and before.last + 1 == note.seq:
            before.last, before.end = note.seq, run.end
            if after is not None and after.first == note.seq + 1:
                before.last, before.end = after.last, after.end
                del runs[index]
        elif after is not None and after.first == note.seq + 1:
            after.first, after.start = note.seq, note.position
        else:
            runs.insert(index, run)
        self.chunks += 1
        self.samples += note.samples
        self.begin = note.position if self.begin is None else min(self.begin, note.position)
        self.end = max(self.end, note.position + note.samples)

    def holes(self) -> list[tuple[int, int]]:
        """Return where numbers are missing, as (from, to): before the first chunk too, but not behind the last."""
        found: list[tuple[int, int]] = []
        expected, position = 1, 0
        for run in self._runs:
            if run.first != expected:
                found.append((min(position, run.start), run.start))
            expected, position = run.last + 1, run.end
        return found


def _first(run: _Run) -> int:
    return run.first


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One track of one attempt: its audio begins `offset` into the recording and is `length` long."""

    track: Track
    epoch: int
    offset: int
    length: int


class TrackSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What there is of a track; `None` where nothing was heard."""

    track: Track
    chunks: int
    samples: int
    first_s: float | None
    last_s: float | None


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the session: where its own timeline begins in the recording."""

    epoch: int
    origin_ns: int
    offset_s: float


class Timeline:
    """A recording's layout, read from the journal chunk by chunk.

    Args:
        rate: samples per second.
    """

    def __init__(self, rate: int) -> None:
        self.rate: Final = rate
        self._origins: dict[int, int] = {}
        self._coverage: dict[tuple[int, Track], Coverage] = {}

    @classmethod
    def of(cls, notes: Iterable[ChunkNote], *, rate: int) -> "Timeline":
        """Return the timeline of a journal."""
        timeline = cls(rate)
        for note in notes:
            timeline.add(note)
        return timeline

    def add(self, note: ChunkNote) -> None:
        """Add a chunk, in any order and any number of times."""
        # A process has one origin; should its chunks disagree, the earliest stands whatever the order.
        self._origins[note.epoch] = min(self._origins.get(note.epoch, note.origin_ns), note.origin_ns)
        self._coverage.setdefault((note.epoch, note.track), Coverage()).add(note)

    @property
    def empty(self) -> bool:
        """Whether there is no audio at all."""
        return not self._coverage

    @property
    def origin_ns(self) -> int:
        """When the recording begins, in ns since 1970."""
        return min(self._origins.values())

    @property
    def samples(self) -> int:
        """How long the recording is."""
        return max((part.offset + part.length for part in self.parts()), default=0)

    def parts(self) -> list[Part]:
        """Return where the audio of each track and attempt goes, by epoch."""
        return [
            Part(track=track, epoch=epoch, offset=self._offset(epoch), length=coverage.end)
            for (epoch, track), coverage in sorted(self._coverage.items())
        ]

    def attempts(self) -> list[Attempt]:
        """Return the attempts that left audio, by epoch."""
        return [
            Attempt(epoch=epoch, origin_ns=origin_ns, offset_s=self._seconds(self._offset(epoch)))
            for epoch, origin_ns in sorted(self._origins.items())
        ]

    def gaps(self) -> list[Gap]:
        """Return what is missing, by time.

        A missing number is the one criterion: positions without samples are silence (nobody sends any while nobody
        speaks), and what would have followed the last chunk isn't known.
        """
        found = [
            Gap(
                track=track,
                from_s=self._seconds(self._offset(epoch) + start),
                to_s=self._seconds(self._offset(epoch) + end),
            )
            for (epoch, track), coverage in self._coverage.items()
            for start, end in coverage.holes()
        ]
        return sorted(found, key=lambda gap: (gap.from_s, gap.to_s, gap.track))

    def summary(self, track: Track) -> TrackSummary:
        """Return what there is of `track`, over all attempts."""
        mine = [(epoch, coverage) for (epoch, of), coverage in self._coverage.items() if of == track]
        starts = [self._offset(epoch) + coverage.begin for epoch, coverage in mine if coverage.begin is not None]
        ends = [self._offset(epoch) + coverage.end for epoch, coverage in mine]
        return TrackSummary(
            track=track,
            chunks=sum(coverage.chunks for _, coverage in mine),
            samples=sum(coverage.samples for _, coverage in mine),
            first_s=self._seconds(min(starts)) if starts else None,
            last_s=self._seconds(max(ends)) if ends else None,
        )

    def _offset(self, epoch: int) -> int:
        return (self._origins[epoch] - self.origin_ns) * self.rate // NS

    def _seconds(self, samples: int) -> float:
        return round(samples / self.rate, 3)
