"""How long it takes until a call of an hour is sealed: from its end in the ledger to the mark on its row."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any, Final

import asyncpg
import numpy as np
import psutil

from greenroom.common.ledger import Entry
from greenroom.common.lifecycle import Limits, Session
from greenroom.common.recordings import Format, RecordingChoice
from greenroom.recorder.audio import RATE_HZ
from greenroom.recorder.chunk_log import Chunk
from greenroom.recorder.parts import Parts
from greenroom.recorder.timeline import SAMPLE_BYTES, TRACKS, ChunkNote
from tests.bench.recorder_place import Place, cpu_s
from tests.bench.report import Report

_HOUR_S: Final = 3600
# As session processes cut it.
_CHUNK_S: Final = 0.8
_FORMATS: Final[tuple[Format, ...]] = ("wav", "flac", "opus")
_BATCH: Final = 500
_DEADLINE_S: Final = 120.0
_POLL_S: Final = 0.01


async def run(report: Report, place: Place) -> None:
    """Seal an hour in each format, one after the other."""
    report.step(f"sealing a call of an hour as {', '.join(_FORMATS)}")
    connection = await asyncpg.connect(place.postgres.dsn)
    try:
        calls = [(form, await _call(place, form)) for form in _FORMATS]
        async with place.recorder() as recorder:
            # One without audio first: then the recorder leads.
            await _seal(connection, place, await place.call(), recorder)
            for form, entry in calls:
                took_s, spent_s = await _seal(connection, place, entry, recorder)
                await _check(connection, entry)
                key = "recorder.seal_1h_s" if form == "wav" else f"recorder.seal_1h_{form}_s"
                note = f"from its end to the mark; {spent_s:.1f} s of a core"
                if form == "wav":
                    report.add(key, took_s, "s", note=note, expected="< 2", met=took_s < 2)
                else:
                    report.add(key, took_s, "s", note=note)
    finally:
        await connection.close()


async def _call(place: Place, form: Format) -> Entry:
    """Return a session that is ready, an hour of which is on the disk."""
    entry = await place.call(limits=Limits(max_duration_s=2 * _HOUR_S), recording=RecordingChoice(format=form))
    parts = Parts(place.parts, max_open=8)
    try:
        for batch in _audio(entry.session):
            await asyncio.to_thread(parts.write, batch)
        await asyncio.to_thread(parts.checkpoint)
    finally:
        parts.shutdown()
    return entry


def _audio(session: Session) -> Iterator[list[Chunk]]:
    """Yield an hour of two people who talk by turns: what sounds like speech to an encoder, a breath below it."""
    random = np.random.default_rng(7)
    size = int(_CHUNK_S * RATE_HZ)
    # Noise without its highest tones, in syllables.
    noise = np.convolve(random.standard_normal(64 * size), np.ones(8) / 8, "same")
    voice = noise * (0.6 + 0.4 * np.sin(np.arange(len(noise)) * 2 * np.pi * 4 / RATE_HZ))
    spoken = (voice * 6000).astype("<i2").tobytes()
    quiet = (noise * 20).astype("<i2").tobytes()
    origin_ns = int(session.requested_at.timestamp() * 1e9)
    batch: list[Chunk] = []
    for index in range(int(_HOUR_S / _CHUNK_S)):
        for side, track in enumerate(TRACKS):
            talks = index // 5 % 2 == side
            start = index % 64 * size * SAMPLE_BYTES
            pcm = (spoken if talks else quiet)[start : start + size * SAMPLE_BYTES]
            note = ChunkNote(
                track=track,
                epoch=1,
                seq=index + 1,
                position=index * size,
                samples=size,
                origin_ns=origin_ns,
                at_ns=origin_ns + int((index + 1) * _CHUNK_S * 1e9),
            )
            batch.append(Chunk(tenant=session.tenant, session_id=session.id, note=note, pcm=pcm))
        if len(batch) >= _BATCH:
            yield batch
            batch = []
    yield batch


async def _seal(connection: Any, place: Place, entry: Entry, recorder: psutil.Process) -> tuple[float, float]:
    """End a session and return how long it took until it was sealed, and the seconds of a core that went into that."""
    spent_s, began = cpu_s(recorder), time.perf_counter()
    await place.hang_up(entry)
    query = "SELECT sealed_at IS NOT NULL FROM sessions WHERE id = $1"
    async with asyncio.timeout(_DEADLINE_S):
        while not await connection.fetchval(query, entry.session.id):
            await asyncio.sleep(_POLL_S)
    return time.perf_counter() - began, cpu_s(recorder) - spent_s


async def _check(connection: Any, entry: Entry) -> None:
    size = await connection.fetchval("SELECT duration_s FROM recordings WHERE session_id = $1", entry.session.id)
    if size is None or size < _HOUR_S - 1:
        raise RuntimeError(f"{size} s are in the recording")
