"""Reads the events of many sessions for one transaction, in memory that is bounded."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from greenroom.recorder.database import Connection

# Rows from the server at once.
PREFETCH: Final = 250
# The sessions of a transaction are locked until it is over: after so many characters of data (5,000 to 10,000 events,
# 0.1 s) no further session is begun.
MOST_CHARS: Final = 1_000_000


async def read_events(
    connection: Connection, query: str, session_ids: Sequence[str], *values: Any, add: Callable[[str, Any], None]
) -> list[str]:
    """Hand over the events of sessions one by one, and return the sessions that are left, since there was too much.

    Args:
        connection: in a transaction.
        query: gives rows with `session_id` and `data`, in the order of the ids that are its first parameter.
        session_ids: those.
        values: its other parameters.
        add: takes a session's id, and a row.
    """
    cursor = await connection.cursor(query, session_ids, *values)
    current, read = "", 0
    while rows := await cursor.fetch(PREFETCH):
        for row in rows:
            session_id = row["session_id"]
            if session_id != current:
                if read >= MOST_CHARS:
                    return list(session_ids[session_ids.index(session_id) :])
                current = session_id
            read += len(row["data"])
            add(session_id, row)
    return []
