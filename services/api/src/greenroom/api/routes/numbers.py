"""`/v1/numbers`: which agent answers calls to which phone number."""

from typing import Annotated, Any, Final

import msgspec
from litestar import Response, delete, get, put
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath
from msgspec import Meta

from greenroom.api.agents import Agents
from greenroom.api.auth import NUMBERS_READ, NUMBERS_WRITE, caller_of
from greenroom.api.body import JsonBody
from greenroom.api.canonical import canonical_number
from greenroom.api.carriers.base import NAMES
from greenroom.api.carriers.links import WEBHOOKS
from greenroom.api.phone_numbers import AtBusy, Number, NumberNotFound, Numbers, NumberTaken
from greenroom.api.routes.common import AnyRequest, answer, only_query, origin_of, problems
from greenroom.common import errors
from greenroom.common.errors import FieldProblem, InvalidBody

_OK: Final = 200
_NO_CONTENT: Final = 204
# The applet there can only be told where to connect.
_CANT_HOLD: Final = frozenset({"exotel"})
_EXAMPLE_WISH: Final = {
    "agent": "frontdesk",
    "at_busy": "hold",
    "hold_text": "All lines are busy. Please hold.",
}

type Text = Annotated[str, Meta(max_length=500, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f]*(?!\n)$")]


class NumberWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be done with calls to a number."""

    agent: Annotated[str, Meta(min_length=1, max_length=128, description="Who answers")]
    at_busy: Annotated[
        AtBusy, Meta(description="What becomes of a call that finds no free slot: refused as busy, or held")
    ] = "refuse"
    hold_s: Annotated[float, Meta(gt=0, le=3600, description="How long a call is held, at most")] = 60.0
    hold_text: Annotated[Text, Meta(description="What those hear who are held")] = ""
    busy_text: Annotated[Text, Meta(description="What those hear who are refused; empty: that the line is busy")] = ""
    body: Annotated[dict[str, Any], Meta(description="What the bot is given with each call")] = {}


class NumberView(msgspec.Struct, frozen=True, kw_only=True):
    """A phone number; `answer_url` and `status_url` are what the carrier is to be given."""

    carrier: str
    number: str
    agent: str
    at_busy: AtBusy
    hold_s: float
    hold_text: str
    busy_text: str
    body: dict[str, Any]
    answer_url: str
    status_url: str


class NumberList(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers by carrier and number."""

    numbers: list[NumberView]


_EXAMPLE: Final[dict[str, Any]] = {
    "carrier": "twilio",
    "number": "+4930123456",
    "hold_s": 60.0,
    "busy_text": "",
    "body": {},
    **_EXAMPLE_WISH,
    "answer_url": "https://voice.example.org/v1/webhooks/twilio/answer",
    "status_url": "https://voice.example.org/v1/webhooks/twilio/status",
}


def number_routes(numbers: Numbers, agents: Agents, public_url: str | None) -> list[HTTPRouteHandler]:
    """Return the routes.

    Args:
        numbers: has them.
        agents: knows who takes calls.
        public_url: how carriers reach us; None: as the request says.
    """

    @get(
        "/v1/numbers",
        operation_id="list_numbers",
        tags=["calls"],
        opt={"scope": (NUMBERS_READ, NUMBERS_WRITE)},
        summary="List phone numbers",
        responses={_OK: answer(NumberList, "The tenant's numbers", {"numbers": [_EXAMPLE]}), **problems()},
    )
    async def list_numbers(request: AnyRequest) -> NumberList:
        """List the tenant's phone numbers, and what is done with calls to them."""
        only_query(request)
        found = await numbers.all(caller_of(request).tenant)
        origin = origin_of(request, public_url)
        return NumberList(numbers=[_view(number, origin) for number in found])

    @put(
        "/v1/numbers/{carrier:str}/{number:str}",
        operation_id="put_number",
        tags=["calls"],
        opt={"scope": NUMBERS_WRITE},
        dto=JsonBody.of(NumberWish),
        return_dto=None,
        summary="Say who answers a phone number",
        responses={
            _OK: answer(NumberView, "The number; calls go by it within 2 s", _EXAMPLE),
            **problems(
                errors.MalformedJson,
                errors.BodyTooLarge,
                errors.InvalidBody,
                errors.UnknownField,
                errors.AgentNotFound,
                NumberTaken,
            ),
        },
    )
    async def put_number(
        request: AnyRequest,
        carrier: FromPath[str],
        number: FromPath[str],
        data: Annotated[NumberWish, Body(examples=[Example(value=_EXAMPLE_WISH)])],
    ) -> NumberView:
        """Say which agent answers calls to a number, and what callers hear while no slot is free.

        Give the carrier the `answer_url` and `status_url` of the answer.
        """
        only_query(request)
        tenant = caller_of(request).tenant
        known = await agents.get(tenant, data.agent)
        if carrier not in NAMES:
            raise _invalid("", f"The carrier is one of {', '.join(sorted(NAMES))}.")
        if carrier not in known.agent.transports:
            raise _invalid("/agent", f"The agent takes {', '.join(known.agent.transports)}.")
        if data.at_busy == "hold" and carrier in _CANT_HOLD:
            raise _invalid("/at_busy", f"{carrier} can't hold calls.")
        known.check_body(data.body)
        written = canonical_number(number)
        if not written.removeprefix("+").isdecimal():
            raise _invalid("", "A phone number has 3 to 20 digits.")
        fields = {name: getattr(data, name) for name in data.__struct_fields__}
        wanted = Number(carrier=carrier, number=written, tenant=tenant, **fields)
        await numbers.put(wanted)
        return _view(wanted, origin_of(request, public_url))

    @delete(
        "/v1/numbers/{carrier:str}/{number:str}",
        operation_id="delete_number",
        tags=["calls"],
        opt={"scope": NUMBERS_WRITE},
        status_code=_NO_CONTENT,
        summary="Forget a phone number",
        responses={_NO_CONTENT: ResponseSpec(None, description="Calls to it are refused"), **problems(NumberNotFound)},
    )
    async def delete_number(request: AnyRequest, carrier: FromPath[str], number: FromPath[str]) -> Response[None]:
        """Forget a number: calls to it are refused."""
        only_query(request)
        await numbers.delete(carrier, canonical_number(number), caller_of(request).tenant)
        return Response(None, status_code=_NO_CONTENT)

    return [list_numbers, put_number, delete_number]


def _view(number: Number, origin: str) -> NumberView:
    fields = {name: getattr(number, name) for name in number.__struct_fields__ if name != "tenant"}
    webhooks = f"{origin}{WEBHOOKS}/{number.carrier}"
    return NumberView(**fields, answer_url=f"{webhooks}/answer", status_url=f"{webhooks}/status")


def _invalid(pointer: str, detail: str) -> InvalidBody:
    return InvalidBody(detail, errors=[FieldProblem(pointer=pointer, detail=detail)])
