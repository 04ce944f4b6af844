"""`/v1/retention` and what is erased: how long sessions are kept, what is held, and that one has to go."""

from typing import Annotated, Final

from litestar import Response, delete, get, put
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath, QueryParameter

from greenroom.api import retention_schemas as schemas
from greenroom.api.auth import ADMIN, SESSIONS_ERASE, caller_of
from greenroom.api.body import JsonBody
from greenroom.api.retention_schemas import (
    ErasureView,
    HoldView,
    HoldWish,
    RetentionView,
    RuleView,
    RuleWish,
    SessionHoldView,
)
from greenroom.api.retention_store import (
    HoldNotFound,
    RetentionRuleNotFound,
    RetentionStore,
    SessionBeingErased,
    SessionHeld,
    SessionLive,
)
from greenroom.api.routes.common import AnyRequest, answer, only_query, problems
from greenroom.api.routes.policy_common import agent_name, tenant_name
from greenroom.api.sessions import Sessions
from greenroom.api.store import Store
from greenroom.common import errors

_OK: Final = 200
_ACCEPTED: Final = 202
_NO_CONTENT: Final = 204
_BODY: Final = (errors.MalformedJson, errors.BodyTooLarge, errors.InvalidBody, errors.UnknownField)
_WHY_STOPPED: Final = "it is to be erased"


def retention_routes(sessions: Sessions, store: Store) -> list[HTTPRouteHandler]:
    """Return the routes of rules, holds and erasures."""
    kept = RetentionStore(store)
    return [*_rule_routes(kept), *_hold_routes(kept), *_session_routes(kept, sessions)]


def _rule_routes(kept: RetentionStore) -> list[HTTPRouteHandler]:
    @get(
        "/v1/retention",
        operation_id="get_retention",
        tags=["retention"],
        opt={"scope": ADMIN},
        summary="Look at rules and holds",
        responses={_OK: answer(RetentionView, "Rules and holds", schemas.RETENTION), **problems()},
    )
    async def get_retention(request: AnyRequest) -> RetentionView:
        """Return how long sessions are kept, what is held, and what the last daily run deleted."""
        only_query(request)
        return await kept.view()

    @put(
        "/v1/retention/{tenant:str}/{agent:str}",
        operation_id="put_retention",
        tags=["retention"],
        opt={"scope": ADMIN},
        dto=JsonBody.of(RuleWish),
        return_dto=None,
        summary="Say how long sessions are kept",
        responses={_OK: answer(RuleView, "The rule", schemas.RULE), **problems(*_BODY)},
    )
    async def put_retention(
        request: AnyRequest,
        tenant: FromPath[str],
        agent: FromPath[str],
        data: Annotated[RuleWish, Body(examples=[Example(value=schemas.RULE_WISH)])],
    ) -> RuleView:
        """Make the rule for a tenant's agent, or replace it as a whole; `*` stands for each tenant or agent.

        Of the rules that concern a session the most specific one holds, as a whole: the tenant's agent's, the tenant's,
        the agent's, the one of all. What no rule concerns is kept for ever.
        """
        only_query(request)
        return await kept.put_rule(caller_of(request), data.rule(tenant_name(tenant), agent_name(agent)))

    @delete(
        "/v1/retention/{tenant:str}/{agent:str}",
        operation_id="delete_retention",
        tags=["retention"],
        opt={"scope": ADMIN},
        status_code=_NO_CONTENT,
        summary="Delete a rule",
        responses={
            _NO_CONTENT: ResponseSpec(None, description="It holds no longer"),
            **problems(errors.InvalidBody, RetentionRuleNotFound),
        },
    )
    async def delete_retention(request: AnyRequest, tenant: FromPath[str], agent: FromPath[str]) -> None:
        """Delete the rule for a tenant's agent; the next less specific one holds then."""
        only_query(request)
        await kept.delete_rule(caller_of(request), tenant_name(tenant), agent_name(agent))

    return [get_retention, put_retention, delete_retention]


