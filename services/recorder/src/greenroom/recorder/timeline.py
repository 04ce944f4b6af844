"""Where audio belongs: samples of both tracks and of all attempts on the one timeline of a recording.

Each attempt to run a session (each epoch) has a process, and each process a timeline: sample 0 is at its origin.
The recording begins at the earliest origin, so that times of events (relative to the same origin) are positions in
the recording. Positions and lengths are in samples, unless a name says otherwise.
"""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import combinations
from typing import Final, Literal, get_args

import msgspec

from greenroom.recorder.drift import Drift

type Track = Literal["user", "bot"]

# Left and right channel of the recording.
TRACKS: Final[tuple[Track, ...]] = get_args(Track.__value__)
SAMPLE_BYTES: Final = 2
NS: Final = 1_000_000_000
# Of one track and attempt that are told one by one; a sender that lays all its audio over itself needs no more.
MAX_OVERLAPS: Final = 200


class ChunkNote(msgspec.Struct, frozen=True, kw_only=True):
    """What the journal keeps of a chunk; `seq` counts the chunks of one track and epoch from 1."""

    track: Track
    epoch: int
    seq: int
    position: int
    samples: int
    origin_ns: int
    # When the broker had it, by its clock; 0: written before that was kept.
    at_ns: int = 0


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Audio that its sender numbered and that never came; seconds on the recording's timeline."""

    track: Track
    from_s: float
    to_s: float


class Overlap(msgspec.Struct, frozen=True, kw_only=True):
    """Audio that was sent for a time for which there was some already; seconds on the recording's timeline.

    Within one attempt the later chunk is heard, between two attempts both are.
    """

    track: Track
    from_s: float
    to_s: float
    epochs: tuple[int, ...]


class _Run:
    """Chunks without a missing number between them."""

    __slots__ = ("end", "first", "last", "start")

    def __init__(self, note: ChunkNote) -> None:
        self.first = self.last = note.seq
        self.start = note.position
        self.end = note.position + note.samples


class Coverage:
    """Which chunks of one track and epoch there are; memory grows with the holes, not with the length.

    Args:
        rate: samples per second.
    """

    def __init__(self, rate: int) -> None:
        self.drift: Final = Drift(rate)
        # Where chunks that follow each other overlap, as (from, to); not more than `MAX_OVERLAPS` of them.
        self.overlaps: list[tuple[int, int]] = []
        self.overlapped = 0
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
        if after is not None and after.first == note.seq + 1:
            self._note_overlap(after.start, run.end)
        if before is not None and before.last + 1 == note.seq:
            self._note_overlap(run.start, before.end)
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
        self.drift.add(position=note.position, samples=note.samples, origin_ns=note.origin_ns, at_ns=note.at_ns)

    def _note_overlap(self, start: int, end: int) -> None:
        if start < end:
            self.overlapped += end - start
            if len(self.overlaps) < MAX_OVERLAPS:
                self.overlaps.append((start, end))

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
    # What was filled with silence, because nothing was sent for it or nothing came.
    filled_s: float = 0.0
    # How much faster its samples came than the clock went, in millionths; None: no stretch of it was long enough.
    drift_ppm: float | None = None


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
        key = (note.epoch, note.track)
        coverage = self._coverage.get(key)
        if coverage is None:
            coverage = self._coverage[key] = Coverage(self.rate)
        coverage.add(note)

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

    def overlaps(self) -> list[Overlap]:
        """Return where audio lies over audio, by time."""
        found = [
            self._overlap(track, self._offset(epoch) + start, self._offset(epoch) + end, epoch)
            for (epoch, track), coverage in self._coverage.items()
            for start, end in coverage.overlaps
        ]
        for (one, track), (other, of) in combinations(sorted(self._coverage), 2):
            if track != of:
                continue
            first, second = self._span(one, track), self._span(other, track)
            start, end = max(first[0], second[0]), min(first[1], second[1])
            if start < end:
                found.append(self._overlap(track, start, end, one, other))
        return sorted(found, key=lambda overlap: (overlap.from_s, overlap.to_s, overlap.track, overlap.epochs))

    def _overlap(self, track: Track, start: int, end: int, *epochs: int) -> Overlap:
        return Overlap(track=track, from_s=self._seconds(start), to_s=self._seconds(end), epochs=epochs)

    def _span(self, epoch: int, track: Track) -> tuple[int, int]:
        """Return from where to where an attempt's audio lies in the recording."""
        coverage = self._coverage[epoch, track]
        return self._offset(epoch) + (coverage.begin or 0), self._offset(epoch) + coverage.end

    def summary(self, track: Track) -> TrackSummary:
        """Return what there is of `track`, over all attempts."""
        mine = [(epoch, coverage) for (epoch, of), coverage in self._coverage.items() if of == track]
        starts = [self._offset(epoch) + coverage.begin for epoch, coverage in mine if coverage.begin is not None]
        ends = [self._offset(epoch) + coverage.end for epoch, coverage in mine]
        heard = sum(coverage.samples - coverage.overlapped for _, coverage in mine)
        drifts = [coverage.drift.measured() for _, coverage in mine]
        weight = sum(seconds for _, seconds in drifts)
        return TrackSummary(
            track=track,
            chunks=sum(coverage.chunks for _, coverage in mine),
            samples=sum(coverage.samples for _, coverage in mine),
            first_s=self._seconds(min(starts)) if starts else None,
            last_s=self._seconds(max(ends)) if ends else None,
            filled_s=self._seconds(max(self.samples - heard, 0)),
            drift_ppm=round(sum(ppm * seconds for ppm, seconds in drifts) / weight, 1) if weight else None,
        )

    def _offset(self, epoch: int) -> int:
        return (self._origins[epoch] - self.origin_ns) * self.rate // NS

    def _seconds(self, samples: int) -> float:
        return round(samples / self.rate, 3)
