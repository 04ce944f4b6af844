"""What PostgreSQL has of many sessions: words that were said, and whole ranges of sessions.

Search goes over `transcripts`, which the recorder fills when a session is sealed. Words are taken as they are, in any
language: `book` doesn't find `booking`, and capitals don't matter. A query is read as search engines do: words that all
have to be there, `"a phrase"`, `or`, `-not`.
"""

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any, Final

import asyncpg
import msgspec

from greenroom.api.store import Store
from greenroom.common.errors import InvalidQuery
from greenroom.common.lifecycle import Session

# Around a hit in a headline; the recorder leaves no such characters in what it stores.
HIT_BEGINS: Final = "\x02"
HIT_ENDS: Final = "\x03"
_PAGE: Final = 500

# What has to be in a text for the query to be true of it; empty or T: nothing, so every text would do.
_NEEDED: Final = "SELECT querytree(websearch_to_tsquery('simple', $1))"

# Sessions in which it was said, newest first; of a long one, whose text is kept in parts, the first part with a hit.
# A rare word is found by its index, a frequent one soon by going through the newest: which is better is decided by what
# is asked for, so the plan is made for it. Headlines are made of those on the page only. The time of the hit is that of
# its line, found by the line breaks that are before it in the text.
_PLAN_EACH: Final = "SET LOCAL plan_cache_mode = force_custom_plan"
_SEARCH: Final = f"""
WITH hits AS MATERIALIZED (
    SELECT DISTINCT ON (requested_at, session_id) session_id, requested_at, part
    FROM transcripts
    WHERE tenant = $1 AND words @@ websearch_to_tsquery('simple', $2)
        AND ($3::text IS NULL OR agent = $3)
        AND ($4::timestamptz IS NULL OR requested_at >= $4)
        AND ($5::timestamptz IS NULL OR requested_at < $5)
        AND ($6::timestamptz IS NULL OR (requested_at, session_id) < ($6, $7::text))
    ORDER BY requested_at DESC, session_id DESC, part
    LIMIT $8
)
SELECT spoken.session_id, spoken.requested_at, spoken.agent, marked.headline,
    spoken.starts_ms[1 + length(place.before) - length(replace(place.before, E'\\n', ''))] AS start_ms
FROM hits JOIN transcripts AS spoken USING (session_id, part),
LATERAL (
    SELECT ts_headline(
        'simple', spoken.text, websearch_to_tsquery('simple', $2),
        'StartSel={HIT_BEGINS}, StopSel={HIT_ENDS}, MaxWords=30, MinWords=12, ShortWord=0'
    ) AS headline
    OFFSET 0 -- made once, however often it is named below
) AS marked,
LATERAL (
    SELECT strpos(spoken.text, translate(marked.headline, '{HIT_BEGINS}{HIT_ENDS}', '')) AS headline_at,
        strpos(marked.headline, '{HIT_BEGINS}') AS hit_at
) AS at,
LATERAL (
    SELECT left(spoken.text, CASE WHEN at.headline_at > 0 THEN at.headline_at + at.hit_at - 2 ELSE 0 END) AS before
) AS place
ORDER BY spoken.requested_at DESC, spoken.session_id DESC
"""  # noqa: S608 constants

# A page of an export: oldest first, behind the last one of the page before.
_EXPORT: Final = """
SELECT session.document, recording.format, recording.duration_s, recording.bytes, recording.sha256, recording.saved_at
FROM sessions AS session
LEFT JOIN recordings AS recording ON recording.session_id = session.id
WHERE session.tenant = $1 AND session.requested_at >= $2 AND session.requested_at < $3
    AND ($4::text IS NULL OR session.agent = $4)
    AND (session.requested_at, session.id) > ($5, $6)
ORDER BY session.requested_at, session.id LIMIT $7
"""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What to search for; None: any. `before` is the place behind which to go on (newest first)."""

    words: str
    agent: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: tuple[datetime, str] | None = None


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A session in which it was said; `headline` has the words between HIT_BEGINS and HIT_ENDS."""

    session_id: str
    requested_at: datetime
    agent: str
    headline: str
    start_ms: int | None


class KeptRecording(msgspec.Struct, frozen=True, kw_only=True):
    """What an export says of a recording."""

    format: str
    duration_s: float
    bytes: int
    sha256: str
    saved_at: datetime


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A session of an export."""

    session: Session
    recording: KeptRecording | None


class Shelves:
    """Reads what is stored of many sessions of one tenant. Raises `DatabaseUnavailable`, as `Store` does."""

    def __init__(self, store: Store) -> None:
        """Read by the connections of `store`."""
        self._store = store

    async def search(self, tenant: str, wanted: Wanted, limit: int) -> list[Hit]:
        """Return sessions in which something was said, newest first.

        Raises:
            InvalidQuery: there is no word in the query that would have to be in a transcript.
        """
        before, behind = wanted.before or (None, None)
        async with self._store.connection("search") as connection:
            try:
                needed = await connection.fetchval(_NEEDED, wanted.words)
                if needed in {None, "", "T"}:
                    raise InvalidQuery("q: there is no word in it that has to be there.")
                async with connection.transaction():
                    await connection.execute(_PLAN_EACH)
                    rows = await connection.fetch(
                        _SEARCH, tenant, wanted.words, wanted.agent, wanted.since, wanted.until, before, behind, limit
                    )
            except (asyncpg.DataError, asyncpg.ProgramLimitExceededError, UnicodeEncodeError) as error:
                raise InvalidQuery("q: PostgreSQL can't search for it.") from error
        return [Hit(**row) for row in rows]

    async def page(
        self, tenant: str, since: datetime, until: datetime, agent: str | None, after: tuple[datetime, str]
    ) -> list[Kept]:
        """Return the next sessions of an export, oldest first."""
        async with self._store.connection("export") as connection:
            rows = await connection.fetch(_EXPORT, tenant, since, until, agent, *after, _PAGE)
        return [
            Kept(session=msgspec.json.decode(row["document"], type=Session), recording=_recording(row)) for row in rows
        ]

    async def export(
        self, tenant: str, since: datetime, until: datetime, agent: str | None
    ) -> AsyncGenerator[list[Kept]]:
        """Yield the sessions that were requested from `since` on and before `until`, oldest first, page by page.

        A page at a time is in memory, here and there. No connection is held, and no snapshot: a client that reads
        slowly keeps neither from others. When a session was requested never changes, so none comes twice or is left
        out.
        """
        after = (since, "")
        while page := await self.page(tenant, since, until, agent, after):
            yield page
            after = (page[-1].session.requested_at, page[-1].session.id)


def _recording(row: Any) -> KeptRecording | None:
    if row["format"] is None:
        return None
    fields: dict[str, Any] = {name: row[name] for name in KeptRecording.__struct_fields__}
    return KeptRecording(**fields)
