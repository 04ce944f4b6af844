"""Everything of a call in one zip: what somebody needs who has to find out what happened in it.

It is made while it is sent. Events are read once: what is written to `events.jsonl` is folded into the transcript and
the timeline that follow. Whatever fails on the way cuts the answer off, so that the client sees it.
"""

import contextlib
from collections.abc import AsyncGenerator, Iterable
from typing import Any, Final

import msgspec

from greenroom.api.reading.history import History
from greenroom.api.reading.recording_file import PackedFile
from greenroom.api.reading.zipping import Member, zipped
from greenroom.api.schemas import session_view
from greenroom.api.store import Recording
from greenroom.common import transcript
from greenroom.common.call_timeline import Happenings
from greenroom.common.lifecycle import Session

_CHUNK_BYTES: Final = 64 * 1024

_README: Final = """\
Session {id}
{state}, asked for at {requested_at:%Y-%m-%d %H:%M:%S} UTC, agent {agent} (version {agent_version})

session.json     the session as GET /v1/sessions/{id} has it
events.jsonl     everything that happened, one JSON object a line, in order; `stream_seq` counts
transcript.json  what was said: who, when (milliseconds in the call), whether it was interrupted, the node of the flow
transcript.txt   the same to read
transcript.vtt   the same as subtitles of the recording (WebVTT)
timeline.json    stages, turns with their latencies, tools, nodes, errors, gaps, interruptions, commands
{recording}
Times are UTC. Milliseconds count from the beginning of the call, which is also that of the recording.
{so_far}"""
_WITH_RECORDING: Final = """\
{names:<15}  the audio ({duration_s:.1f} s)
recording.json   its manifest: tracks, gaps, digest
"""


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle is made of. `recording` is None where there is none yet, `audio` empty where its files are gone."""

    session: Session
    recording: Recording | None = None
    audio: tuple[PackedFile, ...] = ()


def bundle(history: History, contents: Contents) -> AsyncGenerator[bytes]:
    """Return the bundle of a session as a stream of bytes."""
    return zipped(_members(history, contents), contents.session.requested_at)


async def _members(history: History, contents: Contents) -> AsyncGenerator[Member]:
    session, recording, audio = contents.session, contents.recording, contents.audio
    yield _member("README.txt", [readme(contents).encode()])
    yield _member("session.json", [_pretty(session_view(session))])
    happenings = Happenings()
    yield Member(name="events.jsonl", chunks=_events(history, session, happenings), large=True)
    spoken = transcript.transcript(session.id, happenings.speech, complete=session.ended)
    yield _member("transcript.json", [_pretty(spoken)])
    yield _member("transcript.txt", (line.encode() for line in transcript.as_text(spoken)))
    yield _member("transcript.vtt", (cue.encode() for cue in transcript.as_vtt(spoken)))
    yield _member("timeline.json", [_pretty(happenings.timeline(session))])
    if recording is not None:
        for file in audio:
            # Audio doesn't become smaller this way, and it is most of the bundle.
            yield Member(name=file.name, chunks=file.chunks(), compress=False, large=True)
        yield _member("recording.json", [msgspec.json.format(bytes(recording.manifest), indent=2)])


def readme(contents: Contents) -> str:
    """Return what is what in a bundle."""
    session, recording = contents.session, contents.recording
    if recording is None:
        about = "(no recording: it isn't sealed yet, or there was no audio)\n"
    else:
        names = ", ".join(file.name for file in contents.audio)
        about = _WITH_RECORDING.format(names=names, duration_s=recording.duration_s)
        if not contents.audio:
            about = f"(the recording's file isn't where it was kept)\n{about.splitlines()[1]}\n"
    outcome = f"{session.outcome} ({session.reason})" if session.ended else f"{session.state}"
    return _README.format(
        id=session.id,
        state=outcome,
        requested_at=session.requested_at,
        agent=transcript.one_line(session.agent),
        agent_version=session.agent_version,
        recording=about,
        so_far="" if session.ended else "The session hasn't ended: this is what there was so far.\n",
    )


async def _events(history: History, session: Session, happenings: Happenings) -> AsyncGenerator[bytes]:
    async with contextlib.aclosing(history.read(session.tenant, session.id)) as events:
        async for happened in events:
            happenings.add(happened.event)
            yield msgspec.json.encode(happened.view) + b"\n"


def _member(name: str, parts: Iterable[bytes]) -> Member:
    return Member(name=name, chunks=_chunks(parts))


async def _chunks(parts: Iterable[bytes]) -> AsyncGenerator[bytes]:
    for part in parts:
        for start in range(0, len(part), _CHUNK_BYTES):
            yield part[start : start + _CHUNK_BYTES]


def _pretty(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
