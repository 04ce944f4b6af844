"""How sessions are recorded as their agents say, kept in a bucket, and missed when no audio comes."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncGenerator
from pathlib import Path

import av
import numpy as np
import obstore
import pytest

from greenroom.common import subjects
from greenroom.common.clock import utcnow
from greenroom.common.envelope import HEAD_BYTES, Keys, Opened, context_of
from greenroom.common.ledger import Entry
from greenroom.common.lifecycle import Connected, Leased, OnLoss, Ready, Requeued, Started
from greenroom.common.objects import open_bucket
from greenroom.common.recordings import RecordingChoice
from tests.support.recorder_world import RATE, World, eventually, samples, world

MISSING = "recording.missing"


@pytest.fixture
async def here(nats_url: str, database: str, tmp_path: Path) -> AsyncGenerator[World]:
    """A world whose recordings are in `tmp_path`."""
    async with world(nats_url, database, tmp_path / "recordings") as made:
        yield made


async def audio_left(here: World) -> int:
    """Return how many chunks nobody has dealt with."""
    return await here.broker.count("AUDIO", subjects.SESSION_AUDIO.wildcard())


async def connect(here: World, entry: Entry) -> Entry:
    """Connect somebody to a session."""
    return await here.advance(entry, Connected(epoch=entry.session.epoch))


async def test_kept_in_a_bucket_as_the_agent_says(here: World, bucket_url: str, tmp_path: Path) -> None:
    """Sealed sessions are in the bucket alone: the agent's format, the recorder's layout, and a row that names them."""
    async with here.recorder(recordings_url=bucket_url, recording_format="opus", recording_layout="tracks"):
        entry = await here.begin(recording=RecordingChoice(format="flac"))
        await here.speak(entry.session, "user", 1, samples(100, RATE))
        await here.speak(entry.session, "bot", 1, samples(-50, RATE // 2), position=RATE // 2)
        await here.end(entry)
        await here.sealed(entry.session)
        (row,) = await here.recordings(entry.session)
        await eventually(lambda: here.event_types(entry.session), lambda types: types[-1] == "recording_saved")
    manifest = json.loads(row["manifest"])
    assert (row["format"], manifest["layout"], row["channels"]) == ("flac", "tracks", 1)
    bucket = open_bucket(bucket_url)
    heard: list[list[int]] = []
    for file in manifest["files"]:
        (tmp_path / "copy.flac").write_bytes(bytes(obstore.get(bucket, file["path"]).bytes()))
        with av.open(tmp_path / "copy.flac") as copy:
            heard.append(np.concatenate([frame.to_ndarray()[0] for frame in copy.decode(audio=0)]).tolist())
    assert heard == [[100] * RATE, [0] * (RATE // 2) + [-50] * (RATE // 2)]
    assert row["path"] == manifest["files"][0]["path"]
    (event,) = await here.rows("SELECT data FROM session_events WHERE type = 'recording_saved'")
    assert json.loads(event["data"])["files"] == [file["path"] for file in manifest["files"]]
    assert [path for path in here.folder.rglob("*") if path.is_file()] == []


async def test_a_storage_that_is_away_costs_nothing(here: World, bucket_url: str) -> None:
    """While the bucket isn't there the audio stays on the disk; with a bucket that is, the recording is made of it."""
    async with here.recorder(recordings_url=bucket_url.replace("bucket-", "none-")) as recorder:
        entry = await here.begin()
        await here.speak(entry.session, "user", 1, samples(7, RATE))
        await here.end(entry)
        failed = recorder._sealer._results
        await eventually(lambda: asyncio.to_thread(failed.value, result="failed"), lambda count: count >= 1)
        assert await here.recordings(entry.session) == []
    assert [path.name for path in here.parts.iterdir()] == [entry.session.id]
    async with here.recorder(recordings_url=bucket_url):
        await here.sealed(entry.session)
    (row,) = await here.recordings(entry.session)
    assert row["duration_s"] == 1.0
    frames = np.stack([np.full(RATE, 7, "<i2"), np.zeros(RATE, "<i2")], 1)
    assert bytes(obstore.get(open_bucket(bucket_url), row["path"]).bytes())[44:] == frames.tobytes()


