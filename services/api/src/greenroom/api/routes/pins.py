"""`/v1/pins`: sessions that are kept running."""

from typing import Annotated, Final

from litestar import Response, delete, get, put
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath, HeaderParameter

from greenroom.api import policy_examples as examples
from greenroom.api.agents import Agents
from greenroom.api.auth import POLICY_WRITE, Caller, caller_of
from greenroom.api.body import JsonBody
from greenroom.api.pin_schemas import PinList, PinView, PinWish, pin_view
from greenroom.api.policy_store import PolicyChanged, PolicyFull, PolicyNotFound, PolicyStore, PolicyUnusable
from greenroom.api.routes.common import AnyRequest, answer, only_query, problems
from greenroom.api.routes.policy_common import IF_MATCH, READ, etag, expected, token
from greenroom.api.scheduler_link import SchedulerLink
from greenroom.common import errors
from greenroom.common.clock import utcnow
from greenroom.common.errors import SchedulerUnavailable
from greenroom.common.pins import Pin, PinsAnswer

_OK: Final = 200
_NO_CONTENT: Final = 204


def pin_routes(policies: PolicyStore, link: SchedulerLink, agents: Agents) -> list[HTTPRouteHandler]:
    """Return the routes; `policies` has the pins, the scheduler behind `link` what became of them."""

    @get(
        "/v1/pins",
        operation_id="list_pins",
        tags=["policy"],
        opt={"scope": READ},
        summary="List pins",
        responses={_OK: answer(PinList, "Pins by id", examples.PINS), **problems(PolicyUnusable)},
    )
    async def list_pins(request: AnyRequest) -> Response[PinList]:
        """List the caller's pins with what each of their sessions does or waits for; operators see all."""
        only_query(request)
        caller = caller_of(request)
        policy = await policies.policy()
        now = await _standing(link)
        return Response(
            PinList(
                revision=policy.revision,
                applied_revision=now.policy_revision if now else None,
                problem=None if now else SchedulerUnavailable.code,
                pins=[_view(pin, now) for pin in policy.pins if _concerns(pin, caller)],
            ),
            headers=etag(policy.revision),
        )

    @get(
        "/v1/pins/{pin_id:str}",
        operation_id="get_pin",
        tags=["policy"],
        opt={"scope": READ},
        summary="Look at a pin",
        responses={_OK: answer(PinView, "The pin", examples.PIN), **problems(PolicyNotFound, PolicyUnusable)},
    )
    async def get_pin(request: AnyRequest, pin_id: FromPath[str]) -> Response[PinView]:
        """Return a pin, and what each of its sessions does or waits for."""
        only_query(request)
        caller = caller_of(request)
        policy = await policies.policy()
        pin = next((pin for pin in policy.pins if pin.id == pin_id and _concerns(pin, caller)), None)
        if pin is None:
            raise PolicyNotFound("There is no such pin.")
        return Response(_view(pin, await _standing(link)), headers=etag(policy.revision))

    @put(
        "/v1/pins/{pin_id:str}",
        operation_id="put_pin",
        tags=["policy"],
        opt={"scope": POLICY_WRITE},
        dto=JsonBody.of(PinWish),
        return_dto=None,
        summary="Keep sessions running",
        responses={
            _OK: answer(
                PinView, "The pin; schedulers go by it within 2 s", {**examples.PIN, "running": None, "slots": None}
            ),
            **problems(
                errors.MalformedJson,
                errors.BodyTooLarge,
                errors.InvalidBody,
                errors.UnknownField,
                errors.AgentNotFound,
                PolicyChanged,
                PolicyFull,
            ),
        },
    )
    async def put_pin(
        request: AnyRequest,
        pin_id: FromPath[str],
        data: Annotated[PinWish, Body(examples=[Example(value=examples.PIN_WISH)])],
        if_match: Annotated[str | None, HeaderParameter(name="If-Match", description=IF_MATCH)] = None,
    ) -> Response[PinView]:
        """Make a pin, or replace the one of this id as a whole.

        Sessions that run go on as they were asked for; those that follow are as the pin says now, of the agent as it is
        now. What was given up is tried again.
        """
        only_query(request)
        tenant = data.tenant or caller_of(request).tenant
        known = await agents.get(tenant, data.agent)
        pin = data.pin(token("pin_id", pin_id), tenant, known, utcnow())
        revision = await policies.put_pin(pin, expected(if_match))
        return Response(_view(pin, None), headers=etag(revision))

    @delete(
        "/v1/pins/{pin_id:str}",
        operation_id="delete_pin",
        tags=["policy"],
        opt={"scope": POLICY_WRITE},
        status_code=_NO_CONTENT,
        summary="Delete a pin",
        responses={
            _NO_CONTENT: ResponseSpec(None, description="Its sessions are stopped in order"),
            **problems(PolicyNotFound, PolicyChanged),
        },
    )
    async def delete_pin(
        request: AnyRequest,
        pin_id: FromPath[str],
        if_match: Annotated[str | None, HeaderParameter(name="If-Match", description=IF_MATCH)] = None,
    ) -> Response[None]:
        """Delete a pin, and have its sessions stopped."""
        only_query(request)
        revision = await policies.delete_pin(token("pin_id", pin_id), expected(if_match))
        return Response(None, status_code=_NO_CONTENT, headers=etag(revision))

    return [list_pins, get_pin, put_pin, delete_pin]


def _concerns(pin: Pin, caller: Caller) -> bool:
    return caller.operator or pin.tenant == caller.tenant


async def _standing(link: SchedulerLink) -> PinsAnswer | None:
    try:
        return await link.pins()
    except SchedulerUnavailable:
        return None


def _view(pin: Pin, now: PinsAnswer | None) -> PinView:
    state = next((each for each in now.pins if each.uid == pin.uid), None) if now is not None else None
    return pin_view(pin, state)
