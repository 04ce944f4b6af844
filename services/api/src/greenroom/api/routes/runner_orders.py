"""`/v1/runners/{runner}/…`: what operators tell a runner."""

from typing import Annotated, Any, Final, Literal

import msgspec
from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath, QueryParameter
from msgspec import Meta

from greenroom.api.auth import POLICY_WRITE, caller_of
from greenroom.api.body import JsonBody
from greenroom.api.routes.common import AnyRequest, answer, only_query, problems
from greenroom.api.runner_orders import OrderRefused, RunnerAmbiguous, RunnerNotFound, RunnerOrders, RunnerSilent
from greenroom.common import errors
from greenroom.common.messages import Drain, Resume, SetStandby

_OK: Final = 200

type Reason = Annotated[str, Meta(max_length=200, description="Why, for the audit; no content of sessions")]


class DrainWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """No new sessions."""

    reason: Reason = ""
    agent_version: Annotated[
        Annotated[int, Meta(ge=1, le=2**31 - 1)] | None, Meta(description="Only bots of this version")
    ] = None
    bot: Annotated[
        Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,128}(?!\n)$")] | None,
        Meta(description="Only the bot of this name, in all versions or in `agent_version`"),
    ] = None


class ResumeWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """New sessions again, of all versions."""

    reason: Reason = ""


class StandbyWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many processes shall wait, and for how long that holds."""

    target: Annotated[int, Meta(ge=0, le=64, description="How many, within the runner's slots")]
    for_s: Annotated[float, Meta(gt=0, le=600)] = 60.0


class RunnerOrdered(msgspec.Struct, frozen=True, kw_only=True):
    """A runner has obeyed."""

    runner: str
    pool: str
    order: Literal["drain", "resume", "standby"]


# A plain alias: Litestar reads it, and knows no others yet.
Pool = Annotated[str | None, QueryParameter(max_length=128, description="Of which pool the runner is")]

_ROUTE: Final = "/v1/runners/{runner:str}"


def _spec(order: str, summary: str) -> dict[str, Any]:
    ordered = {"runner": "voice-1-4711", "pool": "default", "order": order}
    return {
        "operation_id": f"{order}_runner",
        "tags": ["system"],
        "opt": {"scope": POLICY_WRITE},
        "status_code": _OK,
        "return_dto": None,
        "summary": summary,
        "responses": {
            _OK: answer(RunnerOrdered, "The runner has obeyed", ordered),
            **problems(
                errors.MalformedJson,
                errors.BodyTooLarge,
                errors.InvalidBody,
                errors.UnknownField,
                RunnerNotFound,
                RunnerAmbiguous,
                OrderRefused,
                RunnerSilent,
            ),
        },
    }


def runner_order_routes(orders: RunnerOrders) -> list[HTTPRouteHandler]:
    """Return the routes; `orders` reaches the runners."""

    @post(
        f"{_ROUTE}/drain",
        dto=JsonBody.of(DrainWish),
        **_spec("drain", "Have a runner take no new sessions"),
    )
    async def drain_runner(
        request: AnyRequest,
        runner: FromPath[str],
        data: Annotated[DrainWish, Body(examples=[Example(value={"reason": "new kernel"})])],
        pool: Pool = None,
    ) -> RunnerOrdered:
        """Have a runner take no new sessions, until it is told to resume; those that run go on to their own ends.

        With `agent_version`, `bot` or both only bots of that version or name aren't offered any more.
        """
        only_query(request, "pool")
        order = Drain(reason=data.reason, agent_version=data.agent_version, bot=data.bot)
        found = await orders.give(runner, pool, order, by=caller_of(request).key_id)
        return RunnerOrdered(runner=runner, pool=found, order="drain")

    @post(
        f"{_ROUTE}/resume",
        dto=JsonBody.of(ResumeWish),
        **_spec("resume", "Have a runner take new sessions again"),
    )
    async def resume_runner(
        request: AnyRequest,
        runner: FromPath[str],
        data: Annotated[ResumeWish, Body(examples=[Example(value={"reason": "back from maintenance"})])],
        pool: Pool = None,
    ) -> RunnerOrdered:
        """Take back every drain of a runner; one that is being stopped refuses."""
        only_query(request, "pool")
        found = await orders.give(runner, pool, Resume(reason=data.reason), by=caller_of(request).key_id)
        return RunnerOrdered(runner=runner, pool=found, order="resume")

    @post(
        f"{_ROUTE}/standby",
        dto=JsonBody.of(StandbyWish),
        **_spec("standby", "Say how many processes wait on a runner"),
    )
    async def standby_runner(
        request: AnyRequest,
        runner: FromPath[str],
        data: Annotated[StandbyWish, Body(examples=[Example(value={"target": 4, "for_s": 120})])],
        pool: Pool = None,
    ) -> RunnerOrdered:
        """Have so many warm processes wait for a while, within the runner's slots; a busy scheduler wishes anew."""
        only_query(request, "pool")
        order = SetStandby(target=data.target, for_s=data.for_s)
        found = await orders.give(runner, pool, order, by=caller_of(request).key_id)
        return RunnerOrdered(runner=runner, pool=found, order="standby")

    return [drain_runner, resume_runner, standby_runner]
