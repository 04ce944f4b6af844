"""The facts of each pool, gathered from the picture and from what the launcher says."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from greenroom.common.lifecycle import Session
from greenroom.common.reasons import Reason
from greenroom.scheduler.board import Board
from greenroom.scheduler.fleet import Runner
from greenroom.scheduler.launchers.base import Instance, Launcher
from greenroom.scheduler.picture import Picture
from greenroom.scheduler.placement import Seat
from greenroom.scheduler.pool_facts import PoolFacts, RunnerFacts


def pools_of(picture: Picture) -> set[str]:
    """Return the pools that have a runner, a session or a word of policy."""
    board = picture.board
    named = {each.name for each in board.policy.pools} | {each.pool for each in board.policy.reservations}
    return named | {pool for pool, _ in picture.fleet.runners} | picture.pools.keys()


def launch_id(session: Session) -> str:
    """Return what the launch of a session's cold lease goes by."""
    return f"{session.id}-{session.epoch}"


def facts_of(
    picture: Picture,
    pool: str,
    now: datetime,
    *,
    launcher: Launcher,
    instances: Sequence[Instance] | None,
    holds: str | None,
    lost_s: float,
) -> PoolFacts:
    """Return the facts of a pool.

    Args:
        picture: what is known.
        pool: which.
        now: the time.
        launcher: of the pool's runners.
        instances: what it has there; None: it couldn't be asked.
        holds: why it gets nowhere, if it doesn't.
        lost_s: how long a runner may be silent.
    """
    since = picture.fleet.hearing_since
    board = picture.board
    return PoolFacts(
        name=pool,
        hearing=since is not None and now - since >= timedelta(seconds=lost_s),
        runners=[_runner(seat, seat.runner) for seat in board.seats.of(pool) if seat.runner is not None and seat.live],
        waiting=_waiting(board, pool),
        cold_leases=board.cold_leases(pool),
        launcher=launcher.name,
        retires=launcher.retires,
        instances=instances,
        launcher_holds=holds,
    )


def _waiting(board: Board, pool: str) -> int:
    outlook = board.outlook()
    if any(seat.up for seat in board.seats.of(pool)):
        return outlook.for_slots(pool)
    # In an empty pool nobody offers anything: that is for want of a runner too, and nothing would ever come up.
    return sum(each.reason is Reason.NO_RUNNER_FOR_AGENT for each in outlook.waiting(pool))


def _runner(seat: Seat, runner: Runner) -> RunnerFacts:
    return RunnerFacts(
        id=runner.id,
        slots=runner.slots,
        used=seat.used,
        room=seat.room(runner.dearest),
        held=runner.held,
        draining=runner.draining,
        braking=runner.brake is not None,
        instance=runner.instance,
        ordinal=runner.ordinal,
        claim=runner.claim,
        # By its own clock: see `Runner.up_s`.
        up_s=runner.up_s,
    )
