"""When recordings are sealed, and what stops it."""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest

from greenroom.common.lifecycle import Outcome, Session, State
from greenroom.common.metrics import Metrics
from greenroom.recorder import seal
from greenroom.recorder.audio import AudioIngest
from greenroom.recorder.chunk_log import Chunk
from greenroom.recorder.parts import Parts
from greenroom.recorder.seal import Sealer
from greenroom.recorder.storage import Folder
from greenroom.recorder.store import RecordingRow, Store
from greenroom.recorder.timeline import ChunkNote
from tests.support.memory_broker import MemoryBroker, MemoryServer

AUDIO = "gr.v1.session.t.{}.audio.user"


class MemoryStore:
    """What the sealer needs of the database."""

    def __init__(self) -> None:
        self.ended: list[Session] = []
        self.saved: list[RecordingRow] = []
        self.sealed_ids: list[str] = []

    async def unsealed(self, *, besides: Iterable[str], limit: int) -> list[Session]:
        """Return what has ended and isn't sealed."""
        known = {*besides, *self.sealed_ids}
        return [session for session in self.ended if session.id not in known][:limit]

    async def sealed(self, ids: Iterable[str]) -> set[str]:
        """Return which of `ids` are sealed."""
        return set(ids) & set(self.sealed_ids)

    async def save_recording(self, row: RecordingRow) -> None:
        """Remember a row."""
        self.saved.append(row)

    async def mark_sealed(self, session_id: str) -> None:
        """Remember a mark."""
        self.sealed_ids.append(session_id)


class Audio:
    """The consumer of audio as the sealer sees it."""

    def __init__(self) -> None:
        self.behind = False
        self.frozen: list[str] = []
        self.thawed: list[str] = []

    def freeze(self, session_id: str) -> None:
        """Remember."""
        self.frozen.append(session_id)

    def thaw(self, session_id: str) -> None:
        """Remember."""
        self.thawed.append(session_id)


class Bench:
    """A sealer with everything around it in memory."""

    def __init__(self, folder: Path) -> None:
        self.broker: MemoryBroker = MemoryServer().connect()
        self.store = MemoryStore()
        self.audio = Audio()
        self.parts = Parts(folder / ".parts", max_open=8)
        self.sealer = Sealer(
            broker=self.broker,
            store=cast("Store", self.store),
            parts=self.parts,
            audio=cast("AudioIngest", self.audio),
            storage=Folder(folder),
            metrics=Metrics(),
            at_once=2,
        )

    def ended(self, session_id: str, outcome: Outcome = Outcome.COMPLETED) -> Session:
        """Return a session that has ended, with a sample of audio."""
        at = datetime(2026, 3, 1, tzinfo=UTC)
        note = ChunkNote(track="user", epoch=1, seq=1, position=0, samples=1, origin_ns=1)
        self.parts.write([Chunk(tenant="t", session_id=session_id, note=note, pcm=b"ab")])
        return Session(
            id=session_id,
            tenant="t",
            agent="a",
            bot="b",
            requested_at=at,
            queue_deadline_at=at,
            state=State.ENDED,
            ended_at=at,
            outcome=outcome,
        )

    async def run(self, *told: Session, until: int | None = None) -> list[str]:
        """Run the sealer, tell it of sessions, and return what is sealed once that are `until`, or soon if None."""
        work = asyncio.create_task(self.sealer.run())
        await asyncio.sleep(0)
        for session in told:
            self.sealer.notice(session)
        async with asyncio.timeout(20):
            if until is None:
                await asyncio.sleep(0.3)
            while until is not None and len(self.store.sealed_ids) < until:
                await asyncio.sleep(0.01)
        work.cancel()
        await asyncio.wait({work})
        return self.store.sealed_ids


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A sealer that waits for hundredths instead of tenths."""
    monkeypatch.setattr(seal, "SETTLE_S", 0.05)
    monkeypatch.setattr(seal, "SETTLE_AFTER_CRASH_S", 0.4)
    monkeypatch.setattr(seal, "AUDIO_POLL_S", 0.02)
    monkeypatch.setattr(seal, "SCAN_S", 0.05)
    return Bench(tmp_path)


async def test_settles_first(bench: Bench) -> None:
    """A session is sealed a moment after its end, and one that crashed a longer moment."""
    crashed, calm = bench.ended("crashed", Outcome.FAILED), bench.ended("calm")
    assert await bench.run(crashed, calm, until=2) == ["calm", "crashed"]


async def test_waits_for_audio(bench: Bench) -> None:
    """While audio of the session isn't stored, its recording isn't sealed; others don't wait for it."""
    late, other = bench.ended("late"), bench.ended("other")
    await bench.broker.append(AUDIO.format("late"), b"ab")
    assert await bench.run(late, other) == ["other"]
    await bench.broker.purge("AUDIO", AUDIO.format("late"))
    assert await bench.run(late, until=2) == ["other", "late"]


