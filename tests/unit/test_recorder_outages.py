"""What the recorder does while something is away for longer than ten minutes, in virtual time; and what it says."""

import asyncio
import errno
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.common import topology
from greenroom.common.ledger import Entry
from greenroom.common.lifecycle import Ended, Outcome, Requested
from greenroom.common.metrics import Metrics
from greenroom.common.objects import StorageUnavailable
from greenroom.common.topology_admin import _consumer_config, _stream_config
from greenroom.recorder import audio, ingest, troubles
from greenroom.recorder import parts as greenroom_parts
from greenroom.recorder.parts import JOURNAL, Parts
from greenroom.recorder.put_off import FIRST_S, LONGEST_S, ROOM_PER_S, PutOff
from greenroom.recorder.troubles import LIVE_AUDIO, SEALING, Troubles
from tests.support.leaping_time import run_virtual
from tests.support.outage_bench import OutageBench, known_session, pcm_of
from tests.support.recordings import pcm_chunk

TEN_MINUTES_S = 600.0
# Longer than it has to be endured.
AWAY_S = 1.1 * TEN_MINUTES_S


def test_the_broker_keeps_what_waits() -> None:
    """In ten minutes nothing is too old, too much or delivered too often; what was in dead hands is back before."""
    streams = {stream.name: stream for stream in topology.STREAMS}
    for name, consumer_name in (("SESSIONS", ingest.CONSUMER), ("AUDIO", audio.CONSUMER)):
        config = _stream_config(streams[name], 1)
        assert streams[name].max_age_s > 100 * TEN_MINUTES_S
        assert (config.max_msgs_per_subject, config.max_msgs, config.max_bytes) == (-1, None, None)
        (consumer,) = (each for each in topology.CONSUMERS if each.name == consumer_name)
        assert _consumer_config(consumer).max_deliver == -1
        assert consumer.ack_wait_s < TEN_MINUTES_S / 10


def test_postgres_away_for_eleven_minutes(tmp_path: Path) -> None:
    """Events wait, in order, and none is parked or given up; audio of live sessions is stored meanwhile."""
    bench = OutageBench(tmp_path, known_session("s"))

    async def scenario() -> None:
        async with bench.running():
            await bench.audio._ledger.create(Requested(session=known_session("live")))
            bench.store.away = True
            for number in range(1, 101):
                await bench.tell("s", number)
                await bench.speak("live", number)
                await asyncio.sleep(AWAY_S / 100)
            assert bench.numbers == []
            assert bench.heard("live") == b"".join(map(pcm_of, range(1, 101)))
            bench.store.away = False
            await asyncio.sleep(5)
            assert bench.numbers == list(range(1, 101))
            # What is parked is the session's own ledger entry, which the broker in memory keeps without its revision.
            assert bench.parked == 1
            assert (bench.waiting("SESSIONS"), bench.waiting("AUDIO")) == (0, 0)

    run_virtual(scenario())


def test_postgres_too_slow_for_a_full_batch(tmp_path: Path) -> None:
    """It gets fewer events at once, as many as it stores in time, and all of them in the end."""
    bench = OutageBench(tmp_path, known_session("s"))
    bench.store.at_once = 7

    async def scenario() -> None:
        for number in range(1, 201):
            await bench.tell("s", number)
        async with bench.running():
            await asyncio.sleep(60)
            assert bench.numbers == list(range(1, 201))
            assert (bench.parked, bench.waiting("SESSIONS")) == (0, 0)

    run_virtual(scenario())


def test_audio_that_only_postgres_knows_of_does_not_hold_up_the_rest(tmp_path: Path) -> None:
    """Audio of a session that the ledger has forgotten waits for PostgreSQL, by itself; that is asked now and then."""
    bench = OutageBench(tmp_path, known_session("old"))

    async def scenario() -> None:
        async with bench.running():
            await bench.audio._ledger.create(Requested(session=known_session("live")))
            bench.store.away = True
            for seq in range(1, 101):
                await bench.speak("old", seq)
                await bench.speak("live", seq)
                await asyncio.sleep(AWAY_S / 100)
                assert bench.heard("live").startswith(b"".join(map(pcm_of, range(1, seq))))
            assert bench.waiting("AUDIO") == 100
            assert bench.audio.behind
            # Each batch once, and once more for each try of what waits.
            assert bench.store.asked < 3 * AWAY_S
            bench.store.away = False
            await asyncio.sleep(5)
            assert bench.heard("old") == bench.heard("live") == b"".join(map(pcm_of, range(1, 101)))
            assert bench.waiting("AUDIO") == 0
            assert not [
                message for message in bench.server.stream("PARKED").messages.values() if b"audio" in message.data
            ]

    run_virtual(scenario())


