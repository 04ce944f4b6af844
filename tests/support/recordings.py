"""Sessions and audio to be recorded, without a broker."""

from datetime import UTC, datetime
from typing import Any, cast

from greenroom.common.lifecycle import Outcome, Session, State
from greenroom.recorder.chunk_log import Chunk
from greenroom.recorder.timeline import SAMPLE_BYTES, ChunkNote, Track

ORIGIN_NS = 1_700_000_000_000_000_000


def ended_session(session_id: str = "s", **fields: Any) -> Session:
    """Return a session that has ended."""
    at = datetime(2026, 3, 1, 23, 30, tzinfo=UTC)
    return Session(
        id=session_id,
        tenant="t",
        agent="a",
        bot="b",
        requested_at=at,
        queue_deadline_at=at,
        state=State.ENDED,
        ended_at=at,
        outcome=Outcome.COMPLETED,
        reason="goodbye",
        **fields,
    )


def pcm_chunk(track: str, seq: int, position: int, pcm: bytes, *, session_id: str = "s") -> Chunk:
    """Return a chunk of the first attempt."""
    note = ChunkNote(
        track=cast("Track", track),
        epoch=1,
        seq=seq,
        position=position,
        samples=len(pcm) // SAMPLE_BYTES,
        origin_ns=ORIGIN_NS,
    )
    return Chunk(tenant="t", session_id=session_id, note=note, pcm=pcm)
