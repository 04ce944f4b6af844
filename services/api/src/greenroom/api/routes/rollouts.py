"""`/v1/agents/{agent}/rollout` and `/v1/weights`: which version new sessions get, and whose turn it is how often."""

from typing import Annotated, Final

import msgspec
from litestar import Response, delete, get, put
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath, HeaderParameter, QueryParameter

from greenroom.api import policy_examples as examples
from greenroom.api.auth import POLICY_WRITE, Caller, caller_of
from greenroom.api.body import JsonBody
from greenroom.api.policy_schemas import RolledBackView, RolloutView, RolloutWish, WeightList, WeightView, WeightWish
from greenroom.api.policy_store import PolicyChanged, PolicyFull, PolicyNotFound, PolicyStore, PolicyUnusable
from greenroom.api.routes.common import AnyRequest, answer, only_query, problems
from greenroom.api.routes.policy_common import IF_MATCH, READ, agent_name, etag, expected, standing, tenant_name
from greenroom.api.scheduler_link import SchedulerLink
from greenroom.common import errors
from greenroom.common.errors import Forbidden
from greenroom.common.messages import PoolsAnswer
from greenroom.common.policy import EACH, Policy, Rollout

_OK: Final = 200
_NO_CONTENT: Final = 204
_BODY: Final = (errors.MalformedJson, errors.BodyTooLarge, errors.InvalidBody, errors.UnknownField)
_WHOSE: Final = "Whose agent; `*`: the one shared by all"


def rollout_routes(policies: PolicyStore, link: SchedulerLink) -> list[HTTPRouteHandler]:
    """Return the routes of rollouts; the scheduler behind `link` knows what it has rolled back."""

    @get(
        "/v1/agents/{agent:str}/rollout",
        operation_id="get_rollout",
        tags=["policy"],
        opt={"scope": READ},
        summary="Look at an agent's rollout",
        responses={
            _OK: answer(RolloutView, "The rollout", examples.ROLLOUT),
            **problems(PolicyNotFound, PolicyUnusable),
        },
    )
    async def get_rollout(
        request: AnyRequest,
        agent: FromPath[str],
        tenant: Annotated[str | None, QueryParameter(description=f"{_WHOSE}; default: what holds for the key")] = None,
    ) -> Response[RolloutView]:
        """Return which version of an agent new sessions get; without a rollout (`404`) it is the newest offered."""
        only_query(request, "tenant")
        caller = caller_of(request)
        policy = await policies.policy()
        rollout = _rollout(policy, agent, _whose(tenant, caller))
        if rollout is None:
            raise PolicyNotFound("The agent has no rollout.")
        return Response(_rollout_view(rollout, await standing(link)), headers=etag(policy.revision))

    @put(
        "/v1/agents/{agent:str}/rollout",
        operation_id="put_rollout",
        tags=["policy"],
        opt={"scope": POLICY_WRITE},
        dto=JsonBody.of(RolloutWish),
        return_dto=None,
        summary="Say which version new sessions get",
        responses={
            _OK: answer(RolloutView, "The rollout; schedulers go by it within 2 s", examples.ROLLOUT),
            **problems(*_BODY, PolicyChanged, PolicyFull),
        },
    )
    async def put_rollout(
        request: AnyRequest,
        agent: FromPath[str],
        data: Annotated[RolloutWish, Body(examples=[Example(value=examples.ROLLOUT_WISH)])],
        tenant: Annotated[str, QueryParameter(description=_WHOSE)] = EACH,
        if_match: Annotated[str | None, HeaderParameter(name="If-Match", description=IF_MATCH)] = None,
    ) -> Response[RolloutView]:
        """Say which version of an agent new sessions get, and which part of them a canary. Those that run stay."""
        only_query(request, "tenant")
        rollout = data.rollout(tenant_name(tenant), agent_name(agent))
        revision = await policies.put_rollout(rollout, expected(if_match))
        return Response(_rollout_view(rollout, None), headers=etag(revision))

    @delete(
        "/v1/agents/{agent:str}/rollout",
        operation_id="delete_rollout",
        tags=["policy"],
        opt={"scope": POLICY_WRITE},
        status_code=_NO_CONTENT,
        summary="End an agent's rollout",
        responses={
            _NO_CONTENT: ResponseSpec(None, description="New sessions get the newest version that is offered"),
            **problems(PolicyNotFound, PolicyChanged),
        },
    )
    async def delete_rollout(
        request: AnyRequest,
        agent: FromPath[str],
        tenant: Annotated[str, QueryParameter(description=_WHOSE)] = EACH,
        if_match: Annotated[str | None, HeaderParameter(name="If-Match", description=IF_MATCH)] = None,
    ) -> Response[None]:
        """Decide nothing about an agent's version any more."""
        only_query(request, "tenant")
        revision = await policies.delete_rollout(tenant_name(tenant), agent_name(agent), expected(if_match))
        return Response(None, status_code=_NO_CONTENT, headers=etag(revision))

    return [get_rollout, put_rollout, delete_rollout]


