"""`/v1/post-call`: which steps are run after calls, by tenant and agent."""

from typing import Annotated, Any, Final

from litestar import delete, get, put
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath

from greenroom.api.auth import POLICY_WRITE, caller_of
from greenroom.api.body import JsonBody
from greenroom.api.post_call_choices import (
    Choices,
    PostCallChoice,
    PostCallChoiceNotFound,
    PostCallChoices,
    PostCallWish,
)
from greenroom.api.routes.common import AnyRequest, answer, only_query, problems
from greenroom.api.routes.policy_common import READ, agent_name, tenant_name
from greenroom.common import errors

_OK: Final = 200
_NO_CONTENT: Final = 204
_WISH: Final[dict[str, Any]] = {"steps": ["summary", "crm"]}
_CHOICE: Final[dict[str, Any]] = {
    "tenant": "acme",
    "agent": "*",
    "steps": ["summary", "crm"],
    "changed_at": "2026-11-21T15:00:00Z",
}


def post_call_choice_routes(choices: Choices) -> list[HTTPRouteHandler]:
    """Return the routes."""

    @get(
        "/v1/post-call",
        operation_id="list_post_call",
        tags=["sessions"],
        opt={"scope": READ},
        summary="List which steps run after calls",
        responses={_OK: answer(PostCallChoices, "What was chosen", {"choices": [_CHOICE]}), **problems()},
    )
    async def list_post_call(request: AnyRequest) -> PostCallChoices:
        """List what was chosen for the caller's tenant; operators see all. What nobody chose is set in the recorder."""
        only_query(request)
        caller = caller_of(request)
        return await choices.all(None if caller.operator else caller.tenant)

    @put(
        "/v1/post-call/{tenant:str}/{agent:str}",
        operation_id="put_post_call",
        tags=["sessions"],
        opt={"scope": POLICY_WRITE},
        dto=JsonBody.of(PostCallWish),
        return_dto=None,
        summary="Choose which steps run after calls",
        responses={
            _OK: answer(PostCallChoice, "What is chosen", _CHOICE),
            **problems(errors.MalformedJson, errors.BodyTooLarge, errors.InvalidBody, errors.UnknownField),
        },
    )
    async def put_post_call(
        request: AnyRequest,
        tenant: FromPath[str],
        agent: FromPath[str],
        data: Annotated[PostCallWish, Body(examples=[Example(value=_WISH)])],
    ) -> PostCallChoice:
        """Choose for a tenant's agent, or (`*`) for those of its agents that have no choice of their own.

        It holds for calls that are sealed from now on. A step has to be one that the recorder has
        (`GREENROOM_POST_CALL_STEPS`, `GREENROOM_POST_CALL_OFFERED`): of others each call says that they aren't
        installed.
        """
        only_query(request)
        return await choices.put(tenant_name(tenant, each=False), agent_name(agent), data.steps)

    @delete(
        "/v1/post-call/{tenant:str}/{agent:str}",
        operation_id="delete_post_call",
        tags=["sessions"],
        opt={"scope": POLICY_WRITE},
        status_code=_NO_CONTENT,
        summary="Take back which steps run after calls",
        responses={
            _NO_CONTENT: ResponseSpec(None, description="The tenant's choice holds, or the recorder's settings do"),
            **problems(errors.InvalidBody, PostCallChoiceNotFound),
        },
    )
    async def delete_post_call(request: AnyRequest, tenant: FromPath[str], agent: FromPath[str]) -> None:
        """Take a choice back: of an agent to that of its tenant, of a tenant to the recorder's settings."""
        only_query(request)
        await choices.delete(tenant_name(tenant, each=False), agent_name(agent))

    return [list_post_call, put_post_call, delete_post_call]
