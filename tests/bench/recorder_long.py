"""Calls of an hour, with PostgreSQL away for ten minutes of it: what becomes of them, and of the recorder's memory.

`make bench only=long` takes as long as it says, and hardly any processor. `BENCH_MINUTES` makes it shorter (the outage
begins after a quarter of it, and lasts a sixth), to try it out. Each call speaks on both sides all the time, and tells
an event a second; afterwards each event has to be stored once and in order, and each sample where it was said.
"""

import asyncio
import os
import time
import wave
from typing import Any, Final

import asyncpg
import msgspec
import numpy as np

from greenroom.common import messages, subjects
from greenroom.common.clock import to_ns, utcnow
from greenroom.common.ids import uuid7
from greenroom.common.ledger import Entry
from greenroom.common.lifecycle import Limits
from greenroom.common.messages import AudioHeader, Event, EventType
from greenroom.recorder.audio import RATE_HZ
from greenroom.recorder.timeline import TRACKS
from tests.bench.recorder_place import TENANT, Place, rss_mb
from tests.bench.report import Report

_MINUTES: Final = float(os.environ.get("BENCH_MINUTES", "60"))
_CALLS: Final = 8
_CHUNK_S: Final = 0.8
_SAMPLES: Final = int(_CHUNK_S * RATE_HZ)
_CHUNKS: Final = int(_MINUTES * 60 / _CHUNK_S)
# Each side of each call begins somewhere else in it, and comes back there after 100 s.
_NOISE: Final = np.random.default_rng(7).integers(-(2**15), 2**15, _SAMPLES * 128, dtype=np.int16)
_BEGIN_S: Final = _MINUTES * 60 / 4
_AWAY_S: Final = _MINUTES * 60 / 6
_LOOK_S: Final = 5.0
_FLAT: Final = 1.05
_SEALED_WITHIN_S: Final = 300.0


class Memory(msgspec.Struct, kw_only=True):
    """Of the recorder, in MB: soon after the calls began, before the outage, the most, after it, and at the end."""

    begin: float = 0.0
    before: float = 0.0
    most: float = 0.0
    after: float = 0.0
    end: float = 0.0

    def note(self, now_s: float, mb: float) -> None:
        """Keep what there is `now_s` after the calls began."""
        if now_s < _BEGIN_S:
            self.begin = self.begin or (mb if now_s > _BEGIN_S / 3 else 0.0)
            self.before = mb
        elif now_s > _BEGIN_S + _AWAY_S * 1.2:
            self.after = self.after or mb
        self.most, self.end = max(self.most, mb), mb


async def run(report: Report) -> None:
    """Hold the calls, and look at what was kept of them."""
    report.step(f"{_CALLS} calls of {_MINUTES:g} minutes, PostgreSQL away for {_AWAY_S:g} s of them")
    async with Place.prepared() as place, place.recorder() as recorder:
        limits = Limits(max_duration_s=int(_MINUTES * 60) + 3600)
        entries = [await place.call(limits=limits) for _ in range(_CALLS)]
        await place.settled()
        memory = Memory()
        calls = [asyncio.create_task(_speak(place, entry, number)) for number, entry in enumerate(entries)]
        outage = asyncio.create_task(_outage(place))
        began = time.monotonic()
        while not all(call.done() for call in calls):
            await asyncio.sleep(_LOOK_S)
            memory.note(time.monotonic() - began, rss_mb(recorder))
        caught_up_s = await outage
        await asyncio.gather(*calls)
        for entry in entries:
            await place.hang_up(entry)
        await place.settled()
        wrong, events = await _look(place, entries)
    _show(report, memory, caught_up_s=caught_up_s, wrong=wrong, events=events)


def _show(report: Report, memory: Memory, *, caught_up_s: float, wrong: int, events: int) -> None:
    expected = _CALLS * _CHUNKS
    report.add("long.samples_wrong", wrong, "samples", note="missing or different", expected="0", met=wrong == 0)
    report.add("long.events", events, "", note=f"once, in order, of {expected}", expected="all", met=events == expected)
    report.add("long.caught_up_s", caught_up_s, "s", note="after PostgreSQL was back")
    for name, since, until in (("before", memory.begin, memory.before), ("after", memory.after, memory.end)):
        report.add(
            f"long.rss_{name}_mb",
            until,
            "MB",
            note=f"{name} the outage; {since:.1f} at first",
            expected="flat",
            met=until < _FLAT * since,
        )
    report.add("long.rss_most_mb", memory.most, "MB", note="the outage included")


