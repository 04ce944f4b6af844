"""The log of live audio, with a whole recorder around it: what a power cut left there, and what is erased from it."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from greenroom.recorder import audio
from greenroom.recorder.chunk_log import SUFFIX, Chunk, ChunkLog
from greenroom.recorder.timeline import ChunkNote
from tests.support.recorder_world import RATE, World, eventually, samples, wav_channels, world


@pytest.fixture
async def here(nats_url: str, database: str, tmp_path: Path) -> AsyncGenerator[World]:
    """A world on the servers of the run."""
    async with world(nats_url, database, tmp_path) as made:
        yield made


def logged(here: World) -> bytes:
    """Return what is in the log."""
    return b"".join(path.read_bytes() for path in here.parts.glob(f"*{SUFFIX}"))


async def test_a_power_cut(here: World) -> None:
    """What the leader before had acknowledged, and of which only the log is left, is in the recording."""
    entry = await here.begin()
    origin_ns = int(entry.session.requested_at.timestamp() * 1e9)
    note = ChunkNote(track="user", epoch=1, seq=1, position=0, samples=RATE, origin_ns=origin_ns)
    log = ChunkLog(here.parts)
    log.append([Chunk(tenant="t", session_id=entry.session.id, note=note, pcm=samples(100, RATE))])
    log.sync()
    log.end_segment()
    await here.end(entry)

    async def left_behind() -> list[Path]:
        return list(here.parts.iterdir())

    async with here.recorder():
        await here.sealed(entry.session)
        await eventually(left_behind, lambda found: not found)
    (row,) = await here.recordings(entry.session)
    left, _ = wav_channels(here.folder / row["path"])
    assert list(left) == [100] * RATE


async def test_the_log_is_emptied(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said is in the log for a while only, also when nothing follows it."""
    monkeypatch.setattr(audio, "CHECKPOINT_S", 0.1)

    async def left() -> int:
        return len(logged(here))

    async with here.recorder():
        entry = await here.begin()
        await here.speak(entry.session, "user", 1, samples(100, RATE))
        path = here.parts / entry.session.id / "user.1.pcm"

        async def stored() -> bool:
            return path.exists() and path.stat().st_size == 2 * RATE

        await eventually(stored, lambda there: there)
        await eventually(left, lambda count: not count)
    assert path.read_bytes() == samples(100, RATE)


async def test_what_is_erased_is_not_in_the_log(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that is erased a moment after its end leaves none of its audio in the log."""
    monkeypatch.setattr(audio, "CHECKPOINT_S", 3600.0)
    said = samples(12_345, RATE)
    async with here.recorder():
        entry = await here.begin()
        await here.speak(entry.session, "user", 1, said)
        await here.end(entry)
        await here.sealed(entry.session)
        assert said in logged(here)
        await here.rows(
            "INSERT INTO erasures (session_id, what, tenant, agent, day, requested_by) "
            "SELECT id, 'session', tenant, agent, requested_at::date, 'somebody' FROM sessions RETURNING session_id"
        )
        await eventually(lambda: here.stored(entry.session), lambda row: not row)
        assert said not in logged(here)
