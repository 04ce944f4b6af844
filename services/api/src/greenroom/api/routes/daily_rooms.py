"""`/v1/daily-rooms`: which agents go to which rooms at Daily by themselves."""

from typing import Annotated, Any, Final

from litestar import delete, get, put
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath

from greenroom.api.agents import Agents
from greenroom.api.auth import POLICY_WRITE, caller_of
from greenroom.api.body import JsonBody
from greenroom.api.daily_rooms import DailyRooms, DailyRoomsList, DailyRoomsNotFound, DailyRoomsStore, DailyRoomsWish
from greenroom.api.routes.common import AnyRequest, answer, only_query, problems
from greenroom.api.routes.policy_common import READ, agent_name, tenant_name
from greenroom.api.transports.daily import NAME
from greenroom.common import errors
from greenroom.common.errors import FieldProblem, InvalidBody

_OK: Final = 200
_NO_CONTENT: Final = 204
_WISH: Final[dict[str, Any]] = {"rooms": ["sales-*"], "max_sessions": 5}
_EXAMPLE: Final[dict[str, Any]] = {
    "tenant": "acme",
    "agent": "frontdesk",
    **_WISH,
    "body": {},
    "changed_at": "2026-11-21T15:00:00Z",
}


def daily_room_routes(rooms: DailyRoomsStore, agents: Agents) -> list[HTTPRouteHandler]:
    """Return the routes.

    Args:
        rooms: who goes where.
        agents: which there are.
    """

    @get(
        "/v1/daily-rooms",
        operation_id="list_daily_rooms",
        tags=["agents"],
        opt={"scope": READ},
        summary="List which agents go to rooms by themselves",
        responses={_OK: answer(DailyRoomsList, "Agents by tenant and name", {"agents": [_EXAMPLE]}), **problems()},
    )
    async def list_daily_rooms(request: AnyRequest) -> DailyRoomsList:
        """List the agents of the caller's tenant that go to rooms at Daily by themselves; operators see all."""
        only_query(request)
        caller = caller_of(request)
        return DailyRoomsList(agents=await rooms.all(None if caller.operator else caller.tenant))

    @put(
        "/v1/daily-rooms/{tenant:str}/{agent:str}",
        operation_id="put_daily_rooms",
        tags=["agents"],
        opt={"scope": POLICY_WRITE},
        dto=JsonBody.of(DailyRoomsWish),
        return_dto=None,
        summary="Say which rooms an agent goes to by itself",
        responses={
            _OK: answer(DailyRooms, "Where it goes; webhooks go by it within 2 s", _EXAMPLE),
            **problems(
                errors.MalformedJson,
                errors.BodyTooLarge,
                errors.InvalidBody,
                errors.UnknownField,
                errors.AgentNotFound,
            ),
        },
    )
    async def put_daily_rooms(
        request: AnyRequest,
        tenant: FromPath[str],
        agent: FromPath[str],
        data: Annotated[DailyRoomsWish, Body(examples=[Example(value=_WISH)])],
    ) -> DailyRooms:
        """Have a tenant's agent go to rooms at Daily as soon as somebody is in one.

        Daily says who is where by a webhook to `/v1/webhooks/daily/events`. Nobody goes to a room that agents of
        several settings would go to: names must fit one of them.
        """
        only_query(request)
        whose, name = tenant_name(tenant, each=False), agent_name(agent)
        known = await agents.get(whose, name)
        if NAME not in known.agent.transports:
            detail = f"The agent takes {', '.join(known.agent.transports)}."
            raise InvalidBody(detail, errors=[FieldProblem(pointer="/agent", detail=detail)])
        known.check_body(data.body)
        return await rooms.put(whose, name, data)

    @delete(
        "/v1/daily-rooms/{tenant:str}/{agent:str}",
        operation_id="delete_daily_rooms",
        tags=["agents"],
        opt={"scope": POLICY_WRITE},
        status_code=_NO_CONTENT,
        summary="Have an agent go to no room by itself",
        responses={
            _NO_CONTENT: ResponseSpec(None, description="It goes nowhere by itself; its sessions go on"),
            **problems(errors.InvalidBody, DailyRoomsNotFound),
        },
    )
    async def delete_daily_rooms(request: AnyRequest, tenant: FromPath[str], agent: FromPath[str]) -> None:
        """Have an agent go to no room by itself any more. Sessions that it has go on."""
        only_query(request)
        await rooms.delete(tenant_name(tenant, each=False), agent_name(agent))

    return [list_daily_rooms, put_daily_rooms, delete_daily_rooms]
