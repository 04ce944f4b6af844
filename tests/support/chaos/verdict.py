"""What is there after a run, and what was published: each event once and in order, each sample, and nothing else."""

import asyncio
import io
import time
import wave
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import obstore
from obstore.store import S3Store

from greenroom.common import subjects
from greenroom.common.errors import GreenroomError
from greenroom.common.messages import EventType
from greenroom.common.nats_broker import NatsBroker
from greenroom.recorder.app import PARTS_DIR
from tests.support.chaos.caller import Caller, shown
from tests.support.chaos.calls import RATE, Samples, recording
from tests.support.recorder_world import World

# Until everything is stored and sealed; on a busy machine.
_SETTLED_S: Final = 120.0
_POLL_S: Final = 0.1
# Without any there is no transcript to tell of; a few of the calls that are drawn have none.
_SPEECH: Final = frozenset({EventType.USER_SPOKE, EventType.AGENT_SPOKE})

_LEFT: Final = """
SELECT (SELECT count(*) FROM sessions WHERE sealed_at IS NOT NULL) AS sealed,
    count(*) FILTER (WHERE type = 'recording_saved') AS saved, count(*) FILTER (WHERE type = 'transcript.ready') AS said
FROM session_events
"""
_EVENTS: Final = """
SELECT session_id, tenant, id, seq, epoch, source, type, at, data FROM session_events ORDER BY session_id, stream_seq
"""
_SESSIONS: Final = "SELECT id, state, outcome, ledger_revision FROM sessions"
_RECORDINGS: Final = "SELECT session_id, path, gaps, manifest FROM recordings"


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """Where to look."""

    seed: int
    broker: NatsBroker
    dsn: str
    # Of recordings, and of their parts.
    folder: Path
    # The bucket with the recordings; None: they are in the folder.
    bucket: S3Store | None
    callers: Sequence[Caller]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What isn't as it should be; and how long each thing that is waited for took, in seconds."""

    problems: tuple[str, ...]
    waited_s: dict[str, float]


async def verdict(evidence: Evidence) -> Verdict:
    """Return the verdict, once everything is stored and sealed."""
    world = World(evidence.broker, evidence.dsn, evidence.folder)
    began = time.monotonic()
    waited: dict[str, float] = {}
    problems: list[str] = []
    while unsettled := await _unsettled(world, evidence):
        waited |= dict.fromkeys(unsettled, round(time.monotonic() - began, 1))
        if time.monotonic() > began + _SETTLED_S:
            problems.append(f"after {_SETTLED_S:g} s there are still {unsettled}")
            break
        await asyncio.sleep(_POLL_S)
    problems += await _problems(world, evidence)
    return Verdict(problems=tuple(problems), waited_s=waited)


async def _unsettled(world: World, evidence: Evidence) -> dict[str, Any]:
    """Return how much is still to be done, where there is anything."""
    try:
        info = await world.broker.client.jetstream().consumer_info("SESSIONS", "recorder-sessions")
        audio = await world.broker.count("AUDIO", subjects.SESSION_AUDIO.wildcard())
        ((sealed, saved, transcripts),) = [row.values() for row in await world.rows(_LEFT)]
    except (GreenroomError, OSError) as error:
        return {"unanswered questions": type(error).__name__}
    left = {
        "messages not stored": (info.num_pending or 0) + (info.num_ack_pending or 0),
        "chunks not stored": audio,
        "sessions not sealed": len(evidence.callers) - sealed,
        "recordings not told of": len(evidence.callers) - saved,
        "transcripts not told of": sum(map(_is_said, evidence.callers)) - transcripts,
        "sessions with parts": len(list((evidence.folder / PARTS_DIR).glob("*"))),
    }
    return {what: count for what, count in left.items() if count}


def _is_said(caller: Caller) -> bool:
    return any(event.type in _SPEECH for event in caller.told)