async def test_encrypted_once_there_is_a_key(here: World, tmp_path: Path) -> None:
    """Where keys are required a recording waits for its tenant's; with it, what is kept is encrypted."""
    keys = tmp_path / "keys"
    keys.mkdir()
    async with here.recorder(recording_keys_dir=str(keys), recording_keys_required=True) as recorder:
        entry = await here.begin()
        await here.speak(entry.session, "user", 1, samples(7, RATE))
        await here.end(entry)
        failed = recorder._sealer._results
        await eventually(lambda: asyncio.to_thread(failed.value, result="failed"), lambda count: count >= 1)
    assert await here.recordings(entry.session) == []
    (keys / "t.1.key").write_bytes(base64.b64encode(bytes(32)))
    async with here.recorder(recording_keys_dir=str(keys), recording_keys_required=True):
        await here.sealed(entry.session)
    (row,) = await here.recordings(entry.session)
    assert row["path"].endswith(f"{entry.session.id}.wav.enc")
    kept = (here.folder / row["path"]).read_bytes()
    opened = Opened(kept[:HEAD_BYTES], Keys(keys), tenant="t", context=context_of("t", entry.session.id, None))
    segments, start, stop = opened.segments(0, opened.size)
    assert (list(segments), stop) == ([0], len(kept))
    assert hashlib.sha256(opened.decrypt(0, kept[start:stop])).hexdigest() == row["sha256"]
    assert opened.size == row["bytes"] == 44 + 4 * RATE


async def test_an_agent_that_wants_no_recording_has_none(here: World) -> None:
    """Audio that comes all the same is forgotten: not stored, not parked, not sealed, and not missed."""
    async with here.recorder(recording_missing_s=0.2):
        off = await connect(here, await here.begin(recording=RecordingChoice(off=True)))
        on = await connect(here, await here.begin())
        await here.speak(off.session, "user", 1, samples(7, RATE))
        await eventually(lambda: here.event_types(on.session), lambda types: MISSING in types)
        await here.end(off)
        await here.sealed(off.session)
        await eventually(lambda: audio_left(here), lambda left: left == 0)
    assert await here.recordings(off.session) == []
    assert MISSING not in await here.event_types(off.session)
    assert await here.parked() == []
    assert not (here.parts / off.session.id).exists()


async def test_audio_that_does_not_come_is_told_once(here: World) -> None:
    """A connected session without a chunk is told of once, whoever leads; one with audio or without a client isn't."""
    async with here.recorder(recording_missing_s=1.5) as recorder:
        heard = await here.begin()
        await here.speak(heard.session, "bot", 1, samples(7, RATE))
        await connect(here, heard)
        waiting = await here.begin()
        silent = await connect(here, await here.begin())
        types = await eventually(lambda: here.event_types(silent.session), lambda types: MISSING in types)
        assert recorder._missing._missed.value() == 1
    async with here.recorder(recording_missing_s=0.2) as recorder:
        for _ in range(3):
            assert await recorder._missing.look() == 0
    assert types.count(MISSING) == 1
    for session in (heard.session, waiting.session):
        assert MISSING not in await here.event_types(session)
    (event,) = await here.rows("SELECT session_id, source, data FROM session_events WHERE type = $1", MISSING)
    assert (event["session_id"], event["source"]) == (silent.session.id, "recorder")
    assert json.loads(event["data"])["after_s"] == 1.5


async def test_a_second_attempt_is_missed_by_itself(here: World) -> None:
    """Audio of an attempt that was lost says nothing of the one that runs now."""
    async with here.recorder(recording_missing_s=0.2) as recorder:
        entry = await connect(here, await here.begin(on_loss=OnLoss.ALWAYS))
        await here.speak(entry.session, "user", 1, samples(7, RATE))
        await eventually(lambda: audio_left(here), lambda left: left == 0)
        entry = await here.advance(
            entry,
            Requeued(epoch=1, reason="runner-lost"),
            Leased(runner_id="runner-2", epoch=2, expires_at=utcnow()),
            Started(runner_id="runner-2", epoch=2),
            Ready(epoch=2),
        )
        entry = await connect(here, entry)
        assert entry.session.epoch == 2
        await eventually(lambda: here.event_types(entry.session), lambda types: MISSING in types)
        assert recorder.leading
    (event,) = await here.rows("SELECT epoch FROM session_events WHERE type = $1", MISSING)
    assert event["epoch"] == 2
