"""`/v1/pools` and `/v1/reservations`: how pools stand, how they are run, and what is reserved."""

from collections.abc import Iterable
from typing import Annotated, Final

from litestar import Response, delete, get, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath, HeaderParameter

from greenroom.api import policy_examples as examples
from greenroom.api.auth import POLICY_WRITE
from greenroom.api.body import JsonBody
from greenroom.api.fleet import Fleet
from greenroom.api.policy_schemas import PoolList, PoolView, PoolWish, ReservationList, ReservationWish
from greenroom.api.policy_store import PolicyChanged, PolicyFull, PolicyNotFound, PolicyStore, PolicyUnusable
from greenroom.api.routes.common import AnyRequest, answer, only_query, problems
from greenroom.api.routes.policy_common import IF_MATCH, OPERATE, READ, etag, expected, standing, token
from greenroom.api.scheduler_link import SchedulerLink
from greenroom.common import errors
from greenroom.common.clock import utcnow
from greenroom.common.errors import SchedulerUnavailable
from greenroom.common.messages import PoolsAnswer
from greenroom.common.policy import Policy, Reservation

_OK: Final = 200
_CREATED: Final = 201
_NO_CONTENT: Final = 204
_BODY: Final = (errors.MalformedJson, errors.BodyTooLarge, errors.InvalidBody, errors.UnknownField)


def pool_routes(policies: PolicyStore, link: SchedulerLink, fleet: Fleet) -> list[HTTPRouteHandler]:
    """Return the routes of pools.

    Args:
        policies: has how they are run.
        link: to the scheduler, which knows how they stand.
        fleet: knows which there are, also while no scheduler leads.
    """

    @get(
        "/v1/pools",
        operation_id="list_pools",
        tags=["policy"],
        opt={"scope": READ},
        summary="List pools",
        responses={_OK: answer(PoolList, "Pools by name", examples.POOLS), **problems(PolicyUnusable)},
    )
    async def list_pools(request: AnyRequest) -> Response[PoolList]:
        """List the pools: how they are run, and how they stand as the leading scheduler sees it.

        While no scheduler leads this still answers; `problem` says so, and there is no `state`.
        """
        only_query(request)
        policy = await policies.policy()
        now = await standing(link)
        return Response(
            PoolList(
                revision=policy.revision,
                applied_revision=now.policy_revision if now else None,
                problem=None if now else SchedulerUnavailable.code,
                leader=now.leader if now else None,
                pools=_views(policy, now, _heard(fleet)),
            ),
            headers=etag(policy.revision),
        )

    @get(
        "/v1/pools/{name:str}",
        operation_id="get_pool",
        tags=["policy"],
        opt={"scope": READ},
        summary="Look at a pool",
        responses={_OK: answer(PoolView, "The pool", examples.POOL), **problems(PolicyNotFound, PolicyUnusable)},
    )
    async def get_pool(request: AnyRequest, name: FromPath[str]) -> Response[PoolView]:
        """Return a pool that has runners, sessions or a policy."""
        only_query(request)
        policy = await policies.policy()
        views = _views(policy, await standing(link), _heard(fleet))
        view = next((view for view in views if view.name == name), None)
        if view is None:
            raise PolicyNotFound("There is no such pool.")
        return Response(view, headers=etag(policy.revision))

    @put(
        "/v1/pools/{name:str}",
        operation_id="put_pool",
        tags=["policy"],
        opt={"scope": POLICY_WRITE},
        dto=JsonBody.of(PoolWish),
        return_dto=None,
        summary="Say how a pool is run",
        responses={
            _OK: answer(PoolView, "The pool; schedulers go by it within 2 s", {**examples.POOL, "state": None}),
            **problems(*_BODY, PolicyChanged, PolicyFull),
        },
    )
    async def put_pool(
        request: AnyRequest,
        name: FromPath[str],
        data: Annotated[PoolWish, Body(examples=[Example(value=examples.POOL_WISH)])],
        if_match: Annotated[str | None, HeaderParameter(name="If-Match", description=IF_MATCH)] = None,
    ) -> Response[PoolView]:
        """Say how a pool is run, as a whole: what is left out is as it is without a policy."""
        only_query(request)
        pool = data.pool(token("name", name))
        revision = await policies.put_pool(pool, expected(if_match))
        return Response(PoolView(name=name, decided=True, policy=pool, state=None), headers=etag(revision))

    @delete(
        "/v1/pools/{name:str}",
        operation_id="delete_pool",
        tags=["policy"],
        opt={"scope": POLICY_WRITE},
        status_code=_NO_CONTENT,
        summary="Leave a pool to the defaults",
        responses={
            _NO_CONTENT: ResponseSpec(None, description="It is a fixed fleet again, packed"),
            **problems(PolicyNotFound, PolicyChanged),
        },
    )
    async def delete_pool(
        request: AnyRequest,
        name: FromPath[str],
        if_match: Annotated[str | None, HeaderParameter(name="If-Match", description=IF_MATCH)] = None,
    ) -> Response[None]:
        """Leave a pool to the defaults. Its runners stay."""
        only_query(request)
        revision = await policies.delete_pool(token("name", name), expected(if_match))
        return Response(None, status_code=_NO_CONTENT, headers=etag(revision))

    return [list_pools, get_pool, put_pool, delete_pool]


