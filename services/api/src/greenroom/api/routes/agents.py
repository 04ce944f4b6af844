"""`/v1/agents`: what can be asked for, and what a tenant sets of it for itself."""

from typing import Annotated, Any, Final

from litestar import get, patch
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath

from greenroom.api import agent_settings, examples
from greenroom.api.agent_settings import AgentSettings
from greenroom.api.agents import Agents
from greenroom.api.auth import AGENTS_WRITE, SESSIONS_READ, caller_of
from greenroom.api.body import JsonBody
from greenroom.api.fleet import Fleet
from greenroom.api.routes.common import AnyRequest, answer, only_query, problems
from greenroom.api.schemas import AgentList, AgentView
from greenroom.api.store import Agent, Store
from greenroom.common import errors

_OK: Final = 200
_EXAMPLE: Final[dict[str, Any]] = {"on_loss": "always", "recording": {"format": "flac"}}


def agent_routes(agents: Agents, fleet: Fleet, store: Store) -> list[HTTPRouteHandler]:
    """Return the routes.

    Args:
        agents: which there are.
        fleet: which can run now.
        store: keeps what tenants set.
    """

    @get(
        "/v1/agents",
        operation_id="list_agents",
        tags=["agents"],
        opt={"scope": SESSIONS_READ},
        summary="List agents",
        responses={_OK: answer(AgentList, "Agents by name", examples.AGENTS), **problems()},
    )
    async def list_agents(request: AnyRequest) -> AgentList:
        """List the agents that can be asked for, and whether a runner is there now that can run them."""
        only_query(request)
        found = await agents.all(caller_of(request).tenant)
        runnable = fleet.offers()
        return AgentList(agents=[_view(agent, runnable=agent.bot in runnable) for agent in found])

    @get(
        "/v1/agents/{name:str}",
        operation_id="get_agent",
        tags=["agents"],
        opt={"scope": SESSIONS_READ},
        summary="Look at an agent",
        responses={
            _OK: answer(AgentView, "The agent, with what the tenant has set", examples.AGENTS["agents"][0]),
            **problems(errors.AgentNotFound),
        },
    )
    async def get_agent(request: AnyRequest, name: FromPath[str]) -> AgentView:
        """Return an agent, as it is for the tenant."""
        only_query(request)
        known = await agents.get(caller_of(request).tenant, name)
        return _view(known.agent, runnable=known.agent.bot in fleet.offers())

    @patch(
        "/v1/agents/{name:str}",
        operation_id="set_agent",
        tags=["agents"],
        opt={"scope": AGENTS_WRITE},
        dto=JsonBody.of(AgentSettings),
        return_dto=None,
        summary="Set how an agent's sessions are handled",
        responses={
            _OK: answer(
                AgentView, "The agent; sessions go by it within 2 s", {**examples.AGENTS["agents"][0], **_EXAMPLE}
            ),
            **problems(
                errors.MalformedJson,
                errors.BodyTooLarge,
                errors.InvalidBody,
                errors.UnknownField,
                errors.AgentNotFound,
            ),
        },
    )
    async def set_agent(
        request: AnyRequest,
        name: FromPath[str],
        data: Annotated[AgentSettings, Body(examples=[Example(value=_EXAMPLE)])],
    ) -> AgentView:
        """Set what becomes of an agent's sessions when their runner is lost, and how they are recorded.

        It holds for the tenant's sessions that are asked for from then on, incoming calls among them. What is left out
        stays as it is; `null` is what the agent itself says.
        """
        only_query(request)
        tenant = caller_of(request).tenant
        known = await agents.get(tenant, name)
        await agent_settings.change(store, tenant, name, data)
        agents.forget(tenant, name)
        known = await agents.get(tenant, name)
        return _view(known.agent, runnable=known.agent.bot in fleet.offers())

    return [list_agents, get_agent, set_agent]


def _view(agent: Agent, *, runnable: bool) -> AgentView:
    return AgentView(
        name=agent.name,
        version=agent.version,
        description=agent.description,
        bot=agent.bot,
        pool=agent.pool,
        transports=agent.transports,
        body_schema=agent.body_schema,
        limits=agent.limits,
        on_loss=agent.on_loss,
        recording=agent.recording,
        runnable=runnable,
    )
