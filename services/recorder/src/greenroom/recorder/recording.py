"""A recording made of a session's parts: a WAV file and its manifest.

Made again, it is the same to the byte: a crash at any point is mended by starting over.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from greenroom.common.lifecycle import Session
from greenroom.recorder import files, wav
from greenroom.recorder.parts import Parts
from greenroom.recorder.timeline import NS, TRACKS, Attempt, Gap, Timeline, Track, TrackSummary

FORMAT: Final = "wav"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to know of a recording; lies beside it as `{session_id}.json`.

    Seconds count from `origin_at`: the origin of the session's timeline, from which the times of its events count too.
    """

    version: int = 1
    session_id: str
    tenant: str
    agent: str
    # Relative to the folder of recordings.
    path: str
    format: str = FORMAT
    rate: int
    # What is on which channel, from the left.
    channels: tuple[Track, ...] = TRACKS
    samples: int
    duration_s: float
    bytes: int
    sha256: str
    origin_at: datetime
    # How the session ended.
    ended_at: datetime | None
    outcome: str | None
    reason: str | None
    tracks: tuple[TrackSummary, ...]
    gaps: tuple[Gap, ...]
    # The runs of the session that left audio; times of an attempt's events count from its own origin.
    attempts: tuple[Attempt, ...]


def recording_path(session: Session) -> Path:
    """Return where a session's recording is, relative to the folder of recordings: by tenant and day of the request."""
    day = session.requested_at.astimezone(UTC)
    return Path(session.tenant, f"{day:%Y}", f"{day:%m}", f"{day:%d}", f"{session.id}.{FORMAT}")


def write_recording(session: Session, parts: Parts, recordings_dir: Path, *, rate: int) -> Manifest | None:
    """Write the recording of `session` and return its manifest; None when there is no audio of it.

    Blocks for about a second per hour of audio. The parts are left as they are.

    Args:
        session: as it ended.
        parts: where its audio is; nobody adds to it any more.
        recordings_dir: the folder of recordings.
        rate: samples per second.

    Raises:
        OSError: the disk is full, or worse; what lies under the recording's name is whole or not there.
    """
    timeline = Timeline.of(parts.journal(session.id), rate=rate)
    if timeline.empty:
        return None
    path = recording_path(session)
    target = recordings_dir / path
    files.make_folder(target.parent)
    samples = timeline.samples
    with wav.Mixer([(part, parts.path(session.id, part)) for part in timeline.parts()], samples) as mixer:
        size, sha256 = files.write_whole(target, _file(mixer, samples, rate))
    manifest = Manifest(
        session_id=session.id,
        tenant=session.tenant,
        agent=session.agent,
        path=path.as_posix(),
        rate=rate,
        samples=samples,
        duration_s=round(samples / rate, 3),
        bytes=size,
        sha256=sha256,
        origin_at=datetime.fromtimestamp(timeline.origin_ns / NS, UTC),
        ended_at=session.ended_at,
        outcome=session.outcome,
        reason=session.reason,
        tracks=tuple(timeline.summary(track) for track in TRACKS),
        gaps=tuple(timeline.gaps()),
        attempts=tuple(timeline.attempts()),
    )
    # The manifest comes second: where it is, the recording is.
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    files.write_whole(target.with_suffix(".json"), [text])
    return manifest


def _file(mixer: wav.Mixer, samples: int, rate: int) -> Iterator[bytes]:
    yield wav.header(samples, rate)
    yield from mixer.blocks()
