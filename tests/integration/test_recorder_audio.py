"""The recorder and the audio of sessions, on real NATS and PostgreSQL."""

import asyncio
import hashlib
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from greenroom.common import subjects, topology
from greenroom.common.clock import utcnow
from greenroom.common.ids import derived_id
from greenroom.common.lifecycle import Leased, Limits, OnLoss, Outcome, Ready, Requeued, Session, Started
from greenroom.devtools.embedded.postgres import EmbeddedPostgres
from greenroom.recorder.app import Recorder
from greenroom.recorder.chunk_log import Chunk
from greenroom.recorder.migrate import migrate
from greenroom.recorder.timeline import ChunkNote
from greenroom.recorder.tracing import trace_statements_inside_spans
from tests.support.recorder_world import RATE, World, eventually, quick_topology, samples, wav_channels, world
from tests.support.spans import record_spans


@pytest.fixture(autouse=True)
def _quick_redelivery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topology, "CONSUMERS", quick_topology())


@pytest.fixture
async def here(nats_url: str, database: str, tmp_path: Path) -> AsyncGenerator[World]:
    """A world on the servers of the run."""
    async with world(nats_url, database, tmp_path) as made:
        yield made


async def saved_events(here: World, session: Session) -> int:
    """Return how often `recording_saved` is in the stream."""
    subject = subjects.SESSION_EVENT.format(tenant="t", session_id=session.id, type="recording_saved")
    return await here.broker.count("SESSIONS", subject)


