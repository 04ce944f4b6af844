"""What operators tell runners: to take no new sessions, to take them again, how many processes shall wait.

A runner answers when it has obeyed. It is the runner that knows what holds: one that is started anew takes sessions.
Who told it what, and when, is a line of the audit:

| the runner | the line |
|---|---|
| obeys | is written, before the caller is answered |
| refuses, or can't be asked | there is none: nothing was done |
| doesn't answer | is written, with `answered` false: it may have obeyed |

The line is written before the runner is asked, in a transaction that ends when it has answered. So nobody is ordered
to do anything while the audit can't be written; a signal still stops a runner.
"""

import functools
from typing import Final

import msgspec
import structlog

from greenroom.api.fleet import Fleet
from greenroom.api.store import Store
from greenroom.common import audit, messages, subjects
from greenroom.common.audit import Action
from greenroom.common.broker import Broker, NoResponder, RequestTimeout
from greenroom.common.errors import GreenroomError
from greenroom.common.messages import Done, Drain, Resume, SetStandby

_log = structlog.get_logger()

_TIMEOUT_S: Final = 5.0
type Order = Drain | Resume | SetStandby
_NAMES: Final[dict[type[Order], str]] = {Drain: "drain", Resume: "resume", SetStandby: "standby"}
_ACTIONS: Final[dict[type[Order], Action]] = {
    Drain: Action.RUNNER_DRAINED,
    Resume: Action.RUNNER_RESUMED,
    SetStandby: Action.RUNNER_STANDBY_SET,
}


class RunnerNotFound(GreenroomError):
    """No runner of this name has been heard in the last minute; `GET /v1/runners` lists those that were."""

    code = "runner-not-found"
    status = 404
    title = "There is no such runner"


class RunnerAmbiguous(GreenroomError):
    """Runners of more than one pool have this name; say which by `pool`."""

    code = "runner-ambiguous"
    status = 409
    title = "More than one runner has this name"


class RunnerSilent(GreenroomError):
    """The runner didn't answer; whether it has obeyed isn't known. Saying the same again is safe."""

    code = "runner-silent"
    status = 503
    title = "The runner doesn't answer"
    retryable = True
    default_retry_after_s = 1.0


class OrderRefused(GreenroomError):
    """The runner doesn't obey, for the reason in the detail: one that is being stopped doesn't resume."""

    code = "order-refused"
    status = 409
    title = "The runner refuses"


class RunnerOrders:
    """Tells runners.

    Args:
        broker: reaches them.
        fleet: says which there are.
        store: has the audit.
    """

    def __init__(self, broker: Broker, fleet: Fleet, store: Store) -> None:
        self._broker = broker
        self._fleet = fleet
        self._store = store

    async def give(self, runner_id: str, pool: str | None, order: Order, *, by: str) -> str:
        """Tell a runner something, and return its pool once it has obeyed.

        Args:
            runner_id: which.
            pool: of which pool; None: of whichever there is one in.
            order: what.
            by: id of the key, for the audit.

        Raises:
            RunnerNotFound, RunnerAmbiguous: there is none, or more than one.
            RunnerSilent: it doesn't answer.
            OrderRefused: it doesn't obey.
            BrokerUnavailable: it can't be asked.
            DatabaseUnavailable: the audit can't be written. If it could at first, the runner may have obeyed: saying
                the same again is safe.
        """
        pool = self._pool(runner_id, pool)
        async with self._store.connection("runner_order") as connection:
            line = functools.partial(
                audit.write,
                connection,
                actor=audit.key_actor(by),
                action=_ACTIONS[type(order)],
                tenant="*",
                subject=f"{pool}/{runner_id}",
                **msgspec.to_builtins(order),
            )
            try:
                async with connection.transaction():
                    await line()
                    await self._ask(runner_id, pool, order)
            except RunnerSilent:
                await line(answered=False)
                raise
        return pool

    async def _ask(self, runner_id: str, pool: str, order: Order) -> None:
        name = _NAMES[type(order)]
        subject = subjects.RUNNER_CMD.format(pool=pool, runner_id=runner_id, name=name)
        try:
            reply = await self._broker.request(subject, messages.encode(order), timeout_s=_TIMEOUT_S)
        except (NoResponder, RequestTimeout) as error:
            raise RunnerSilent(f"{runner_id} of pool {pool} doesn't answer.") from error
        done = messages.decode(reply.data, Done)
        _log.info("runner_ordered", order=name, runner_id=runner_id, pool=pool, done=done.done)
        if not done.done:
            raise OrderRefused(done.detail)

    def _pool(self, runner_id: str, pool: str | None) -> str:
        named = [
            runner
            for runner in self._fleet.runners()
            if runner.heartbeat.runner_id == runner_id and pool in {None, runner.heartbeat.pool}
        ]
        # One that has moved to another pool is still remembered in the one that it was in.
        pools = {runner.heartbeat.pool for runner in named if not runner.lost}
        pools = pools or {runner.heartbeat.pool for runner in named}
        if not pools:
            raise RunnerNotFound(f"No runner {runner_id!r} was heard.")
        if len(pools) > 1:
            raise RunnerAmbiguous(f"There is one in {', '.join(sorted(pools))}.")
        return pools.pop()
