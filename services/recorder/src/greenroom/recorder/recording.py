"""A recording made of a session's parts: its audio files and its manifest.

Made again, it is the same to the byte: a crash at any point is mended by starting over. Files are written beside the
parts, and go to where recordings are kept when they are whole; what a killed recorder left half written is removed by
the next one, with the parts at the latest. (An encrypted file would be another one each time; it is kept beside the
parts until it is where it belongs.)
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

from greenroom.common.envelope import SUFFIX, Keys, TenantKey, context_of, encrypt
from greenroom.common.lifecycle import Session
from greenroom.common.recordings import Format, Layout, RecordingFile
from greenroom.recorder import files
from greenroom.recorder.encoding import encode
from greenroom.recorder.mixing import Channels, Mixer, channels_of
from greenroom.recorder.parts import Parts
from greenroom.recorder.storage import Storage
from greenroom.recorder.timeline import NS, TRACKS, Attempt, Gap, Overlap, Timeline, TrackSummary

FORMAT: Final[Format] = "wav"
LAYOUT: Final[Layout] = "stereo"
_READ_BYTES: Final = 1024 * 1024


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to know of a recording; lies beside it as `{session_id}.json`.

    Seconds count from `origin_at`: the origin of the session's timeline, from which the times of its events count too.
    `path`, `channels`, `bytes` and `sha256` are those of the first file.
    """

    version: int = 1
    session_id: str
    tenant: str
    agent: str
    # Relative to where recordings are kept.
    path: str
    format: Format = FORMAT
    layout: Layout = LAYOUT
    rate: int
    # What is on which channel, from the left; `user+bot`: both.
    channels: tuple[str, ...] = TRACKS
    samples: int
    duration_s: float
    bytes: int
    sha256: str
    # One, or with the layout `tracks` one a track; all are of the same length.
    files: tuple[RecordingFile, ...] = ()
    origin_at: datetime
    # How the session ended.
    ended_at: datetime | None
    outcome: str | None
    reason: str | None
    tracks: tuple[TrackSummary, ...]
    gaps: tuple[Gap, ...]
    overlaps: tuple[Overlap, ...] = ()
    # The runs of the session that left audio; times of an attempt's events count from its own origin.
    attempts: tuple[Attempt, ...]


def recording_path(session: Session, suffix: str) -> PurePosixPath:
    """Return where a file of a session's recording is: by tenant and day of the request."""
    day = session.requested_at.astimezone(UTC)
    return PurePosixPath(session.tenant, f"{day:%Y}", f"{day:%m}", f"{day:%d}", f"{session.id}.{suffix}")


def write_recording(
    session: Session,
    parts: Parts,
    storage: Storage,
    *,
    rate: int,
    form: Format = FORMAT,
    layout: Layout = LAYOUT,
    keys: Keys | None = None,
) -> Manifest | None:
    """Write the recording of `session` and return its manifest; None when there is no audio of it.

    Takes 0.4 s of a core per hour of audio, over two for FLAC and twenty for Opus. The parts are left as they are, on
    the disk; they needn't be in memory any more.

    Args:
        session: as it ended; its agent may have another format or layout than what follows.
        parts: where its audio is; nobody adds to it any more.
        storage: where the recording goes.
        rate: samples per second.
        form: of the files.
        layout: of the tracks in them.
        keys: what they are encrypted with; None: they aren't.

    Raises:
        RecordingKeyMissing: they must be encrypted, and the tenant has no key.
        OSError, StorageUnavailable: the disk is full, the storage away, or worse; what is kept is whole or not there.
        EncodingFailed: FFmpeg doesn't do it.
    """
    timeline = Timeline.of(parts.journal(session.id), rate=rate)
    if timeline.empty:
        return None
    form, layout = session.recording.format or form, session.recording.layout or layout
    key = keys.newest(session.tenant) if keys is not None else None
    parts.remove_drafts(session.id)
    with Mixer([(part, parts.path(session.id, part)) for part in timeline.parts()], timeline.samples) as mixer:
        kept = [
            _write_file(session, parts, storage, mixer=mixer, channels=channels, form=form, timeline=timeline, key=key)
            for channels in channels_of(layout)
        ]
    manifest = _manifest(session, timeline, kept, form, layout)
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    stands = storage.commit(recording_path(session, "json"), text)
    return manifest if stands == text else msgspec.json.decode(stands, type=Manifest)


def _write_file(
    session: Session,
    parts: Parts,
    storage: Storage,
    *,
    mixer: Mixer,
    channels: Channels,
    form: Format,
    timeline: Timeline,
    key: TenantKey | None,
) -> RecordingFile:
    draft = parts.draft(session.id, form)
    ready: Path | None = None
    try:
        blocks = mixer.blocks(channels)
        sha256 = encode(draft, form, blocks, channels=len(channels), samples=timeline.samples, rate=timeline.rate)
        size = draft.stat().st_size
        file = RecordingFile(path="", channels=channels, bytes=size, sha256=sha256, key=key.name if key else None)
        suffix = form if file.track is None else f"{file.track}.{form}"
        if key is not None:
            suffix += SUFFIX
            ready = draft.with_name(f"encrypted.{key.name}.{sha256}.{suffix}")
            _encrypt(draft, ready, size, key, context_of(session.tenant, session.id, file.track))
        path = storage.keep(ready or draft, recording_path(session, suffix), sha256)
        if ready is not None:
            ready.unlink(missing_ok=True)
    finally:
        draft.unlink(missing_ok=True)
    return msgspec.structs.replace(file, path=path)


def _encrypt(draft: Path, target: Path, size: int, key: TenantKey, context: bytes) -> None:
    """Write a draft encrypted, unless that was done before: it would be another file, and its upload begin anew."""
    if target.exists():
        return
    with draft.open("rb") as plain:
        blocks = iter(lambda: plain.read(_READ_BYTES), b"")
        files.write_whole(target, encrypt(blocks, size=size, key=key, context=context))


def _manifest(
    session: Session, timeline: Timeline, kept: Sequence[RecordingFile], form: Format, layout: Layout
) -> Manifest:
    first = kept[0]
    return Manifest(
        session_id=session.id,
        tenant=session.tenant,
        agent=session.agent,
        path=first.path,
        format=form,
        layout=layout,
        rate=timeline.rate,
        channels=tuple("+".join(tracks) for tracks in first.channels),
        samples=timeline.samples,
        duration_s=round(timeline.samples / timeline.rate, 3),
        bytes=first.bytes,
        sha256=first.sha256,
        files=tuple(kept),
        origin_at=datetime.fromtimestamp(timeline.origin_ns / NS, UTC),
        ended_at=session.ended_at,
        outcome=session.outcome,
        reason=session.reason,
        tracks=tuple(timeline.summary(track) for track in TRACKS),
        gaps=tuple(timeline.gaps()),
        overlaps=tuple(timeline.overlaps()),
        attempts=tuple(timeline.attempts()),
    )
