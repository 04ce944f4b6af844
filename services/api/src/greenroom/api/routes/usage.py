"""`/v1/usage`: what sessions used, and what that costs."""

from datetime import datetime, timedelta
from typing import Annotated, Final

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromQuery, QueryParameter

from greenroom.api.auth import caller_of
from greenroom.api.billing import examples
from greenroom.api.billing.schemas import GroupBy, UsagePage, utc
from greenroom.api.billing.usage import MAX_PAGE, PAGE, UsageQuery, Usages
from greenroom.api.routes.common import AnyRequest, answer, only_query, problems
from greenroom.api.routes.policy_common import READ
from greenroom.common.budgets import is_zone
from greenroom.common.clock import utcnow
from greenroom.common.errors import Forbidden, InvalidQuery

_OK: Final = 200
_DEFAULT: Final = timedelta(days=30)
_LONGEST: Final = timedelta(days=400)
_PARAMETERS: Final = (
    *("from", "to", "group_by", "zone", "tenant", "agent", "provider"),
    *("session_id", "limit", "cursor"),
)


def usage_routes(usages: Usages) -> list[HTTPRouteHandler]:
    """Return the routes."""

    @get(
        "/v1/usage",
        operation_id="get_usage",
        tags=["usage"],
        opt={"scope": READ},
        summary="What sessions used, and what that costs",
        responses={_OK: answer(UsagePage, "A page of groups", examples.USAGE), **problems()},
    )
    async def get_usage(
        request: AnyRequest,
        *,
        since: Annotated[
            datetime | None,
            QueryParameter(name="from", description="Started at or after; default: 30 days before `to`"),
        ] = None,
        until: Annotated[datetime | None, QueryParameter(name="to", description="Started before; default: now")] = None,
        group_by: FromQuery[GroupBy] = "day",
        zone: Annotated[str, QueryParameter(description="Whose days they are, an IANA name", max_length=64)] = "UTC",
        tenant: Annotated[str | None, QueryParameter(description="For operators; else the key's own")] = None,
        agent: FromQuery[str | None] = None,
        provider: FromQuery[str | None] = None,
        session_id: FromQuery[str | None] = None,
        limit: Annotated[int, QueryParameter(ge=1, le=MAX_PAGE, description="Groups in a page")] = PAGE,
        cursor: FromQuery[str | None] = None,
    ) -> Response[UsagePage]:
        """Return what ended sessions used, in groups, by tenant and key; operators see all tenants.

        A session counts whole for when it started, and is priced by what was valid then. What has no price is listed
        as `unpriced`, and is in no `cost`. Quantities and amounts are exact decimal numbers as texts.
        """
        only_query(request, *_PARAMETERS)
        caller = caller_of(request)
        if not caller.operator:
            if tenant not in {None, caller.tenant}:
                raise Forbidden("The key is another tenant's.")
            tenant = caller.tenant
        until = _utc("to", until) if until is not None else utcnow()
        since = _utc("from", since) if since is not None else until - _DEFAULT
        if not timedelta() < until - since <= _LONGEST:
            raise InvalidQuery(f"from, to: `to` is after `from`, by {_LONGEST.days} days at most.")
        if not is_zone(zone):
            raise InvalidQuery("zone: there is no such time zone.")
        texts = (tenant, agent, provider, session_id)
        if any("\x00" in text for text in texts if text):
            raise InvalidQuery("A name has no NUL.")
        query = UsageQuery(
            since=since,
            until=until,
            group_by=group_by,
            zone=zone,
            tenant=tenant,
            agent=agent,
            provider=provider,
            session_id=session_id,
            limit=limit,
            cursor=cursor,
        )
        return Response(await usages.page(query), headers={"cache-control": "no-store"})

    return [get_usage]


def _utc(name: str, moment: datetime) -> datetime:
    found = utc(moment)
    if found is None:
        raise InvalidQuery(f"{name}: it has no time zone, or can't be meant.")
    return found
