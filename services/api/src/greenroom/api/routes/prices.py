"""`/v1/prices`: what usage costs, from when on."""

from datetime import datetime
from typing import Annotated, Final

from litestar import Response, delete, get, put
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import Body, FromQuery, QueryParameter

from greenroom.api.auth import ADMIN
from greenroom.api.billing import examples
from greenroom.api.billing.currencies import CurrencyMismatch
from greenroom.api.billing.prices import PriceNotFound, Prices, PricesFull
from greenroom.api.billing.schemas import PricePage, PriceWishes, utc
from greenroom.api.body import JsonBody
from greenroom.api.routes.common import AnyRequest, answer, only_query, problems
from greenroom.common import errors
from greenroom.common.errors import InvalidQuery
from greenroom.common.policy import EACH
from greenroom.common.usage import Unit

_OK: Final = 200
_NO_CONTENT: Final = 204


def price_routes(prices: Prices) -> list[HTTPRouteHandler]:
    """Return the routes."""

    @get(
        "/v1/prices",
        operation_id="list_prices",
        tags=["usage"],
        opt={"scope": ADMIN},
        summary="List prices",
        responses={_OK: answer(PricePage, "A page", examples.PRICES), **problems()},
    )
    async def list_prices(
        request: AnyRequest,
        *,
        tenant: FromQuery[str | None] = None,
        provider: FromQuery[str | None] = None,
        cursor: FromQuery[str | None] = None,
    ) -> Response[PricePage]:
        """List prices, 500 at a time."""
        only_query(request, "tenant", "provider", "cursor")
        _no_nul(tenant or "", provider or "")
        return Response(await prices.page(tenant, provider, cursor))

    @put(
        "/v1/prices",
        operation_id="put_prices",
        tags=["usage"],
        opt={"scope": ADMIN},
        dto=JsonBody.of(PriceWishes),
        return_dto=None,
        status_code=_NO_CONTENT,
        summary="Make or replace prices",
        responses={
            _NO_CONTENT: ResponseSpec(None, description="They hold, all of them"),
            **problems(
                errors.MalformedJson,
                errors.BodyTooLarge,
                errors.InvalidBody,
                errors.UnknownField,
                PricesFull,
                CurrencyMismatch,
            ),
        },
    )
    async def put_prices(
        request: AnyRequest,
        data: Annotated[PriceWishes, Body(examples=[Example(value=examples.PRICE_WISHES)])],
    ) -> Response[None]:
        """Make prices, or replace those of the same tenant, provider, model, unit and time.

        Cost is worked out when it is asked for: a price that is corrected corrects what was used before, too. A price
        that changes is a new one with a later `valid_from`.
        """
        only_query(request)
        await prices.put(data.prices)
        return Response(None, status_code=_NO_CONTENT)

    @delete(
        "/v1/prices",
        operation_id="delete_price",
        tags=["usage"],
        opt={"scope": ADMIN},
        status_code=_NO_CONTENT,
        summary="Delete a price",
        responses={
            _NO_CONTENT: ResponseSpec(None, description="It is gone"),
            **problems(PriceNotFound, CurrencyMismatch),
        },
    )
    async def delete_price(
        request: AnyRequest,
        *,
        provider: FromQuery[str],
        unit: FromQuery[Unit],
        valid_from: Annotated[datetime, QueryParameter(description="As the price has it")],
        model: FromQuery[str] = EACH,
        tenant: FromQuery[str] = EACH,
    ) -> Response[None]:
        """Delete the price of this key and time; what was used since costs what the price before it says.

        It is refused where a price in another currency than that of a budget would hold in its place.
        """
        only_query(request, "provider", "unit", "valid_from", "model", "tenant")
        _no_nul(provider, model, tenant)
        since = utc(valid_from)
        if since is None:
            raise InvalidQuery("valid_from: it has no time zone, or can't be meant.")
        await prices.delete((tenant, provider, model, unit, since))
        return Response(None, status_code=_NO_CONTENT)

    return [list_prices, put_prices, delete_price]


def _no_nul(*texts: str) -> None:
    if any("\x00" in text for text in texts):
        raise InvalidQuery("A name has no NUL.")
