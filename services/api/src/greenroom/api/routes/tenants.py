"""`/v1/tenants`: who there is, and who gets new sessions."""

from typing import Annotated, Final

from litestar import get, patch, put
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath, FromQuery, QueryParameter

from greenroom.api import tenant_schemas as schemas
from greenroom.api.auth import ADMIN, caller_of
from greenroom.api.body import JsonBody
from greenroom.api.policy_store import PolicyFull
from greenroom.api.routes.common import AnyRequest, answer, only_query, problems
from greenroom.api.routes.policy_common import tenant_name
from greenroom.api.tenant_schemas import TenantChange, TenantPage, TenantState, TenantView, TenantWish
from greenroom.api.tenant_store import TenantNotFound, TenantStore
from greenroom.common import errors

_OK: Final = 200
_BODY: Final = (errors.MalformedJson, errors.BodyTooLarge, errors.InvalidBody, errors.UnknownField)
_MAX_PAGE: Final = 500


def tenant_routes(tenants: TenantStore) -> list[HTTPRouteHandler]:
    """Return the routes."""

    @get(
        "/v1/tenants",
        operation_id="list_tenants",
        tags=["tenants"],
        opt={"scope": ADMIN},
        summary="List tenants",
        responses={_OK: answer(TenantPage, "A page", schemas.PAGE), **problems()},
    )
    async def list_tenants(
        request: AnyRequest,
        *,
        in_state: Annotated[TenantState | None, QueryParameter(name="state", description="Only those")] = None,
        cursor: FromQuery[str | None] = None,
        limit: Annotated[int, QueryParameter(ge=1, le=_MAX_PAGE, description="How many at most")] = 100,
    ) -> TenantPage:
        """List tenants by name: those that were made here, and all that ever had a key or a session."""
        only_query(request, "state", "cursor", "limit")
        return await tenants.page(in_state, cursor, limit)

    @get(
        "/v1/tenants/{tenant:str}",
        operation_id="get_tenant",
        tags=["tenants"],
        opt={"scope": ADMIN},
        summary="Look at a tenant",
        responses={_OK: answer(TenantView, "The tenant", schemas.TENANT), **problems(TenantNotFound)},
    )
    async def get_tenant(request: AnyRequest, tenant: FromPath[str]) -> TenantView:
        """Return a tenant."""
        only_query(request)
        return await tenants.get(tenant)

    @put(
        "/v1/tenants/{tenant:str}",
        operation_id="put_tenant",
        tags=["tenants"],
        opt={"scope": ADMIN},
        dto=JsonBody.of(TenantWish),
        return_dto=None,
        summary="Make a tenant, or replace what is said of it",
        responses={
            _OK: answer(TenantView, "The tenant", schemas.TENANT),
            **problems(*_BODY, PolicyFull),
        },
    )
    async def put_tenant(
        request: AnyRequest,
        tenant: FromPath[str],
        data: Annotated[TenantWish, Body(examples=[Example(value=schemas.WISH)])],
    ) -> TenantView:
        """Make a tenant, or replace what is said of it; its state stays as it is unless it is named."""
        only_query(request)
        return await tenants.put(caller_of(request), tenant_name(tenant, each=False), data)

    @patch(
        "/v1/tenants/{tenant:str}",
        operation_id="change_tenant",
        tags=["tenants"],
        opt={"scope": ADMIN},
        dto=JsonBody.of(TenantChange),
        return_dto=None,
        summary="Suspend or resume a tenant, or change what is said of it",
        responses={
            _OK: answer(TenantView, "The tenant", schemas.TENANT),
            **problems(*_BODY, TenantNotFound, PolicyFull),
        },
    )
    async def change_tenant(
        request: AnyRequest,
        tenant: FromPath[str],
        data: Annotated[TenantChange, Body(examples=[Example(value=schemas.CHANGE)])],
    ) -> TenantView:
        """Change what is named.

        With `"state": "suspended"` every instance refuses the tenant's new sessions within two seconds (`403
        tenant-suspended`), those over the phone as busy, and none is started for its pins. Sessions that it has, also
        those that wait, go on; all that is kept can be read.
        """
        only_query(request)
        return await tenants.change(caller_of(request), tenant, data)

    return [list_tenants, get_tenant, put_tenant, change_tenant]