def test_much_audio_that_only_postgres_knows_of_does_not_hold_up_the_rest(tmp_path: Path) -> None:
    """Thousands of chunks of sessions that ended wait for PostgreSQL; live ones are stored in time, then all of them.

    The ledger isn't asked of each chunk, and what waits comes again less and less often.
    """
    bench, old, many = OutageBench(tmp_path), [known_session(f"old{number}") for number in range(21)], 100
    asked: Counter[str] = Counter()

    async def scenario() -> None:
        ledger = bench.audio._ledger
        last = ledger.last

        async def counted(tenant: str, session_id: str) -> Entry | None:
            asked[session_id] += 1
            return await last(tenant, session_id)

        ledger.last = counted
        await ledger.create(Requested(session=known_session("live")))
        for session in old:
            await ledger.advance(
                await ledger.create(Requested(session=session)),
                Ended(by="api", epoch=0, outcome=Outcome.CANCELED, reason="client-canceled"),
            )
            for seq in range(1, many + 1):
                await bench.speak(session.id, seq)
        bench.store.away = True
        async with bench.running():
            for seq in range(1, 9):
                await bench.speak("live", seq)
                await asyncio.sleep(2)
                assert bench.heard("live") == b"".join(map(pcm_of, range(1, seq + 1)))
            assert bench.waiting("AUDIO") == len(old) * many
            assert asked.total() < len(old) + 2 * 20
            tried = bench.audio.consumer.counts.retried
            await asyncio.sleep(20)
            assert bench.audio.consumer.counts.retried - tried < 20 * 2 * ROOM_PER_S
            bench.store.away, bench.store.known = False, {session.id: session for session in old}
            await asyncio.sleep(LONGEST_S + 5)
            assert all(bench.heard(session.id) == b"".join(map(pcm_of, range(1, many + 1))) for session in old)
            assert bench.waiting("AUDIO") == 0

    run_virtual(scenario())


@given(chunks=st.integers(1, 1_000_000))
def test_what_is_put_off_settles(chunks: int) -> None:
    """However much waits, it soon comes no more often than there is room for, or than every 30 s; then soon again."""
    put_off, now, wait_s = PutOff(), 0.0, 0.0
    for _ in range(10):
        wait_s = put_off.wait_s(chunks, now)
        assert FIRST_S <= wait_s <= LONGEST_S
        now += wait_s
    assert wait_s == LONGEST_S or chunks / wait_s <= ROOM_PER_S
    assert wait_s == FIRST_S or chunks / wait_s >= ROOM_PER_S / 4
    put_off.over()
    assert put_off.wait_s(1, now) == FIRST_S


def test_a_disk_full_for_eleven_minutes(tmp_path: Path) -> None:
    """Audio waits, and none is parked or given up; events are stored meanwhile; then all is there, bit for bit."""
    bench = OutageBench(tmp_path, known_session("s"))

    async def scenario() -> None:
        async with bench.running():
            bench.parts.full = True
            for number in range(1, 101):
                await bench.tell("s", number)
                await bench.speak("s", number)
                await asyncio.sleep(AWAY_S / 100)
            assert bench.numbers == list(range(1, 101))
            assert bench.waiting("AUDIO") == 100
            assert bench.audio.behind
            assert (bench.troubles.of(LIVE_AUDIO) or "").startswith("disk-full: there is no room")
            bench.parts.full = False
            await asyncio.sleep(5)
            assert bench.heard("s") == b"".join(map(pcm_of, range(1, 101)))
            assert (bench.parked, bench.waiting("AUDIO"), bench.audio.behind) == (0, 0, False)
            assert bench.troubles.of(LIVE_AUDIO) is None

    run_virtual(scenario())


@pytest.mark.parametrize("what", ["event", "audio"])
def test_a_server_that_is_behind_says_nothing_of_what_there_is(tmp_path: Path, what: str) -> None:
    """When leaders change, a server may not know of a session yet; nothing is parked for that: the leader knows."""
    bench = OutageBench(tmp_path)
    last = bench.server.connect().__class__.last

    async def behind(broker: object, stream: str, subject: str) -> None:
        if stream == "SESSIONS":
            return
        await last(broker, stream, subject)  # pyright: ignore[reportArgumentType]

    async def scenario() -> None:
        entry = await bench.audio._ledger.create(Requested(session=known_session("s")))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(bench.outside), "last", behind)
            async with bench.running():
                await (bench.tell if what == "event" else bench.speak)("s", 1)
                await asyncio.sleep(10)
                assert bench.waiting("SESSIONS" if what == "event" else "AUDIO") >= 1
        assert [
            message for message in bench.server.stream("PARKED").messages.values() if b"no such" in message.data
        ] == []
        assert entry.session.id == "s"

    run_virtual(scenario())


