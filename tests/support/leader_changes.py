"""A recorder on a cluster of real servers whose leaders change in the middle of a call.

The leaders are asked to step down, which is what a restart of a server begins with: what follows is the same election,
without waiting until a dead one is missed.
"""

import asyncio
import contextlib
from pathlib import Path
from typing import Final

import msgspec

from greenroom.common import subjects
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.ledger import Entry
from greenroom.common.lifecycle import Session
from greenroom.common.messages import AudioHeader
from greenroom.common.nats_broker import NatsBroker
from greenroom.common.spool import Spool
from tests.support.nats_cluster import Cluster
from tests.support.recorder_world import RATE, World

# What a recorder depends on.
LEADERS: Final = (
    "STREAM.LEADER.STEPDOWN.SESSIONS",
    "CONSUMER.LEADER.STEPDOWN.SESSIONS.recorder-sessions",
    "STREAM.LEADER.STEPDOWN.AUDIO",
    "CONSUMER.LEADER.STEPDOWN.AUDIO.recorder-audio",
    "STREAM.LEADER.STEPDOWN.LEADERS",
)
# Of audio, with each event.
PIECE_BYTES: Final = 2 * RATE // 10


class ClusterWorld(World):
    """A world whose recorders connect to a cluster, as themselves."""

    def __init__(self, broker: NatsBroker, dsn: str, folder: Path, cluster: Cluster) -> None:
        super().__init__(broker, dsn, folder)
        self._cluster = cluster

    async def nats_url(self) -> str:
        """Return where recorders connect to: any server."""
        return self._cluster.url("recorder")

    async def call_through_changes(self, operator: NatsBroker, spoken: bytes, *, within_s: float) -> tuple[Entry, int]:
        """Hold a call while leaders step down, and end it; return its last entry and how many did."""
        spool, changes, changed = Spool(self.broker), [*LEADERS] * 3, 0
        publishing = asyncio.create_task(spool.run())
        entry = await self.begin()
        for number, place in enumerate(range(0, len(spoken), PIECE_BYTES), 1):
            _say(spool, entry.session, number, spoken[place : place + PIECE_BYTES])
            if changes and not number % 2:
                changed += await _step_down(operator, changes.pop(0))
            await asyncio.sleep(0.1)
        left = await spool.flush(within_s)
        publishing.cancel()
        await asyncio.wait({publishing})
        assert (left, spool.dropped, changes) == (0, 0, [])
        return await self.end(entry), changed


def _say(spool: Spool, session: Session, number: int, piece: bytes) -> None:
    """Say something, with an event, as a session process does."""
    tokens = {"tenant": session.tenant, "session_id": session.id}
    event = msgspec.json.encode({"id": f"e{number}", "data": {}})
    spool.put(subjects.SESSION_EVENT.format(**tokens, type="user_spoke"), event, msg_id=f"{session.id} e{number}")
    headers: dict[str, str] = {
        AudioHeader.SEQ: str(number),
        AudioHeader.EPOCH: "1",
        AudioHeader.POSITION: str((number - 1) * RATE // 10),
        AudioHeader.ORIGIN_NS: str(int(session.requested_at.timestamp() * 1e9)),
        AudioHeader.RATE: str(RATE),
    }
    audio = subjects.SESSION_AUDIO.format(**tokens, track="user")
    spool.put(audio, piece, msg_id=f"{session.id} a{number}", headers=headers)


async def _step_down(operator: NatsBroker, leader: str) -> bool:
    """Have a leader step down; while there is none, nobody can be asked."""
    with contextlib.suppress(BrokerUnavailable, TimeoutError):
        answer = await operator.request(f"$JS.API.{leader}", b"", timeout_s=5)
        return bool(msgspec.json.decode(answer.data).get("success"))
    return False