async def test_recording(here: World) -> None:
    """A session's audio becomes a stereo file, caller left and bot right, with a manifest, a row and an event."""
    async with here.recorder():
        entry = await here.begin()
        for seq in (1, 2):
            await here.speak(entry.session, "user", seq, samples(100 * seq, RATE))
        await here.speak(entry.session, "bot", 1, samples(-50, RATE // 2), position=RATE + RATE // 4)
        await here.end(entry)
        await here.sealed(entry.session)
        (row,) = await here.recordings(entry.session)
        await eventually(lambda: here.event_types(entry.session), lambda types: types[-1] == "recording_saved")
    path = here.folder / row["path"]
    left, right = wav_channels(path)
    assert list(left) == [100] * RATE + [200] * RATE
    assert list(right) == [0] * (RATE + RATE // 4) + [-50] * (RATE // 2) + [0] * (RATE // 4)
    assert (row["duration_s"], row["channels"], row["rate"], json.loads(row["gaps"])) == (2.0, 2, RATE, [])
    assert hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"]
    assert path.stat().st_size == row["bytes"]
    manifest = json.loads(path.with_suffix(".json").read_text())
    assert manifest == json.loads(row["manifest"])
    assert manifest["outcome"] == "completed"
    assert [(track["track"], track["chunks"]) for track in manifest["tracks"]] == [("user", 2), ("bot", 1)]
    (event,) = await here.rows("SELECT id, source, data FROM session_events WHERE type = 'recording_saved'")
    assert (event["id"], event["source"]) == (derived_id(entry.session.id, "recording_saved"), "recorder")
    assert json.loads(event["data"]) == {
        "path": row["path"],
        "format": "wav",
        "layout": "stereo",
        "files": [row["path"]],
        "duration_s": 2.0,
        "channels": 2,
        "rate": RATE,
        "bytes": row["bytes"],
        "sha256": row["sha256"],
        "gaps": [],
    }
    assert not list(here.parts.iterdir())


async def test_crashed_session(here: World) -> None:
    """A session whose process died is sealed up to its last chunk, and a chunk that never came is a gap."""
    async with here.recorder():
        entry = await here.begin()
        for seq in (1, 2, 4):
            await here.speak(entry.session, "user", seq, samples(seq, RATE))
        await here.end(entry, Outcome.FAILED, "process-killed")
        await here.sealed(entry.session)
    (row,) = await here.recordings(entry.session)
    assert row["duration_s"] == 4.0
    assert json.loads(row["gaps"]) == [{"track": "user", "from_s": 2.0, "to_s": 3.0}]
    left, _ = wav_channels(here.folder / row["path"])
    assert [left[second * RATE] for second in range(4)] == [1, 2, 0, 4]


async def test_two_attempts(here: World) -> None:
    """A session that was put on another runner has both attempts in its recording, each at its time."""
    async with here.recorder():
        entry = await here.begin(on_loss=OnLoss.ALWAYS)
        origin_ns = int(entry.session.requested_at.timestamp() * 1e9)
        await here.speak(entry.session, "bot", 1, samples(1, RATE), origin_ns=origin_ns)
        entry = await here.advance(
            entry,
            Requeued(epoch=1, reason="runner-lost"),
            Leased(runner_id="runner-2", epoch=2, expires_at=utcnow()),
            Started(runner_id="runner-2", epoch=2),
            Ready(epoch=2),
        )
        await here.speak(entry.session, "bot", 1, samples(2, RATE), epoch=2, origin_ns=origin_ns + 3 * 10**9)
        await here.end(entry)
        await here.sealed(entry.session)
    (row,) = await here.recordings(entry.session)
    _, right = wav_channels(here.folder / row["path"])
    assert [right[second * RATE] for second in range(4)] == [1, 0, 0, 2]
    assert [attempt["offset_s"] for attempt in json.loads(row["manifest"])["attempts"]] == [0.0, 3.0]


async def test_no_audio(here: World) -> None:
    """A session without audio has no recording and says so by being sealed without one."""
    async with here.recorder():
        entry = await here.end(await here.request(), Outcome.CANCELED, "client-canceled")
        await here.sealed(entry.session)
    assert await here.recordings(entry.session) == []
    assert await saved_events(here, entry.session) == 0


async def test_bad_chunks(here: World) -> None:
    """Chunks that can't belong to their session are parked with the reason; the rest is recorded."""
    async with here.recorder():
        entry = await here.begin(limits=Limits(max_duration_s=10))
        session = entry.session
        await here.speak(session, "user", 1, samples(1, RATE))
        await here.speak(session, "user", 2, b"odd")
        await here.speak(session, "user", 2, b"")
        await here.speak(session, "user", 2, samples(1, 2 * RATE))
        await here.speak(session, "user", 2, samples(1, RATE), position=3600 * RATE)
        await here.speak(session, "user", 2, samples(1, RATE), origin_ns=1)
        await here.speak(session, "user", 2, samples(1, RATE), headers={"Gr-Rate": "8000"})
        await here.speak(session, "user", 2, samples(1, RATE), headers={"Gr-Position": "-1"})
        await here.speak(session, "user", 0, samples(1, RATE))
        await here.speak(session, "video", 2, samples(1, RATE))
        nobody = msgspec.structs.replace(session, id="nobody")
        await here.speak(nobody, "user", 2, samples(1, RATE))
        await here.speak(session, "user", 2, samples(2, RATE))
        await here.end(entry)
        await here.sealed(session)
        parked = await eventually(here.parked, lambda parked: len(parked) >= 10)
    assert [each.reason.split(" ")[0] for each in parked].count("malformed:") == 6
    assert len(parked) == 10
    (row,) = await here.recordings(session)
    assert (row["duration_s"], json.loads(row["gaps"])) == (2.0, [])


async def test_late_audio(here: World) -> None:
    """Audio that comes after the recording was sealed is parked, and the recording stays as it is."""
    async with here.recorder():
        entry = await here.begin()
        await here.speak(entry.session, "user", 1, samples(1, RATE))
        await here.end(entry)
        await here.sealed(entry.session)
        before = await here.recordings(entry.session)
        await here.speak(entry.session, "user", 2, samples(2, RATE))
        (parked,) = await eventually(here.parked, len)
    assert parked.reason == "the recording is sealed"
    assert parked.payload == samples(2, RATE)
    assert await here.recordings(entry.session) == before
    assert not list(here.parts.iterdir())


async def test_a_copy_behind_its_acknowledgement(here: World) -> None:
    """A chunk that was delivered twice, and comes the second time after the sealing, is forgotten: it was recorded."""
    async with here.recorder() as recorder:
        entry = await here.begin()
        await here.speak(entry.session, "user", 1, samples(1, RATE))
        await here.end(entry)
        sealed_at = (await here.sealed(entry.session))["sealed_at"]
        origin_ns = int(entry.session.requested_at.timestamp() * 1e9)
        note = ChunkNote(track="user", epoch=1, seq=1, position=0, samples=RATE, origin_ns=origin_ns)

        async def frozen() -> bool:
            return entry.session.id in recorder._audio._frozen

        # The mark is committed a moment before the sealing is over; until then a chunk comes again.
        await eventually(frozen, lambda still: not still)
        await recorder._audio.handle([Chunk(tenant="t", session_id=entry.session.id, note=note, pcm=samples(1, RATE))])
        assert not (here.parts / entry.session.id).exists()
        assert (await here.sealed(entry.session))["sealed_at"] == sealed_at
    assert await here.parked() == []


async def test_postgres_away(nats_url: str, own_postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    """Audio of a call is stored while PostgreSQL is away, and sealed when it is back."""
    await migrate(own_postgres.dsn)
    async with world(nats_url, own_postgres.dsn, tmp_path) as here, here.recorder() as recorder:
        await eventually(lambda: leads(recorder), bool)
        await own_postgres.kill()
        entry = await here.begin()
        for seq in (1, 2, 3):
            await here.speak(entry.session, "user", seq, samples(seq, RATE))
        await eventually(lambda: audio_left(here), lambda left: left == 0)
        await here.end(entry)
        await own_postgres.start()
        await here.sealed(entry.session)
        (row,) = await here.recordings(entry.session)
        assert (row["duration_s"], json.loads(row["gaps"])) == (3.0, [])


async def leads(recorder: Recorder) -> bool:
    """Return whether a recorder leads."""
    return recorder.leading


async def audio_left(here: World) -> int:
    """Return how many chunks aren't stored."""
    return await here.broker.count("AUDIO", subjects.SESSION_AUDIO.wildcard())


@pytest.mark.parametrize("step", ["_store.save_recording", "_sealer._publish", "_store.mark_sealed"])
async def test_killed_while_sealing(here: World, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a recorder dies while it seals, the next one finishes: one file, one row, one event."""
    reached = asyncio.Event()

    async def hang(*_: Any) -> None:
        reached.set()
        await asyncio.Event().wait()

    async with here.recorder() as dying:
        part, method = step.split(".")
        monkeypatch.setattr(getattr(dying, part), method, hang)
        entry = await here.begin()
        await here.speak(entry.session, "user", 1, samples(7, RATE))
        await here.end(entry)
        async with asyncio.timeout(10):
            await reached.wait()
    assert [path.suffix for path in sorted(here.folder.glob("t/*/*/*/*"))] == [".json", ".wav"]
    async with here.recorder():
        await here.sealed(entry.session)
        await eventually(lambda: here.event_types(entry.session), lambda types: types[-1] == "recording_saved")
        await eventually(lambda: parts_left(here), lambda left: not left)
    assert await saved_events(here, entry.session) == 1
    (row,) = await here.recordings(entry.session)
    assert hashlib.sha256((here.folder / row["path"]).read_bytes()).hexdigest() == row["sha256"]
    assert len(list(here.folder.glob("t/*/*/*/*"))) == 2


async def test_killed_before_removing_parts(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts that a recorder left behind after it had sealed are removed by the next one."""
    async with here.recorder() as dying:

        def fails(_: str) -> None:
            raise OSError("stopped here")

        monkeypatch.setattr(dying._parts, "remove", fails)
        entry = await here.begin()
        await here.speak(entry.session, "user", 1, samples(7, RATE))
        await here.end(entry)
        await here.sealed(entry.session)
    assert await parts_left(here) == [entry.session.id]
    async with here.recorder():
        await eventually(lambda: parts_left(here), lambda left: not left)
    assert await saved_events(here, entry.session) == 1


async def parts_left(here: World) -> list[str]:
    """Return the sessions that have parts."""
    return sorted(path.name for path in here.parts.iterdir())


async def test_spans(here: World) -> None:
    """Sealing leaves one span in the session's trace, as a child of its request."""
    spans = record_spans()
    async with here.recorder():
        entry = await here.begin()
        await here.speak(entry.session, "user", 1, samples(7, RATE))
        await here.end(entry)
        await here.sealed(entry.session)
    span = spans.one("recording.seal")
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == "00f067aa0ba902b7"
    assert {each.name for each in spans.spans} == {"session.persist", "recording.seal"}


async def test_statements_as_spans(here: World) -> None:
    """Statements are spans below the sealing that they serve; those of batches, which serve many, are none."""
    spans = record_spans()
    instrumentor = trace_statements_inside_spans()
    try:
        async with here.recorder():
            entry = await here.begin()
            await here.speak(entry.session, "user", 1, samples(7, RATE))
            await here.end(entry)
            await here.sealed(entry.session)
    finally:
        instrumentor.uninstrument()
    below = [span for span in spans.spans if span.name not in {"session.persist", "recording.seal"}]
    assert {span.name for span in below} == {"INSERT"}
    assert {span.parent and span.parent.span_id for span in below} == {spans.id_of("recording.seal")}


# The service as it is, but for the time after which what was in dead hands is delivered again.
PROGRAM = """
from greenroom.common import topology
from greenroom.recorder.__main__ import main
from tests.support.recorder_world import quick_topology
topology.CONSUMERS = quick_topology()
main()
"""


async def start_process(here: World, folder: Path) -> asyncio.subprocess.Process:
    """Start a recorder as a process of its own."""
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("GREENROOM_", "OTEL_"))},
        "NATS_URL": await here.nats_url(),
        "DATABASE_URL": here.dsn,
        "GREENROOM_RECORDINGS_DIR": str(here.folder),
    }
    with (folder / "recorder.log").open("ab") as log:
        return await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, env=env, stdout=log, stderr=log)


async def test_killed_in_mid_call(here: World, tmp_path: Path) -> None:
    """A recorder that is killed in the middle of a call costs neither an event nor a sample."""
    process = await start_process(here, tmp_path)
    entry = await here.begin()
    session = entry.session
    try:
        for seq in range(1, 61):
            await here.publish(session, "user_spoke", id=f"e{seq}", data={})
            await here.speak(session, "user", seq, samples(seq, RATE // 10), position=(seq - 1) * RATE // 10)
            if seq == 30:
                await eventually(lambda: here.event_types(session), lambda types: len(types) > 20)
            if seq == 40:
                process.send_signal(signal.SIGKILL)
                await process.wait()
                assert len(await here.event_types(session)) < 4 + 60
                process = await start_process(here, tmp_path)
        await here.end(entry)
        await here.sealed(session)
        types = await eventually(lambda: here.event_types(session), lambda types: len(types) == 4 + 60 + 3)
    finally:
        process.terminate()
        assert await process.wait() == 0
    assert types.count("user_spoke") == 60
    (row,) = await here.recordings(session)
    left, _ = wav_channels(here.folder / row["path"])
    assert list(left[:: RATE // 10]) == list(range(1, 61))
    assert json.loads(row["gaps"]) == []