def test_audio_of_nobody_is_parked(tmp_path: Path) -> None:
    """What the leader doesn't know of either belongs to nobody: it is parked and not tried for ever."""
    bench = OutageBench(tmp_path)

    async def scenario() -> None:
        async with bench.running():
            await bench.speak("nobody", 1)
            await asyncio.sleep(5)
        assert (bench.parked, bench.waiting("AUDIO")) == (1, 0)

    run_virtual(scenario())


async def test_audio_is_written_while_all_threads_wait_for_a_storage(tmp_path: Path) -> None:
    """Sealing and deleting may hold every thread that tasks share; audio has one of its own."""
    bench = OutageBench(tmp_path, known_session("s"))
    bench.audio._writing = ThreadPoolExecutor(1)
    loop, storage_is_back = asyncio.get_running_loop(), threading.Event()
    threads = ThreadPoolExecutor(2)
    loop.set_default_executor(threads)
    stuck = [loop.run_in_executor(None, storage_is_back.wait) for _ in range(2)]
    try:
        chunk = pcm_chunk("user", 1, 0, b"ab")
        bench.store.known["s"] = known_session(
            "s", requested_at=datetime.fromtimestamp(chunk.note.origin_ns / 1e9, UTC)
        )
        async with asyncio.timeout(20):
            await bench.audio.handle([chunk])
        assert bench.heard("s") == b"ab"
    finally:
        storage_is_back.set()
        await asyncio.gather(*stuck)
        bench.audio.shutdown()
        bench.parts.shutdown()


@pytest.mark.parametrize("full", ["user.1.pcm", JOURNAL])
def test_no_space_left_on_the_device(tmp_path: Path, full: str) -> None:
    """Audio or journal that the device refuses isn't taken for stored; once there is room the same batch is, whole."""
    parts = Parts(tmp_path, max_open=8)
    batch = [pcm_chunk("user", seq, seq - 1, bytes([seq, 0])) for seq in (1, 2, 3)]
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / full).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        parts.write(batch)
    assert caught.value.errno == errno.ENOSPC
    parts.close()
    (tmp_path / "s" / full).unlink()
    parts.write(batch)
    assert (tmp_path / "s/user.1.pcm").read_bytes() == b"\1\0\2\0\3\0"
    assert [note.seq for note in parts.journal("s")] == [1, 2, 3]
    parts.shutdown()


def test_names_of_a_batch_that_failed_are_synced_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was made in a batch the disk refused is there already for the next one: its name is synced then."""
    parts, trouble = Parts(tmp_path, max_open=8), [OSError(errno.ENOSPC, "full")]
    synced: list[str] = []
    append = greenroom_parts._append

    def append_unless_full(journal: int, text: bytearray) -> None:
        if trouble:
            raise trouble.pop()
        append(journal, text)

    monkeypatch.setattr(greenroom_parts, "_append", append_unless_full)
    monkeypatch.setattr(greenroom_parts, "_sync_path", synced.append)
    with pytest.raises(OSError, match="full"):
        parts.write([pcm_chunk("user", 1, 0, b"ab")])
    parts.write([pcm_chunk("user", 1, 0, b"ab")])
    assert str(tmp_path / "s") not in synced
    parts.checkpoint()
    assert {str(tmp_path / "s"), str(tmp_path)} <= set(synced)
    parts.shutdown()


@pytest.mark.parametrize(
    ("error", "begins"),
    [
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
            "disk-full: there is no room where GREENROOM_RECORDINGS_DIR",
        ),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "disk-full: "),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG)), "disk-full: "),
        (OSError(errno.EIO, os.strerror(errno.EIO)), "disk-failing: Input/output error"),
        (StorageUnavailable("put: GenericError"), "storage-unavailable: The storage of recordings can't be used"),
        (ValueError("what somebody said"), "ValueError"),
    ],
)
def test_troubles_are_told_in_words(error: Exception, begins: str) -> None:
    """The operator is told what it is and what becomes of the audio, on /readyz and as a metric, until it works."""
    metrics = Metrics()
    told = Troubles(metrics)
    assert told.of(LIVE_AUDIO) is None
    assert told.failed(LIVE_AUDIO, error).startswith(begins)
    assert (told.of(LIVE_AUDIO) or "").endswith("audio of calls waits in the broker and nothing is lost")
    assert told.of(SEALING) is None
    assert b'greenroom_recorder_trouble{place="live-audio"} 1.0' in metrics.render()
    told.worked(LIVE_AUDIO)
    assert told.of(LIVE_AUDIO) is None
    assert b'greenroom_recorder_trouble{place="live-audio"} 0.0' in metrics.render()


def test_a_trouble_that_nobody_meets_any_more_is_over() -> None:
    """What failed may never be tried again (its session was erased): after two minutes it troubles nobody."""
    now = 0.0
    told = Troubles(clock=lambda: now)
    told.failed(SEALING, OSError(errno.ENOSPC, "full"))
    now = troubles.FORGOTTEN_S
    assert told.of(SEALING)
    now += 0.1
    assert told.of(SEALING) is None
