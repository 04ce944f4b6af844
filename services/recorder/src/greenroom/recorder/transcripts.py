"""Writes what was said in a session where it can be searched, once the session is sealed.

What is to be done is a query (`transcribed_at IS NULL`), so nobody has to be told of it, nothing is lost with a
recorder that dies, and sessions from before there were transcripts are taken up like any others, newest first. A
session is done in one transaction, and doing it again comes to the same rows. Speech that is stored later (it was in
the hands of a recorder that died) undoes the mark. Several recorders may do this at once: each session is done by one.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final

import msgspec
import structlog

from greenroom.common.errors import GreenroomError
from greenroom.common.messages import Event, EventType
from greenroom.common.metrics import Metrics
from greenroom.common.searchable import searchable
from greenroom.common.transcript import Speech, one_line
from greenroom.recorder.database import Connection, Pool, UnstorableRow, translated

_log = structlog.get_logger()

# Looked for this often while there is nothing to do; the query reads an index that is empty then.
ROUND_S: Final = 1.0
ROUND_LIMIT: Final = 100
# A tsvector holds 1 MB, and words that are different and short take several times their length in it.
PART_BYTES: Final = 128 * 1024
# Nobody searches for a longer word, and PostgreSQL indexes none.
_LONGEST_PIECE: Final = 2000
_PREFETCH: Final = 100

_SPEECH: Final = (EventType.USER_SPOKE, EventType.AGENT_SPOKE)
# What a transcript is made of: what was said, and when the call began.
_TYPES: Final = [*_SPEECH, EventType.CALL_CONNECTED]

# The newest first: what has just been said is looked for more often than what is being caught up on.
_SELECT_DUE: Final = """
SELECT id FROM sessions WHERE sealed_at IS NOT NULL AND transcribed_at IS NULL ORDER BY ended_at DESC LIMIT $1
"""

# Whoever has the row does it; others go on to the next one. So does this one where somebody is storing an event of the
# session, which holds its key: what is said in that would be missed, since it isn't seen yet. (FOR NO KEY UPDATE would
# take the row all the same.)
_LOCK: Final = """
SELECT tenant, agent, requested_at FROM sessions
WHERE id = $1 AND sealed_at IS NOT NULL AND transcribed_at IS NULL
FOR UPDATE SKIP LOCKED
"""

_SELECT_EVENTS: Final = """
SELECT id, tenant, type, at, seq, epoch, source, data FROM session_events
WHERE session_id = $1 AND type = ANY($2::text[]) ORDER BY stream_seq
"""

_DELETE: Final = "DELETE FROM transcripts WHERE session_id = $1"

_INSERT: Final = """
INSERT INTO transcripts (session_id, part, tenant, agent, requested_at, text, starts_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""

_MARK: Final = "UPDATE sessions SET transcribed_at = now() WHERE id = $1"


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A part of what was said: an utterance a line, and when each line began."""

    text: str
    starts_ms: tuple[int, ...]


def parts(lines: Sequence[tuple[int, str]], *, most_bytes: int = PART_BYTES) -> Iterator[Part]:
    """Yield what was said in parts of at most `most_bytes`; `lines` are beginnings in milliseconds, and texts."""
    texts: list[str] = []
    starts: list[int] = []
    size = 0
    for start, text in lines:
        for piece in _pieces(one_line(searchable(text)), most_bytes):
            took = len(piece.encode()) + 1
            if texts and size + took > most_bytes:
                yield Part(text="\n".join(texts), starts_ms=tuple(starts))
                texts, starts, size = [], [], 0
            texts.append(piece)
            starts.append(start)
            size += took
    if texts:
        yield Part(text="\n".join(texts), starts_ms=tuple(starts))


def _pieces(text: str, most_bytes: int) -> Iterator[str]:
    """Yield a line, or where that is too long for a part, its words in as many lines as it takes."""
    if len(text) * 4 < most_bytes:
        if text:
            yield text
        return
    words: list[str] = []
    size = 0
    for word in text.split():
        short = word[:_LONGEST_PIECE]
        took = len(short.encode()) + 1
        if words and size + took >= most_bytes:
            yield " ".join(words)
            words, size = [], 0
        words.append(short)
        size += took
    if words:
        yield " ".join(words)


class Transcriber:
    """Fills `transcripts`.

    Args:
        pool: connections to PostgreSQL.
        metrics: sessions by result.
    """

    def __init__(self, pool: Pool, metrics: Metrics) -> None:
        self._pool = pool
        self._results = metrics.counter("recorder_transcripts", "Sessions made searchable", ["result"])

    async def run(self) -> None:
        """Transcribe until canceled."""
        while True:
            done = 0
            try:
                done = await self.round()
            except GreenroomError as error:
                _log.warning("transcripts_not_written", code=error.code, again_in_s=ROUND_S)
            if done < ROUND_LIMIT:
                await asyncio.sleep(ROUND_S)

    async def round(self) -> int:
        """Transcribe what is due, a hundred sessions at most, and return how many that were.

        Raises:
            DatabaseUnavailable: the rest is done in the next round.
        """
        with translated():
            due = [row["id"] for row in await self._pool.fetch(_SELECT_DUE, ROUND_LIMIT)]
        return sum([await self._transcribe(session_id) for session_id in due])

    async def _transcribe(self, session_id: str) -> bool:
        try:
            with translated():
                async with self._pool.acquire() as connection, connection.transaction():
                    session = await connection.fetchrow(_LOCK, session_id)
                    if session is None:
                        return False
                    rows = await _write(connection, session_id, session)
                    await connection.execute(_MARK, session_id)
        except UnstorableRow as error:
            # It would be so each time. What was said can still be read, only not be found.
            _log.warning("transcript_unstorable", session_id=session_id, error=str(error))
            self._results.inc(result="failed")
            with translated():
                await self._pool.execute(_MARK, session_id)
            return True
        self._results.inc(result="written" if rows else "silent")
        return True


async def _write(connection: Connection, session_id: str, session: Any) -> int:
    speech = Speech()
    async for event in _events(connection, session_id):
        speech.add(event)
    lines = [(utterance.start_ms, utterance.text) for utterance in speech.utterances()]
    rows = [
        (session_id, number, session["tenant"], session["agent"], session["requested_at"], part.text, part.starts_ms)
        for number, part in enumerate(parts(lines), start=1)
    ]
    await connection.execute(_DELETE, session_id)
    await connection.executemany(_INSERT, rows)
    return len(rows)


async def _events(connection: Connection, session_id: str) -> AsyncIterator[Event]:
    async for row in connection.cursor(_SELECT_EVENTS, session_id, _TYPES, prefetch=_PREFETCH):
        try:
            data = msgspec.json.decode(row["data"], type=dict[str, Any])
        except msgspec.MsgspecError:
            continue
        fields = {name: row[name] for name in ("id", "tenant", "type", "at", "seq", "epoch", "source")}
        yield Event(session_id=session_id, data=data, **fields)


def speakers(events: Sequence[Event]) -> list[str]:
    """Return the ids of the sessions in which something is said by `events`: their transcripts are made again."""
    return sorted({event.session_id for event in events if event.type in _SPEECH})