def _hold_routes(kept: RetentionStore) -> list[HTTPRouteHandler]:
    @put(
        "/v1/retention/{tenant:str}/{agent:str}/hold",
        operation_id="put_hold",
        tags=["retention"],
        opt={"scope": ADMIN},
        dto=JsonBody.of(HoldWish),
        return_dto=None,
        summary="Hold a tenant's or agent's sessions",
        responses={_OK: answer(HoldView, "The hold", schemas.HOLD), **problems(*_BODY)},
    )
    async def put_hold(
        request: AnyRequest,
        tenant: FromPath[str],
        agent: FromPath[str],
        data: Annotated[HoldWish, Body(examples=[Example(value=schemas.HOLD_WISH)])],
    ) -> HoldView:
        """Delete nothing of the sessions of a tenant and agent from now on, whatever a rule or a request says.

        `*` stands for each tenant or agent. What is being deleted already is finished.
        """
        only_query(request)
        return await kept.hold(caller_of(request), tenant_name(tenant), agent_name(agent), data.reason)

    @delete(
        "/v1/retention/{tenant:str}/{agent:str}/hold",
        operation_id="delete_hold",
        tags=["retention"],
        opt={"scope": ADMIN},
        status_code=_NO_CONTENT,
        summary="Lift a hold",
        responses={
            _NO_CONTENT: ResponseSpec(None, description="It is lifted"),
            **problems(errors.InvalidBody, HoldNotFound),
        },
    )
    async def delete_hold(request: AnyRequest, tenant: FromPath[str], agent: FromPath[str]) -> None:
        """Lift the hold on the sessions of a tenant and agent."""
        only_query(request)
        await kept.lift(caller_of(request), tenant_name(tenant), agent_name(agent))

    return [put_hold, delete_hold]


def _session_routes(kept: RetentionStore, sessions: Sessions) -> list[HTTPRouteHandler]:
    @put(
        "/v1/sessions/{session_id:str}/hold",
        operation_id="put_session_hold",
        tags=["retention"],
        opt={"scope": ADMIN},
        dto=JsonBody.of(HoldWish),
        return_dto=None,
        summary="Hold a session",
        responses={
            _OK: answer(SessionHoldView, "The hold", schemas.SESSION_HOLD),
            **problems(*_BODY, errors.SessionNotFound, SessionBeingErased),
        },
    )
    async def put_session_hold(
        request: AnyRequest,
        session_id: FromPath[str],
        data: Annotated[HoldWish, Body(examples=[Example(value=schemas.HOLD_WISH)])],
    ) -> SessionHoldView:
        """Delete nothing of a session of the key's tenant from now on, whatever a rule or a request says."""
        only_query(request)
        caller = caller_of(request)
        await sessions.find(caller.tenant, session_id)
        return await kept.hold_session(caller, session_id, data.reason)

    @delete(
        "/v1/sessions/{session_id:str}/hold",
        operation_id="delete_session_hold",
        tags=["retention"],
        opt={"scope": ADMIN},
        status_code=_NO_CONTENT,
        summary="Lift a session's hold",
        responses={
            _NO_CONTENT: ResponseSpec(None, description="It is lifted"),
            **problems(errors.SessionNotFound, HoldNotFound),
        },
    )
    async def delete_session_hold(request: AnyRequest, session_id: FromPath[str]) -> None:
        """Lift the hold of a session; holds of its tenant or agent stay."""
        only_query(request)
        caller = caller_of(request)
        await sessions.find(caller.tenant, session_id)
        await kept.lift_session(caller, session_id)

    @delete(
        "/v1/sessions/{session_id:str}",
        operation_id="erase_session",
        tags=["retention"],
        opt={"scope": SESSIONS_ERASE},
        status_code=_ACCEPTED,
        summary="Erase a session",
        responses={
            _ACCEPTED: answer(ErasureView, "It will be erased; that can't be lost any more", schemas.ERASURE),
            **problems(errors.SessionNotFound, SessionLive, SessionHeld, errors.LedgerConflict),
        },
    )
    async def erase_session(
        request: AnyRequest,
        session_id: FromPath[str],
        *,
        stop: Annotated[bool, QueryParameter(description="End it first if it is live")] = False,
    ) -> Response[ErasureView]:
        """Erase a session for good: what happened and was said in it, its recording, and what the broker has of it.

        It is done as soon as the session is over and its recording is sealed, in seconds as a rule; from then on the
        session is `404`. What stays is its id with a date, so that nothing of it is stored again, and the audit.
        """
        only_query(request, "stop")
        caller = caller_of(request)
        session = await sessions.find(caller.tenant, session_id)
        if not session.ended and not stop:
            raise SessionLive(f"It is {session.state}.")
        requested_at = await kept.request_erasure(caller, session)
        if not session.ended:
            await sessions.stop(caller.tenant, session_id, _WHY_STOPPED)
        return Response(ErasureView(session_id=session_id, requested_at=requested_at), status_code=_ACCEPTED)

    return [put_session_hold, delete_session_hold, erase_session]
