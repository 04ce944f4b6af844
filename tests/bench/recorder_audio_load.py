"""The audio of live calls as session processes publish it: `python -m tests.bench.recorder_audio_load` reads NATS_URL.

Reads a line with the ids of sessions, and then lines `[how many of them speak, for how many seconds]`; answers each
with what became of the chunks. One is durable when the recorder acknowledges it, which is seen here as the server
sees it.
"""

import asyncio
import contextlib
import os
import sys
import time
from typing import Final

import msgspec
import uvloop
from nats.aio.msg import Msg

from greenroom.common import subjects
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.log import configure_logging
from greenroom.common.messages import AudioHeader
from greenroom.common.nats_broker import NatsBroker
from greenroom.recorder.audio import CONSUMER, RATE_HZ, STREAM
from greenroom.recorder.timeline import TRACKS
from tests.bench.recorder_place import TENANT
from tests.bench.report import percentile

# A runner's session process cuts a chunk at 0.75 s, when it looks: every 0.2 s.
_CHUNK_S: Final = 0.8
_SAMPLES: Final = int(_CHUNK_S * RATE_HZ)
# Until then those that began at once have found their pace.
_WARM_UP_S: Final = 2.0
# What isn't durable by then is late, by that much at least.
_PATIENCE_S: Final = 10.0
_NEVER: Final = float("inf")
_NOISE: Final = os.urandom(_SAMPLES * 2 * 64)


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the chunks of a step; `late` were never acknowledged."""

    p50_ms: float
    p99_ms: float
    chunks: int
    late: int


class Load:
    """Publishes, and sees what is acknowledged."""

    def __init__(self, broker: NatsBroker, ids: list[str]) -> None:
        self._broker = broker
        self._ids = ids
        self._chunks = dict.fromkeys(ids, 0)
        self._origin_ns = time.time_ns()
        self._acknowledged: dict[int, float] = {}
        self._sent: dict[int, float] = {}

    async def begin(self) -> None:
        """See acknowledgements from now on."""
        for layout in (f"$JS.ACK.{STREAM}.{CONSUMER}.>", f"$JS.ACK.*.*.{STREAM}.{CONSUMER}.>"):
            await self._broker.client.subscribe(layout, cb=self._see)

    async def hold(self, count: int, for_s: float) -> Held:
        """Let `count` calls speak for a time, and return what became of what they said after the first seconds."""
        self._acknowledged, self._sent = {}, {}
        began = time.monotonic()
        await asyncio.gather(
            *(self._speak(id_, began + index / count * _CHUNK_S, for_s) for index, id_ in enumerate(self._ids[:count]))
        )
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline and not self._sent.keys() <= self._acknowledged.keys():
            await asyncio.sleep(0.05)
        took = [
            (self._acknowledged.get(seq, _NEVER) - at) * 1e3
            for seq, at in self._sent.items()
            if at > began + _WARM_UP_S
        ]
        late = sum(each == _NEVER for each in took)
        worst = _PATIENCE_S * 1e3
        p50, p99 = percentile(took, 0.5), percentile(took, 0.99)
        return Held(p50_ms=min(p50, worst), p99_ms=min(p99, worst), chunks=len(took), late=late)

    async def _speak(self, session_id: str, first_at: float, for_s: float) -> None:
        for index in range(int(for_s / _CHUNK_S)):
            at = first_at + index * _CHUNK_S
            await asyncio.sleep(max(at - time.monotonic(), 0))
            number = self._chunks[session_id] = self._chunks[session_id] + 1
            for track in TRACKS:
                await self._publish(session_id, track, number)

    async def _publish(self, session_id: str, track: str, number: int) -> None:
        start = number % 64 * _SAMPLES * 2
        sent = time.monotonic()
        stored = await self._broker.append_soon(
            subjects.SESSION_AUDIO.format(tenant=TENANT, session_id=session_id, track=track),
            _NOISE[start : start + _SAMPLES * 2],
            msg_id=f"{session_id}/1/{track}/{number}",
            headers={
                AudioHeader.SEQ: str(number),
                AudioHeader.EPOCH: "1",
                AudioHeader.POSITION: str((number - 1) * _SAMPLES),
                AudioHeader.ORIGIN_NS: str(self._origin_ns),
                AudioHeader.RATE: str(RATE_HZ),
            },
        )
        stored.add_done_callback(lambda done: self._note(done, sent))

    def _note(self, done: asyncio.Future[int], sent: float) -> None:
        with contextlib.suppress(BrokerUnavailable):
            self._sent[done.result()] = sent

    async def _see(self, msg: Msg) -> None:
        # $JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<deliveries>.<stream seq>…
        tokens = msg.subject.split(".")
        seq = tokens[tokens.index(CONSUMER) + 2]
        self._acknowledged[int(seq)] = time.monotonic()


async def main() -> None:
    """Do what is read until the end."""
    configure_logging("bench", level="warning", form="console", instance_id="audio")
    broker = await NatsBroker.connect(os.environ["NATS_URL"], name="audio")
    load = Load(broker, msgspec.json.decode(await asyncio.to_thread(sys.stdin.readline), type=list[str]))
    await load.begin()
    while line := await asyncio.to_thread(sys.stdin.readline):
        count, for_s = msgspec.json.decode(line, type=tuple[int, float])
        print(msgspec.json.encode(await load.hold(count, for_s)).decode(), flush=True)
    await broker.close()


if __name__ == "__main__":
    uvloop.run(main())
