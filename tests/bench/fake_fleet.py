"""A runner without Pipecat, for measuring what lies in front of it: it takes sessions and sends media back.

`python -m tests.bench.fake_fleet SLOTS` reads NATS_URL, prints the port of a plain WebSocket that does the same
without the bridge, and runs until it is killed. Each binary frame begins with the sender's time (8 bytes,
nanoseconds of the machine's monotonic clock); it comes back with the time of its arrival here behind that.
"""

import asyncio
import contextlib
import os
import struct
import sys
import time
from datetime import datetime
from typing import Final

import uvloop
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from greenroom.common import messages, subjects
from greenroom.common.broker import Message
from greenroom.common.clock import utcnow
from greenroom.common.errors import GreenroomError
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import Ended, Outcome, Ready, Started
from greenroom.common.media_messages import ConnectMedia, MediaAccepted, MediaKind
from greenroom.common.messages import BotOffer, Heartbeat, StartAccepted, StartSession
from greenroom.common.nats_broker import NatsBroker

POOL: Final = "default"
RUNNER: Final = "fake"
TIMES: Final = struct.Struct(">QQ")
_HEAD: Final = struct.Struct(">BI")


class FakeFleet:
    """Takes every session at once."""

    def __init__(self, broker: NatsBroker, slots: int) -> None:
        self._broker = broker
        self._ledger = Ledger(broker)
        self._slots = slots
        self._tasks: set[asyncio.Task[None]] = set()
        self._started_at = utcnow()

    async def run(self) -> None:
        """Serve until cancelled."""
        await self._broker.serve(
            subjects.RUNNER_CMD.format(pool=POOL, runner_id=RUNNER, name="start"), self._start, queue=""
        )
        seq = 0
        while True:
            seq += 1
            subject, beat = announcement(seq=seq, slots=self._slots, started_at=self._started_at)
            await self._broker.publish(subject, messages.encode(beat))
            await asyncio.sleep(1)

    async def _start(self, message: Message) -> bytes:
        start = messages.decode(message.data, StartSession)
        task = asyncio.create_task(self._session(start))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return messages.encode(StartAccepted(session_id=start.session.id, epoch=start.session.epoch))

    async def _session(self, start: StartSession) -> None:
        session = start.session
        tokens = {"tenant": session.tenant, "session_id": session.id}
        out = subjects.SESSION_MEDIA.format(**tokens, direction="out")
        sequence = 0
        ended = asyncio.Event()

        async def on_frame(message: Message) -> None:
            nonlocal sequence
            kind, _ = _HEAD.unpack_from(message.data)
            if kind == MediaKind.CLOSE:
                ended.set()
                return
            reply = _HEAD.pack(kind, sequence) + stamped(message.data[_HEAD.size :])
            sequence += 1
            await self._broker.publish(out, reply)

        async def on_connect(message: Message) -> bytes:
            asked = messages.decode(message.data, ConnectMedia)
            return messages.encode(MediaAccepted(connection_id=asked.connection_id))

        media = await self._broker.subscribe(subjects.SESSION_MEDIA.format(**tokens, direction="in"), on_frame)
        connect = await self._broker.serve(subjects.SESSION_CMD.format(**tokens, name="connect"), on_connect)
        entry = Entry(session=session, transition=_placeholder(start), at=utcnow(), revision=start.revision)
        with contextlib.suppress(GreenroomError):
            entry = await self._ledger.advance(entry, Started(runner_id=RUNNER, epoch=session.epoch))
            entry = await self._ledger.advance(entry, Ready(epoch=session.epoch))
            await ended.wait()
            await self._ledger.move(
                session.tenant,
                session.id,
                lambda now: (
                    None
                    if now.ended
                    else Ended(by="runner", epoch=now.epoch, outcome=Outcome.COMPLETED, reason="client-left")
                ),
            )
        await media.unsubscribe()
        await connect.unsubscribe()


def announcement(*, seq: int = 1, slots: int = 1, started_at: datetime | None = None) -> tuple[str, Heartbeat]:
    """Return subject and body of a heartbeat that offers the bot `echo`."""
    now = utcnow()
    beat = Heartbeat(
        runner_id=RUNNER,
        pool=POOL,
        at=now,
        seq=seq,
        slots=slots,
        standby=slots,
        bots=(BotOffer(name="echo"),),
        started_at=started_at or now,
    )
    return subjects.RUNNER_HEARTBEAT.format(pool=POOL, runner_id=RUNNER), beat


def _placeholder(start: StartSession) -> Ready:
    """Return a transition for an entry that is only read for its session and revision."""
    return Ready(epoch=start.session.epoch)


def stamped(payload: bytes) -> bytes:
    """Return the payload with the time of its arrival in the second place."""
    return payload[:8] + time.monotonic_ns().to_bytes(8, "big") + payload[16:]


async def _direct(connection: ServerConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        async for message in connection:
            if isinstance(message, bytes):
                await connection.send(stamped(message))


async def _main(slots: int) -> None:
    broker = await NatsBroker.connect(os.environ["NATS_URL"], name="fake fleet")
    server = await serve(_direct, "127.0.0.1", 0, compression=None)
    print(server.sockets[0].getsockname()[1], flush=True)
    await FakeFleet(broker, slots).run()


if __name__ == "__main__":
    uvloop.run(_main(int(sys.argv[1])))