async def _problems(world: World, evidence: Evidence) -> list[str]:
    problems = [f"parked: {parked.subject}: {parked.reason}" for parked in await world.parked()]
    sessions = {row.pop("id"): row for row in await world.rows(_SESSIONS)}
    recordings = {row["session_id"]: row for row in await world.rows(_RECORDINGS)}
    events: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in await world.rows(_EVENTS):
        events[row["session_id"]].append(row | {"data": msgspec.json.decode(row["data"])})
    if strangers := sessions.keys() - {caller.session.id for caller in evidence.callers}:
        problems.append(f"there are sessions that nobody has begun: {strangers}")
    paths: set[str] = set()
    for caller in evidence.callers:
        name, session_id = f"call {caller.call.number} ({caller.session.id})", caller.session.id
        found = [
            *_session(sessions.get(session_id), caller),
            *_events(events[session_id], caller),
            *await _recording(recordings.get(session_id), evidence, caller, paths),
        ]
        problems += [f"{name}: {problem}" for problem in found]
    problems += [f"there is a file that no recording names: {path}" for path in sorted(await _files(evidence) - paths)]
    return problems


def _session(row: dict[str, Any] | None, caller: Caller) -> list[str]:
    if row == {"state": "ended", "outcome": "completed", "ledger_revision": caller.revision}:
        return []
    return [f"the session is {row}, its last entry has revision {caller.revision}"]


def _events(rows: Sequence[dict[str, Any]], caller: Caller) -> list[str]:
    problems: list[str] = []
    ours = Counter(row["type"] for row in rows if row["source"] == "recorder")
    # What it tells of a session whose recording is sealed, each once.
    if ours != {"recording_saved": 1} | ({"transcript.ready": 1} if _is_said(caller) else {}):
        problems.append(f"the recorder has told {dict(ours)}")
    found = [row for row in rows if row["source"] != "recorder"]
    wanted = [shown(event) for event in caller.told]
    for place, (row, event) in enumerate(zip(found, wanted, strict=False)):
        if event["id"] == "":
            event["id"] = row["id"]
        if row != event:
            problems.append(f"event {place} of {len(wanted)} is {row}, not {event}")
            break
    if len(found) != len(wanted):
        problems.append(f"{len(found)} events are stored, {len(wanted)} were published")
    return problems


async def _recording(row: dict[str, Any] | None, evidence: Evidence, caller: Caller, paths: set[str]) -> list[str]:
    if row is None:
        return ["there is no recording"]
    manifest = msgspec.json.decode(row["manifest"])
    commit = f"{caller.session.tenant}/{caller.session.requested_at:%Y/%m/%d}/{caller.session.id}.json"
    paths |= {row["path"], commit}
    problems: list[str] = []
    if manifest["gaps"] or manifest["overlaps"] or row["gaps"] != "[]":
        problems.append(f"gaps {manifest['gaps']}, overlaps {manifest['overlaps']}")
    if (stands := await _read(evidence, commit)) is None or msgspec.json.decode(stands) != manifest:
        problems.append("the manifest that stands isn't the one in the database")
    content = await _read(evidence, row["path"])
    if content is None:
        return [*problems, f"{row['path']} isn't there"]
    heard, sent = _samples(content), recording(evidence.seed, caller.call)
    if len(heard) != len(sent):
        problems.append(f"the recording has {len(heard)} samples, {len(sent)} were sent")
    length = min(len(heard), len(sent))
    if len(wrong := np.flatnonzero((heard[:length] != sent[:length]).any(axis=1))):
        problems.append(f"{len(wrong)} samples differ, from {wrong[0] / RATE:.3f} s to {wrong[-1] / RATE:.3f} s")
    return problems


def _samples(content: bytes) -> Samples:
    """Return the samples of a WAV file, read without our own code."""
    with wave.open(io.BytesIO(content)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, RATE)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)


async def _read(evidence: Evidence, path: str) -> bytes | None:
    try:
        if evidence.bucket is None:
            return (evidence.folder / path).read_bytes()
        return bytes(await (await obstore.get_async(evidence.bucket, path)).bytes_async())
    except FileNotFoundError:
        return None


async def _files(evidence: Evidence) -> set[str]:
    """Return what is kept, by path."""
    if evidence.bucket is not None:
        return {found["path"] for page in obstore.list(evidence.bucket) for found in page}
    root = evidence.folder
    return {
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and PARTS_DIR not in path.relative_to(root).parts
    }
