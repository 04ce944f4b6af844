"""`/v1/queue`: which sessions wait, in which order, and for what."""

from typing import Annotated, Final

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter

from greenroom.api import policy_examples as examples
from greenroom.api.auth import ADMIN, SESSIONS_READ, Caller, caller_of
from greenroom.api.policy_schemas import QueueList
from greenroom.api.routes.common import AnyRequest, answer, only_query, problems
from greenroom.api.routes.policy_common import tenant_name
from greenroom.api.scheduler_link import SchedulerLink
from greenroom.api.schemas import PoolName
from greenroom.common import errors
from greenroom.common.errors import Forbidden
from greenroom.common.messages import QueuePageQuery
from greenroom.common.policy import EACH

_OK: Final = 200
_MAX_PAGE: Final = 500
# Further than any queue is long.
_MAX_OFFSET: Final = 1_000_000


def queue_routes(link: SchedulerLink) -> list[HTTPRouteHandler]:
    """Return the route; the scheduler behind `link` has the queue."""

    @get(
        "/v1/queue",
        operation_id="get_queue",
        tags=["sessions"],
        opt={"scope": SESSIONS_READ},
        summary="Look at the queue",
        responses={
            _OK: answer(QueueList, "Waiting sessions in their order", examples.QUEUE),
            **problems(errors.SchedulerUnavailable),
        },
    )
    async def get_queue(
        request: AnyRequest,
        pool: Annotated[PoolName | None, QueryParameter(description="Only sessions for this pool")] = None,
        tenant: Annotated[
            str | None, QueryParameter(description="Whose, `*`: all; default: the key's. Others need `admin`")
        ] = None,
        offset: Annotated[int, QueryParameter(ge=0, le=_MAX_OFFSET, description="`next` of the page before")] = 0,
        limit: Annotated[int, QueryParameter(ge=1, le=_MAX_PAGE)] = 100,
    ) -> QueueList:
        """List waiting sessions in the order of the queue, each with its position, and what it waits for.

        The queue moves while it is read: a session may be on two pages or on none. `GET /v1/sessions/{id}` is exact.
        """
        only_query(request, "pool", "tenant", "offset", "limit")
        query = QueuePageQuery(tenant=_whose(tenant, caller_of(request)), pool=pool, offset=offset, limit=limit)
        page = await link.waiting(query)
        more = bool(page.waiting) and offset + len(page.waiting) < page.total
        return QueueList(
            total=page.total, waiting=list(page.waiting), next=offset + len(page.waiting) if more else None
        )

    return [get_queue]


def _whose(asked: str | None, caller: Caller) -> str | None:
    """Return whose sessions are asked for; None: everybody's.

    Raises:
        Forbidden: another tenant's.
    """
    if asked is None or asked == caller.tenant:
        return caller.tenant
    if not caller.may(ADMIN):
        raise Forbidden("The key sees the sessions of its own tenant.")
    return None if asked == EACH else tenant_name(asked)