async def _outage(place: Place) -> float:
    """Take PostgreSQL away for a while; return after how many seconds everything was stored that had waited."""
    await asyncio.sleep(_BEGIN_S)
    await place.postgres.stop()
    await asyncio.sleep(_AWAY_S)
    await place.postgres.start()
    began = time.monotonic()
    while True:
        connection = await asyncpg.connect(place.postgres.dsn)
        try:
            behind = await connection.fetchval(
                "SELECT extract(epoch FROM now() - min(newest)) FROM "
                "(SELECT max(at) AS newest FROM session_events GROUP BY session_id) AS latest"
            )
        finally:
            await connection.close()
        if behind < _LOOK_S:
            return time.monotonic() - began
        await asyncio.sleep(0.2)


async def _speak(place: Place, entry: Entry, number: int) -> None:
    session = entry.session
    first_at = time.monotonic() + number / _CALLS * _CHUNK_S
    for index in range(_CHUNKS):
        await asyncio.sleep(max(first_at + index * _CHUNK_S - time.monotonic(), 0))
        for side, track in enumerate(TRACKS):
            await place.broker.append_soon(
                subjects.SESSION_AUDIO.format(tenant=TENANT, session_id=session.id, track=track),
                _chunk(number, side, index).tobytes(),
                msg_id=f"{session.id}/1/{track}/{index + 1}",
                headers={
                    AudioHeader.SEQ: str(index + 1),
                    AudioHeader.EPOCH: "1",
                    AudioHeader.POSITION: str(index * _SAMPLES),
                    AudioHeader.ORIGIN_NS: str(to_ns(session.requested_at)),
                    AudioHeader.RATE: str(RATE_HZ),
                },
            )
        event = Event(
            id=uuid7(),
            tenant=TENANT,
            session_id=session.id,
            type=EventType.METRICS,
            at=utcnow(),
            seq=index + 1,
            epoch=1,
            source="session",
            data={"kind": "ttfb", "value_s": index},
        )
        subject = subjects.SESSION_EVENT.format(tenant=TENANT, session_id=session.id, type=event.type)
        await place.broker.append(subject, messages.encode(event), msg_id=event.id)


def _chunk(number: int, side: int, index: int) -> Any:
    start = (number * 16 + side * 61 + index) % 127 * _SAMPLES
    return _NOISE[start : start + _SAMPLES]


async def _look(place: Place, entries: list[Entry]) -> tuple[int, int]:
    """Return how many samples are missing or wrong, and how many events are stored in order."""
    connection = await asyncpg.connect(place.postgres.dsn)
    wrong = events = 0
    try:
        async with asyncio.timeout(_SEALED_WITHIN_S):
            while await connection.fetchval("SELECT count(*) FROM recordings") < len(entries):
                await asyncio.sleep(1)
        for number, entry in enumerate(entries):
            path = await connection.fetchval("SELECT path FROM recordings WHERE session_id = $1", entry.session.id)
            wrong += await asyncio.to_thread(_differ, str(place.recordings / path), number)
            rows = await connection.fetch(
                "SELECT seq FROM session_events WHERE session_id = $1 AND source = 'session' ORDER BY stream_seq",
                entry.session.id,
            )
            events += sum(row["seq"] == seq for seq, row in enumerate(rows, start=1))
    finally:
        await connection.close()
    return wrong, events


def _differ(path: str, number: int) -> int:
    """Return how many samples of a recording aren't what was said, or aren't there."""
    wrong = 0
    with wave.open(path) as file:
        for index in range(_CHUNKS):
            heard = np.frombuffer(file.readframes(_SAMPLES), np.int16).reshape(-1, len(TRACKS))
            for side in range(len(TRACKS)):
                said = _chunk(number, side, index)
                wrong += _SAMPLES - int(np.count_nonzero(heard[:, side] == said[: len(heard)]))
        wrong += len(file.readframes(file.getnframes())) // 2
    return wrong