def weight_routes(policies: PolicyStore) -> list[HTTPRouteHandler]:
    """Return the routes of the tenants' weights."""

    @get(
        "/v1/weights",
        operation_id="list_weights",
        tags=["policy"],
        opt={"scope": READ},
        summary="List tenants' weights",
        responses={_OK: answer(WeightList, "Weights by tenant", examples.WEIGHTS), **problems(PolicyUnusable)},
    )
    async def list_weights(request: AnyRequest) -> Response[WeightList]:
        """List the tenants' shares of scarce slots where they aren't 1; others than operators see their own."""
        only_query(request)
        caller = caller_of(request)
        policy = await policies.policy()
        seen = {name: weight for name, weight in policy.weights.items() if caller.operator or name == caller.tenant}
        body = WeightList(revision=policy.revision, weights=seen)
        return Response(body, headers=etag(policy.revision))

    @put(
        "/v1/weights/{tenant:str}",
        operation_id="put_weight",
        tags=["policy"],
        opt={"scope": POLICY_WRITE},
        dto=JsonBody.of(WeightWish),
        return_dto=None,
        summary="Give a tenant its share",
        responses={
            _OK: answer(WeightView, "The tenant's share", examples.WEIGHT),
            **problems(*_BODY, PolicyChanged, PolicyFull),
        },
    )
    async def put_weight(
        request: AnyRequest,
        tenant: FromPath[str],
        data: Annotated[WeightWish, Body(examples=[Example(value=examples.WEIGHT_WISH)])],
        if_match: Annotated[str | None, HeaderParameter(name="If-Match", description=IF_MATCH)] = None,
    ) -> Response[WeightView]:
        """Give a tenant its share of slots while there are too few: with 2 it gets two where others get one."""
        only_query(request)
        name = tenant_name(tenant, each=False)
        revision = await policies.put_weight(name, data.weight, expected(if_match))
        return Response(WeightView(tenant=name, weight=data.weight), headers=etag(revision))

    return [list_weights, put_weight]


def _whose(asked: str | None, caller: Caller) -> tuple[str, ...]:
    """Return whose rollout is asked for, the first that there is.

    Raises:
        Forbidden: another tenant's.
    """
    if asked is None:
        return (caller.tenant, EACH)
    if asked not in {EACH, caller.tenant} and not caller.operator:
        raise Forbidden("The key belongs to another tenant.")
    return (asked,)


def _rollout(policy: Policy, agent: str, tenants: tuple[str, ...]) -> Rollout | None:
    found = {rollout.tenant: rollout for rollout in policy.rollouts if rollout.agent == agent}
    return next((found[tenant] for tenant in tenants if tenant in found), None)


def _rollout_view(rollout: Rollout, now: PoolsAnswer | None) -> RolloutView:
    verdicts = now.rolled_back if now else ()
    about = (rollout.tenant, rollout.agent, rollout.canary)
    verdict = next((verdict for verdict in verdicts if (verdict.tenant, verdict.agent, verdict.version) == about), None)
    back = None
    if verdict is not None:
        back = RolledBackView(version=verdict.version, at=verdict.at, starts=verdict.starts, failures=verdict.failures)
    return RolloutView(**msgspec.structs.asdict(rollout), rolled_back=back)
