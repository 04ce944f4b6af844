"""`/v1/budgets`: how much may be spent, and how much is."""

from typing import Annotated, Final

from litestar import Response, delete, get, put
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath

from greenroom.api.auth import POLICY_WRITE, Caller, caller_of
from greenroom.api.billing import examples
from greenroom.api.billing.budgets import BudgetNotFound, Budgets, BudgetsFull
from greenroom.api.billing.currencies import CurrencyMismatch
from greenroom.api.billing.schemas import BudgetList, BudgetView, BudgetWish
from greenroom.api.body import JsonBody
from greenroom.api.routes.common import AnyRequest, answer, only_query, problems
from greenroom.api.routes.policy_common import READ, token
from greenroom.common import errors

_OK: Final = 200
_NO_CONTENT: Final = 204


def budget_routes(budgets: Budgets) -> list[HTTPRouteHandler]:
    """Return the routes."""

    @get(
        "/v1/budgets",
        operation_id="list_budgets",
        tags=["usage"],
        opt={"scope": READ},
        summary="List budgets",
        responses={_OK: answer(BudgetList, "Budgets by id", examples.BUDGETS), **problems()},
    )
    async def list_budgets(request: AnyRequest) -> Response[BudgetList]:
        """List the caller's budgets, and how they stand; operators see all."""
        only_query(request)
        return Response(await budgets.all(_whose(caller_of(request))), headers={"cache-control": "no-store"})

    @get(
        "/v1/budgets/{budget_id:str}",
        operation_id="get_budget",
        tags=["usage"],
        opt={"scope": READ},
        summary="Look at a budget",
        responses={_OK: answer(BudgetView, "The budget", examples.BUDGET), **problems(BudgetNotFound)},
    )
    async def get_budget(request: AnyRequest, budget_id: FromPath[str]) -> Response[BudgetView]:
        """Return a budget and how it stands in its present period."""
        only_query(request)
        known = await budgets.all(_whose(caller_of(request)))
        found = next((each for each in known.budgets if each.id == budget_id), None)
        if found is None:
            raise BudgetNotFound
        return Response(found, headers={"cache-control": "no-store"})

    @put(
        "/v1/budgets/{budget_id:str}",
        operation_id="put_budget",
        tags=["usage"],
        opt={"scope": POLICY_WRITE},
        dto=JsonBody.of(BudgetWish),
        return_dto=None,
        summary="Make or replace a budget",
        responses={
            _OK: answer(
                BudgetView,
                "The budget; it holds with the recorder's next look, a minute away at most",
                {**examples.BUDGET, "spent": None, "reached": None, "period_start": None, "period_end": None},
            ),
            **problems(
                errors.MalformedJson,
                errors.BodyTooLarge,
                errors.InvalidBody,
                errors.UnknownField,
                BudgetsFull,
                CurrencyMismatch,
            ),
        },
    )
    async def put_budget(
        request: AnyRequest,
        budget_id: FromPath[str],
        data: Annotated[BudgetWish, Body(examples=[Example(value=examples.BUDGET_WISH)])],
    ) -> Response[BudgetView]:
        """Make a budget, or replace the one of this id as a whole."""
        only_query(request)
        return Response(await budgets.put(token("budget_id", budget_id), data))

    @delete(
        "/v1/budgets/{budget_id:str}",
        operation_id="delete_budget",
        tags=["usage"],
        opt={"scope": POLICY_WRITE},
        status_code=_NO_CONTENT,
        summary="Delete a budget",
        responses={
            _NO_CONTENT: ResponseSpec(None, description="It holds no longer than until the recorder's next look"),
            **problems(BudgetNotFound),
        },
    )
    async def delete_budget(request: AnyRequest, budget_id: FromPath[str]) -> Response[None]:
        """Delete a budget."""
        only_query(request)
        await budgets.delete(token("budget_id", budget_id))
        return Response(None, status_code=_NO_CONTENT)

    return [list_budgets, get_budget, put_budget, delete_budget]


def _whose(caller: Caller) -> str | None:
    return None if caller.operator else caller.tenant
