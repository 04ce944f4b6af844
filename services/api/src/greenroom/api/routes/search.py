"""`/v1/search`: in which sessions something was said."""

import html
from datetime import datetime
from typing import Annotated, Final

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromQuery, QueryParameter

from greenroom.api import cursor as cursors
from greenroom.api import reading_examples as examples
from greenroom.api.auth import SESSIONS_READ, caller_of
from greenroom.api.reading.parts import Reading
from greenroom.api.reading.shelves import HIT_BEGINS, HIT_ENDS, Hit, Wanted
from greenroom.api.routes.common import AnyRequest, answer, moment, only_query, problems
from greenroom.common.errors import InvalidQuery
from greenroom.common.searchable import searchable

_OK: Final = 200
_MAX_PAGE: Final = 100
_MAX_QUERY: Final = 256


class HitView(msgspec.Struct, frozen=True, kw_only=True):
    """A session in which it was said.

    `snippet` is HTML: what was found is in `<mark>`, everything else is escaped; ` / ` separates utterances.
    `start_ms` is when it was said, in the call; None where that can't be told.
    """

    session_id: str
    agent: str
    requested_at: datetime
    snippet: str
    start_ms: int | None


class SearchPage(msgspec.Struct, frozen=True, kw_only=True):
    """Sessions, newest first."""

    hits: list[HitView]
    # Pass as `cursor` for the next page; None on the last.
    next: str | None


def search_routes(reading: Reading) -> list[HTTPRouteHandler]:
    """Return the route; `reading` has what was said."""

    @get(
        "/v1/search",
        operation_id="search",
        tags=["sessions"],
        opt={"scope": SESSIONS_READ},
        summary="Find what was said",
        responses={_OK: answer(SearchPage, "A page", examples.FOUND), **problems()},
    )
    async def search(
        request: AnyRequest,
        *,
        q: Annotated[
            str, QueryParameter(min_length=1, max_length=_MAX_QUERY, description='Words; `"a phrase"`, `or`, `-not`')
        ],
        agent: FromQuery[str | None] = None,
        since: Annotated[datetime | None, QueryParameter(name="from", description="Requested at or after")] = None,
        until: Annotated[datetime | None, QueryParameter(name="to", description="Requested before")] = None,
        limit: Annotated[int, QueryParameter(ge=1, le=_MAX_PAGE)] = 20,
        cursor: Annotated[str | None, QueryParameter(description="`next` of the page before")] = None,
    ) -> SearchPage:
        """Return the sessions in which something was said, newest first.

        A session can be found a moment after it has ended. Words are taken as they were said, in any language, whatever
        their capitals.
        """
        only_query(request, "q", "agent", "from", "to", "limit", "cursor")
        for name, text in (("q", q), ("agent", agent)):
            if text is not None and not _plain(text):
                raise InvalidQuery(f"{name}: there is a character in it that no text has.")
        wanted = Wanted(
            words=searchable(q),
            agent=agent,
            since=moment("from", since),
            until=moment("to", until),
            before=cursors.decode(cursor) if cursor is not None else None,
        )
        found = await reading.shelves.search(caller_of(request).tenant, wanted, limit + 1)
        page, more = found[:limit], len(found) > limit
        return SearchPage(
            hits=[_view(hit) for hit in page],
            next=cursors.encode(page[-1].requested_at, page[-1].session_id) if more else None,
        )

    return [search]


def _plain(text: str) -> bool:
    """Tell whether PostgreSQL can take a text: no NUL, and no half of a character."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _view(hit: Hit) -> HitView:
    escaped = html.escape(hit.headline, quote=False).replace("\n", " / ")
    return HitView(
        session_id=hit.session_id,
        agent=hit.agent,
        requested_at=hit.requested_at,
        snippet=escaped.replace(HIT_BEGINS, "<mark>").replace(HIT_ENDS, "</mark>"),
        start_ms=hit.start_ms,
    )