def reservation_routes(policies: PolicyStore) -> list[HTTPRouteHandler]:
    """Return the routes of reservations."""

    @get(
        "/v1/reservations",
        operation_id="list_reservations",
        tags=["policy"],
        opt={"scope": OPERATE},
        summary="List reservations",
        responses={
            _OK: answer(ReservationList, "Reservations that aren't over", examples.RESERVATIONS),
            **problems(PolicyUnusable),
        },
    )
    async def list_reservations(request: AnyRequest) -> Response[ReservationList]:
        """List the reservations that hold or are to come, by their beginning."""
        only_query(request)
        policy = await policies.policy()
        body = ReservationList(revision=policy.revision, reservations=list(policy.reservations))
        return Response(body, headers=etag(policy.revision))

    @post(
        "/v1/reservations",
        operation_id="create_reservation",
        tags=["policy"],
        opt={"scope": POLICY_WRITE},
        dto=JsonBody.of(ReservationWish),
        return_dto=None,
        summary="Reserve warm slots for a time",
        responses={
            _CREATED: answer(Reservation, "The reservation", examples.RESERVATION),
            **problems(*_BODY, PolicyChanged, PolicyFull),
        },
    )
    async def create_reservation(
        request: AnyRequest,
        data: Annotated[ReservationWish, Body(examples=[Example(value=examples.RESERVATION_WISH)])],
        if_match: Annotated[str | None, HeaderParameter(name="If-Match", description=IF_MATCH)] = None,
    ) -> Response[Reservation]:
        """Reserve warm slots of a pool, beside all that is wanted otherwise, until `ends_at`.

        With `If-Match` a request that is sent again can't reserve twice.
        """
        only_query(request)
        reservation = data.reservation(utcnow())
        revision = await policies.add_reservation(reservation, expected(if_match))
        headers = {"location": f"/v1/reservations/{reservation.id}", **etag(revision)}
        return Response(reservation, status_code=_CREATED, headers=headers)

    @delete(
        "/v1/reservations/{reservation_id:str}",
        operation_id="delete_reservation",
        tags=["policy"],
        opt={"scope": POLICY_WRITE},
        status_code=_NO_CONTENT,
        summary="Give a reservation up",
        responses={
            _NO_CONTENT: ResponseSpec(None, description="Nothing is reserved by it any more"),
            **problems(PolicyNotFound, PolicyChanged),
        },
    )
    async def delete_reservation(
        request: AnyRequest,
        reservation_id: FromPath[str],
        if_match: Annotated[str | None, HeaderParameter(name="If-Match", description=IF_MATCH)] = None,
    ) -> Response[None]:
        """Give a reservation up, before or while it holds."""
        only_query(request)
        revision = await policies.delete_reservation(token("reservation_id", reservation_id), expected(if_match))
        return Response(None, status_code=_NO_CONTENT, headers=etag(revision))

    return [list_reservations, create_reservation, delete_reservation]


def _heard(fleet: Fleet) -> set[str]:
    return {runner.heartbeat.pool for runner in fleet.runners() if not runner.lost}


def _views(policy: Policy, now: PoolsAnswer | None, heard: Iterable[str]) -> list[PoolView]:
    """Return all pools that anybody knows of."""
    states = {state.name: state for state in now.pools} if now else {}
    decided = {pool.name for pool in policy.pools}
    return [
        PoolView(name=name, decided=name in decided, policy=policy.pool(name), state=states.get(name))
        for name in sorted({*decided, *states, *heard})
    ]
