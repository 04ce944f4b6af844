"""`/v1/limits`: how many sessions there may be of what."""

from typing import Annotated, Final

from litestar import Response, delete, get, put
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath, HeaderParameter

from greenroom.api import policy_examples as examples
from greenroom.api.auth import POLICY_WRITE, Caller, caller_of
from greenroom.api.body import JsonBody
from greenroom.api.policy_schemas import LimitList, LimitView, LimitWish, UsageView
from greenroom.api.policy_store import PolicyChanged, PolicyFull, PolicyNotFound, PolicyStore, PolicyUnusable
from greenroom.api.routes.common import AnyRequest, answer, only_query, problems
from greenroom.api.routes.policy_common import IF_MATCH, READ, etag, expected, standing, token
from greenroom.api.scheduler_link import SchedulerLink
from greenroom.common import errors
from greenroom.common.errors import SchedulerUnavailable
from greenroom.common.messages import LimitUsage, PoolsAnswer
from greenroom.common.policy import EACH, Limit

_OK: Final = 200
_NO_CONTENT: Final = 204


def limit_routes(policies: PolicyStore, link: SchedulerLink) -> list[HTTPRouteHandler]:
    """Return the routes; `policies` has the limits, the scheduler behind `link` their use."""

    @get(
        "/v1/limits",
        operation_id="list_limits",
        tags=["policy"],
        opt={"scope": READ},
        summary="List limits",
        responses={_OK: answer(LimitList, "Limits by id", examples.LIMITS), **problems(PolicyUnusable)},
    )
    async def list_limits(request: AnyRequest) -> Response[LimitList]:
        """List the limits that concern the caller, and how much of each its sessions use; operators see all of both."""
        only_query(request)
        caller = caller_of(request)
        policy = await policies.policy()
        now = await standing(link)
        return Response(
            LimitList(
                revision=policy.revision,
                applied_revision=now.policy_revision if now else None,
                problem=None if now else SchedulerUnavailable.code,
                limits=[_view(limit, now, caller) for limit in policy.limits if _concerns(limit, caller)],
            ),
            headers=etag(policy.revision),
        )

    @get(
        "/v1/limits/{limit_id:str}",
        operation_id="get_limit",
        tags=["policy"],
        opt={"scope": READ},
        summary="Look at a limit",
        responses={_OK: answer(LimitView, "The limit", examples.LIMIT), **problems(PolicyNotFound, PolicyUnusable)},
    )
    async def get_limit(request: AnyRequest, limit_id: FromPath[str]) -> Response[LimitView]:
        """Return a limit and how much of it is used now."""
        only_query(request)
        caller = caller_of(request)
        policy = await policies.policy()
        limit = next((limit for limit in policy.limits if limit.id == limit_id and _concerns(limit, caller)), None)
        if limit is None:
            raise PolicyNotFound("There is no such limit.")
        return Response(_view(limit, await standing(link), caller), headers=etag(policy.revision))

    @put(
        "/v1/limits/{limit_id:str}",
        operation_id="put_limit",
        tags=["policy"],
        opt={"scope": POLICY_WRITE},
        dto=JsonBody.of(LimitWish),
        return_dto=None,
        summary="Make or replace a limit",
        responses={
            _OK: answer(LimitView, "The limit; schedulers go by it within 2 s", {**examples.LIMIT, "usage": None}),
            **problems(
                errors.MalformedJson,
                errors.BodyTooLarge,
                errors.InvalidBody,
                errors.UnknownField,
                PolicyChanged,
                PolicyFull,
            ),
        },
    )
    async def put_limit(
        request: AnyRequest,
        limit_id: FromPath[str],
        data: Annotated[LimitWish, Body(examples=[Example(value=examples.LIMIT_WISH)])],
        if_match: Annotated[str | None, HeaderParameter(name="If-Match", description=IF_MATCH)] = None,
    ) -> Response[LimitView]:
        """Make a limit, or replace the one of this id as a whole."""
        only_query(request)
        limit = data.limit(token("limit_id", limit_id))
        revision = await policies.put_limit(limit, expected(if_match))
        return Response(_view(limit, None, caller_of(request)), headers=etag(revision))

    @delete(
        "/v1/limits/{limit_id:str}",
        operation_id="delete_limit",
        tags=["policy"],
        opt={"scope": POLICY_WRITE},
        status_code=_NO_CONTENT,
        summary="Delete a limit",
        responses={
            _NO_CONTENT: ResponseSpec(None, description="It holds no longer"),
            **problems(PolicyNotFound, PolicyChanged),
        },
    )
    async def delete_limit(
        request: AnyRequest,
        limit_id: FromPath[str],
        if_match: Annotated[str | None, HeaderParameter(name="If-Match", description=IF_MATCH)] = None,
    ) -> Response[None]:
        """Delete a limit."""
        only_query(request)
        revision = await policies.delete_limit(token("limit_id", limit_id), expected(if_match))
        return Response(None, status_code=_NO_CONTENT, headers=etag(revision))

    return [list_limits, get_limit, put_limit, delete_limit]


def _concerns(limit: Limit, caller: Caller) -> bool:
    return caller.operator or limit.tenant in {EACH, caller.tenant}


def _view(limit: Limit, now: PoolsAnswer | None, caller: Caller) -> LimitView:
    usage = [_usage(used) for used in now.usage if used.limit_id == limit.id and _sees(used, caller)] if now else None
    return LimitView(
        id=limit.id,
        scope=limit.scope,
        tenant=limit.tenant,
        key=limit.key,
        max_sessions=limit.max_sessions,
        max_starts_per_s=limit.max_starts_per_s,
        at_limit=limit.at_limit,
        usage=usage,
    )


def _sees(used: LimitUsage, caller: Caller) -> bool:
    # What is counted over all tenants is what the caller's own sessions run into.
    return caller.operator or used.tenant in {EACH, caller.tenant}


def _usage(used: LimitUsage) -> UsageView:
    return UsageView(tenant=used.tenant, key=used.key, active=used.active, waiting=used.waiting)
