"""A recorder whose disk is full in the middle of a call, and again at its end; on real NATS and PostgreSQL."""

import os
import wave
from pathlib import Path

import pytest

from greenroom.common import subjects, topology
from tests.support.recorder_world import RATE, eventually, quick_topology, world
from tests.support.small_disk import Kind, kinds, recording

SECONDS = 12


@pytest.mark.parametrize("kind", kinds())
async def test_a_full_disk(
    kind: Kind, nats_url: str, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Audio waits in the broker, events are stored, then the recording waits; made room for, all is there bit for bit.

    Meanwhile /readyz, a metric and the log say what is wrong, and what becomes of the audio.
    """
    monkeypatch.setattr(topology, "CONSUMERS", quick_topology())
    spoken = os.urandom(2 * RATE * SECONDS)
    async with world(nats_url, database, tmp_path / "recordings") as here, recording(here, kind) as recorder:
        entry = await here.begin()
        session = entry.session

        async def speak(first: int, last: int) -> None:
            for second in range(first, last + 1):
                await here.speak(session, "user", second, spoken[(second - 1) * 2 * RATE : second * 2 * RATE])

        async def audio_left() -> int:
            return await here.broker.count("AUDIO", subjects.SESSION_AUDIO.wildcard())

        await speak(1, 4)
        await eventually(audio_left, lambda left: left == 0, within_s=60)
        await eventually(recorder.reasons, lambda reasons: reasons == {})

        recorder.fill()
        await speak(5, SECONDS)
        await here.publish(session, "user_spoke", id="meanwhile", data={})
        await eventually(lambda: here.event_types(session), lambda types: "user_spoke" in types)
        reasons = await eventually(recorder.reasons, bool)
        assert reasons["live-audio"].startswith("disk-full: there is no room where GREENROOM_RECORDINGS_DIR is")
        assert reasons["live-audio"].endswith("audio of calls waits in the broker and nothing is lost")
        assert 'greenroom_recorder_trouble{place="live-audio"} 1.0' in (await recorder.ask("/metrics")).text
        (told,) = recorder.logged("recorder_in_trouble")
        assert (told["place"], told["level"], told["what"].split(":")[0]) == ("live-audio", "error", "disk-full")
        assert 0 < await audio_left() <= SECONDS - 4

        recorder.make_room()
        await eventually(audio_left, lambda left: left == 0)
        await eventually(recorder.reasons, lambda reasons: reasons == {})

        recorder.fill()
        await here.end(entry)
        reasons = await eventually(recorder.reasons, bool)
        assert set(reasons) == {"sealing"}
        assert reasons["sealing"].startswith("disk-full: there is no room where GREENROOM_RECORDINGS_DIR is")
        assert "session.ended" in await here.event_types(session)
        assert not (await here.stored(session))["sealed_at"]

        recorder.make_room()
        await here.sealed(session)
        await eventually(recorder.reasons, lambda reasons: reasons == {})
        (row,) = await here.recordings(session)
        with wave.open(str(recorder.folder / row["path"])) as file:
            frames = file.readframes(file.getnframes())
        left = b"".join(frames[place : place + 2] for place in range(0, len(frames), 4))
        assert left == spoken
        assert row["gaps"] == "[]"
        assert await here.parked() == []
        assert sorted(path.name for path in recorder.folder.glob("t/*/*/*/*")) == [
            f"{session.id}.json",
            f"{session.id}.wav",
        ]
