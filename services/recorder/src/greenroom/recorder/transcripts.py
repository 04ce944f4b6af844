"""Writes what was said in a session where it can be searched, once the session is sealed.

What is to be done is a query (`transcribed_at IS NULL`), so nobody has to be told of it, nothing is lost with a
recorder that dies, and sessions from before there were transcripts are taken up like any others, newest first. A
transaction does dozens of sessions, and doing one again comes to the same rows. Speech that is stored later (it was in
the hands of a recorder that died) undoes the mark. Several recorders may do this at once: each session is done by one.
"""

import asyncio
from collections.abc import Iterator, Sequence
from itertools import batched
from typing import Any, Final

import msgspec
import structlog

from greenroom.common.errors import GreenroomError
from greenroom.common.messages import Event, EventType
from greenroom.common.metrics import Metrics
from greenroom.common.searchable import searchable
from greenroom.common.transcript import Speech, one_line
from greenroom.recorder.database import Connection, Pool, UnstorableRow, translated
from greenroom.recorder.event_rows import read_events
from greenroom.recorder.events_first import EventsFirst
from greenroom.recorder.together import in_halves

_log = structlog.get_logger()

# Looked for this often while there is nothing to do; the query reads an index that is empty then.
ROUND_S: Final = 1.0
ROUND_LIMIT: Final = 100
# A tsvector holds 1 MB, and words that are different and short take several times their length in it.
PART_BYTES: Final = 128 * 1024
# Nobody searches for a longer word, and PostgreSQL indexes none.
_LONGEST_PIECE: Final = 2000
# So many sessions are done by one transaction.
_TOGETHER: Final = 50

_SPEECH: Final = (EventType.USER_SPOKE, EventType.AGENT_SPOKE)
# What a transcript is made of: what was said, and when the call began.
_TYPES: Final = [*_SPEECH, EventType.CALL_CONNECTED]

# The newest first: what has just been said is looked for more often than what is being caught up on.
_SELECT_DUE: Final = """
SELECT id FROM sessions WHERE sealed_at IS NOT NULL AND transcribed_at IS NULL ORDER BY ended_at DESC LIMIT $1
"""

# Whoever has a row does it; others go on to the next one. So does this one where somebody is storing an event of the
# session, which holds its key: what is said in that would be missed, since it isn't seen yet. (FOR NO KEY UPDATE would
# take the row all the same.) Nobody is waited for, so no two deadlock. What isn't due any more is told apart behind
# that: as a condition it would have the planner go through all that are due, which may be a year of them.
_LOCK: Final = """
SELECT id, tenant, agent, requested_at, sealed_at IS NOT NULL AND transcribed_at IS NULL AS due
FROM sessions WHERE id = ANY($1::text[])
FOR UPDATE SKIP LOCKED
"""

# What was said in sessions, in the order of the ids that are given: that of one behind that of another.
_SELECT_EVENTS: Final = """
SELECT due.id AS session_id, event.id, event.type, event.at, event.seq, event.epoch, event.data
FROM unnest($1::text[]) WITH ORDINALITY AS due (id, place)
CROSS JOIN LATERAL (
    SELECT id, stream_seq, type, at, seq, epoch, data FROM session_events
    WHERE session_id = due.id AND type = ANY($2::text[])
) AS event
ORDER BY due.place, event.stream_seq
"""

_DELETE: Final = "DELETE FROM transcripts WHERE session_id = ANY($1::text[])"
_COLUMNS: Final = ("session_id", "part", "tenant", "agent", "requested_at", "text", "starts_ms")

_MARK: Final = "UPDATE sessions SET transcribed_at = now() WHERE id = ANY($1::text[])"


# Made once: it takes longer than what it does.
_DATA: Final = msgspec.json.Decoder(dict[str, Any])


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
        events_first: what each round waits for; None: nothing.
    """

    def __init__(self, pool: Pool, metrics: Metrics, *, events_first: EventsFirst | None = None) -> None:
        self._pool = pool
        self._events_first = events_first
        self._results = metrics.counter("recorder_transcripts", "Sessions made searchable", ["result"])

    async def run(self) -> None:
        """Transcribe until canceled."""
        while True:
            if self._events_first is not None:
                await self._events_first.wait()
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
        done = 0

        async def transcribe(session_ids: Sequence[str]) -> None:
            nonlocal done
            while session_ids:
                written, session_ids = await self._transcribe(session_ids)
                done += len(written)
                for number in written:
                    self._results.inc(result="written" if number else "silent")

        async def give_up(session_id: str, error: Exception) -> None:
            nonlocal done
            # It would be so each time. What was said can still be read, only not be found.
            _log.warning("transcript_unstorable", session_id=session_id, error=str(error))
            self._results.inc(result="failed")
            with translated():
                await self._pool.execute(_MARK, [session_id])
            done += 1

        for batch in batched(due, _TOGETHER):
            await in_halves(batch, transcribe, hopeless=(UnstorableRow,), give_up=give_up)
        return done

    async def _transcribe(self, session_ids: Sequence[str]) -> tuple[list[int], list[str]]:
        """Do sessions in one transaction; return how many parts each has that was done, and the ids of those left."""
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                sessions = {row["id"]: row for row in await connection.fetch(_LOCK, session_ids) if row["due"]}
                return await _write(connection, sessions) if sessions else ([], [])


async def _write(connection: Connection, sessions: dict[str, Any]) -> tuple[list[int], list[str]]:
    said = {session_id: Speech() for session_id in sessions}

    def add(session_id: str, row: Any) -> None:
        event = _event(row)
        if event is not None:
            said[session_id].add(event)

    left = await read_events(connection, _SELECT_EVENTS, list(sessions), _TYPES, add=add)
    rows: list[tuple[Any, ...]] = []
    done: dict[str, int] = {}
    for session_id, session in sessions.items():
        if session_id in left:
            continue
        lines = [(utterance.start_ms, utterance.text) for utterance in said[session_id].utterances()]
        made = list(parts(lines))
        whose = (session["tenant"], session["agent"], session["requested_at"])
        rows += [(session_id, number, *whose, part.text, part.starts_ms) for number, part in enumerate(made, start=1)]
        done[session_id] = len(made)
    await connection.execute(_DELETE, list(done))
    await connection.copy_records_to_table("transcripts", records=rows, columns=_COLUMNS)
    await connection.execute(_MARK, list(done))
    return list(done.values()), left


def _event(row: Any) -> Event | None:
    try:
        data = _DATA.decode(row["data"])
    except msgspec.MsgspecError:
        return None
    return Event(
        id=row["id"],
        tenant="",
        session_id=row["session_id"],
        type=row["type"],
        at=row["at"],
        seq=row["seq"],
        epoch=row["epoch"],
        data=data,
    )


def speakers(events: Sequence[Event]) -> list[str]:
    """Return the ids of the sessions in which something is said by `events`: their transcripts are made again."""
    return sorted({event.session_id for event in events if event.type in _SPEECH})