async def test_audio_that_comes_at_the_last_moment(bench: Bench) -> None:
    """Audio that comes between the look and the freeze is seen by the second look, and is let through."""

    def freeze(session_id: str) -> None:
        bench.audio.frozen.append(session_id)
        if len(bench.audio.frozen) == 1:
            tasks.append(asyncio.ensure_future(bench.broker.append(AUDIO.format("s"), b"ab")))

    tasks: list[asyncio.Future[int]] = []
    bench.audio.freeze = freeze
    counted: list[int] = []
    count = bench.broker.count

    async def counting(stream: str, subject: str) -> int:
        await asyncio.gather(*tasks)
        counted.append(await count(stream, subject))
        return counted[-1]

    bench.broker.count = counting
    assert await bench.run(bench.ended("s")) == []
    assert counted[:3] == [0, 1, 1]
    assert bench.audio.thawed[0] == "s"


async def test_many_that_end_at_once_ask_together(bench: Bench) -> None:
    """Those that have audio left wait for it, each for its own; the others are sealed by a few questions."""
    told = [bench.ended(f"s{number:02}") for number in range(40)]
    late = {"s07", "s30"}
    for session_id in late:
        await bench.broker.append(AUDIO.format(session_id), b"ab")
    asked: list[str] = []
    count, count_by_subject = bench.broker.count, bench.broker.count_by_subject

    async def counting(stream: str, subject: str) -> int:
        asked.append("one")
        return await count(stream, subject)

    async def counting_all(stream: str, subject: str, *, most: int) -> dict[str, int] | None:
        asked.append("all")
        return await count_by_subject(stream, subject, most=most)

    bench.broker.count, bench.broker.count_by_subject = counting, counting_all
    assert sorted(await bench.run(*told, until=38)) == [each.id for each in told if each.id not in late]
    assert asked.count("all") >= 2
    assert len(asked) < 38
    assert not late & set(bench.audio.frozen)


async def test_audio_of_many_that_comes_at_the_last_moment(bench: Bench) -> None:
    """The second count, of all that were frozen, begins behind the last freeze: what came before that is seen by it."""
    told = [bench.ended(f"s{number}") for number in range(6)]
    count_by_subject = bench.broker.count_by_subject
    answers: list[dict[str, int] | None] = []
    frozen_by_then: list[int] = []

    async def counting_all(stream: str, subject: str, *, most: int) -> dict[str, int] | None:
        frozen_by_then.append(len(bench.audio.frozen))
        answers.append(await count_by_subject(stream, subject, most=most))
        return answers[-1]

    def freeze(session_id: str) -> None:
        bench.audio.frozen.append(session_id)
        if session_id == "s3" and bench.audio.frozen.count("s3") == 1:
            # It reaches the stream at this very moment, behind the first answer.
            bench.broker.server.stream("AUDIO").store(AUDIO.format("s3"), b"ab", {}, None, None)

    bench.audio.freeze = freeze
    bench.broker.count_by_subject = counting_all
    assert sorted(await bench.run(*told)) == ["s0", "s1", "s2", "s4", "s5"]
    assert (answers[:2], frozen_by_then[:2]) == ([{}, {AUDIO.format("s3"): 1}], [0, 6])
    assert bench.audio.thawed[0] == "s3"


async def test_with_much_audio_of_others_each_asks_for_itself(bench: Bench) -> None:
    """An answer for all would be a list of thousands then."""
    for number in range(400):
        await bench.broker.append(AUDIO.format(f"other{number}"), b"ab")
    told = [bench.ended(f"s{number}") for number in range(5)]
    assert sorted(await bench.run(*told, until=5)) == [each.id for each in told]


async def test_gives_up_on_audio(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Audio that nobody can store doesn't keep the recording for ever: it is sealed with what there is."""
    monkeypatch.setattr(seal, "AUDIO_DEADLINE_S", 0.1)
    await bench.broker.append(AUDIO.format("s"), b"ab")
    assert await bench.run(bench.ended("s"), until=1) == ["s"]
    assert bench.store.saved[0].duration_s == 0.0
    assert bench.store.saved[0].bytes == 44 + 4


async def test_gives_up_nothing_while_audio_cannot_be_stored(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk refuses audio, or more waits than is stored at once, however long: the recording waits for it."""
    monkeypatch.setattr(seal, "AUDIO_DEADLINE_S", 0.05)
    await bench.broker.append(AUDIO.format("s"), b"ab")
    bench.audio.behind = True
    assert await bench.run(bench.ended("s")) == []
    await bench.broker.purge("AUDIO", AUDIO.format("s"))
    assert await bench.run(bench.ended("s"), until=1) == ["s"]


async def test_found_without_being_told(bench: Bench) -> None:
    """What a recorder before us left unsealed is found by itself."""
    bench.store.ended.append(bench.ended("left"))
    assert await bench.run(until=1) == ["left"]


async def test_failing_session_is_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that can't be sealed now keeps nobody waiting, and is tried again."""
    tries: list[str] = []
    save = bench.store.save_recording

    async def failing(row: RecordingRow) -> None:
        tries.append(row.session_id)
        if row.session_id == "bad" and tries.count("bad") < 3:
            raise RuntimeError("something odd")
        await save(row)

    monkeypatch.setattr(bench.store, "save_recording", failing)
    bench.store.ended += [bench.ended("bad"), bench.ended("good")]
    assert await bench.run(until=2) == ["good", "bad"]
    assert await bench.broker.count("SESSIONS", "gr.v1.session.t.*.event.recording_saved") == 2
