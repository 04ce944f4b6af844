"""What there is: runners, the state of the installation, probes, and the description of all this."""

from collections.abc import Callable
from importlib import metadata
from typing import Any, Final

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from greenroom.api import examples
from greenroom.api.auth import ADMIN, SESSIONS_READ, caller_of
from greenroom.api.fleet import Fleet, Runner
from greenroom.api.policy import PolicyPublisher
from greenroom.api.routes.common import AnyRequest, answer, only_query, problems
from greenroom.api.schemas import (
    BotView,
    HeldView,
    RunnerCounts,
    RunnerList,
    RunnerView,
    SchedulerView,
    Status,
)
from greenroom.api.store import Store
from greenroom.common import messages, subjects
from greenroom.common.broker import Broker
from greenroom.common.clock import utcnow
from greenroom.common.errors import BrokerUnavailable, DatabaseUnavailable, SchedulerUnavailable
from greenroom.common.health import Readiness
from greenroom.common.messages import Heartbeat, LeaderClaim

VERSION: Final = metadata.version("greenroom-api")
# What the schedulers of all pools compete for, and how old a claim may be that is renewed each second.
_SCHEDULER: Final = "scheduler-default"
_STALE_CLAIM_S: Final = 10.0
_OK: Final = 200
_UNAVAILABLE: Final = 503


def system_routes(
    *,
    fleet: Fleet,
    transports: tuple[str, ...],
    store: Store,
    broker: Broker,
    policy: PolicyPublisher,
    readiness: Readiness,
    instance_id: str,
    schema: Callable[[], dict[str, Any]],
) -> list[HTTPRouteHandler]:
    """Return the routes; `schema` gives the OpenAPI document."""

    @get(
        "/v1/runners",
        operation_id="list_runners",
        tags=["system"],
        opt={"scope": ADMIN},
        summary="List runners",
        responses={_OK: answer(RunnerList, "Runners by pool and id", examples.RUNNERS), **problems()},
    )
    async def list_runners(request: AnyRequest) -> RunnerList:
        """List the runners as their heartbeats show them, with the sessions of all tenants that they hold."""
        only_query(request)
        return RunnerList(runners=[_runner_view(runner) for runner in fleet.runners()])

    @get(
        "/v1/status",
        operation_id="get_status",
        tags=["system"],
        opt={"scope": SESSIONS_READ},
        summary="Look at the installation",
        responses={_OK: answer(Status, "How it is", examples.STATUS), **problems()},
    )
    async def get_status(request: AnyRequest) -> Status:
        """Tell how the installation is. This answers even while most of it is away."""
        only_query(request)
        problems_found = await readiness.reasons()
        schema_version = counts = None
        try:
            schema_version = await store.schema_version()
            counts = await store.session_counts(caller_of(request).tenant)
        except DatabaseUnavailable as error:
            problems_found["database"] = error.code
        if policy.problem is not None:
            problems_found["policy"] = policy.problem
        scheduler = await _scheduler(broker)
        if scheduler.leader is None:
            problems_found["scheduler"] = SchedulerUnavailable.code
        return Status(
            version=VERSION,
            instance=instance_id,
            ready=not problems_found,
            problems=problems_found,
            schema_version=schema_version,
            sessions=counts,
            runners=_runner_counts(fleet.runners()),
            scheduler=scheduler,
            transports=transports,
        )

    @get("/openapi.json", operation_id="get_openapi", opt={"scope": SESSIONS_READ}, include_in_schema=False)
    async def get_openapi(request: AnyRequest) -> dict[str, Any]:
        """Return the OpenAPI document."""
        only_query(request)
        return schema()

    @get("/livez", opt={"public": True}, include_in_schema=False)
    async def get_livez() -> dict[str, str]:
        """Tell that this process answers."""
        return {"service": "api"}

    @get("/readyz", opt={"public": True}, include_in_schema=False)
    async def get_readyz() -> Response[dict[str, Any]]:
        """Tell whether this instance should be sent requests."""
        reasons = await readiness.reasons()
        return Response(
            {"service": "api", "ready": not reasons, "reasons": reasons}, status_code=_UNAVAILABLE if reasons else _OK
        )

    return [list_runners, get_status, get_openapi, get_livez, get_readyz]


def _runner_view(runner: Runner) -> RunnerView:
    beat = runner.heartbeat
    return RunnerView(
        id=beat.runner_id,
        pool=beat.pool,
        state="lost" if runner.lost else "draining" if beat.draining else "serving",
        age_s=round(runner.age_s, 3),
        slots=beat.slots,
        free=0 if runner.lost or beat.draining or beat.brake else max(beat.slots - len(beat.sessions), 0),
        standby=beat.standby,
        sessions=[
            HeldView(session_id=held.session_id, tenant=held.tenant, phase=held.phase, since=held.since)
            for held in beat.sessions
        ],
        bots=_bot_views(beat),
        cpu=beat.load.cpu,
        memory_available=beat.load.memory_available,
        loop_lag_ms=beat.load.loop_lag_ms,
        host=beat.host,
        version=beat.version,
        started_at=beat.started_at,
        brake=beat.brake,
        labels=beat.labels,
        instance=beat.instance,
        claim=beat.claim,
    )


def _bot_views(beat: Heartbeat) -> list[BotView]:
    known = {(each.bot, each.version): each for each in beat.density}
    views: list[BotView] = []
    for bot in beat.bots:
        cost = known.get((bot.name, bot.version))
        views.append(
            BotView(
                name=bot.name,
                error=bot.error,
                version=bot.version,
                traceback=bot.traceback,
                resources=bot.resources,
                cores=cost.cores if cost else None,
                memory=cost.memory if cost else None,
                more=cost.more if cost and beat.by_cost else None,
            )
        )
    return views


def _runner_counts(runners: list[Runner]) -> RunnerCounts:
    here = [runner.heartbeat for runner in runners if not runner.lost]
    return RunnerCounts(
        serving=sum(not beat.draining for beat in here),
        draining=sum(beat.draining for beat in here),
        lost=len(runners) - len(here),
        slots=sum(beat.slots for beat in here if not beat.draining),
        held=sum(len(beat.sessions) for beat in here),
    )


async def _scheduler(broker: Broker) -> SchedulerView:
    """Return who leads the placement."""
    try:
        message = await broker.last("LEADERS", subjects.LEADER.format(name=_SCHEDULER))
    except BrokerUnavailable:
        return SchedulerView(leader=None, term=0)
    if message is None:
        return SchedulerView(leader=None, term=0)
    claim = messages.decode(message.data, LeaderClaim)
    gone = claim.released or (utcnow() - claim.at).total_seconds() > _STALE_CLAIM_S
    return SchedulerView(leader=None if gone else claim.holder, term=claim.term)
