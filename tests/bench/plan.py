"""How long a plan takes, by the size of the fleet and of the queue; and an incremental one, after a single change.

    plan.ms.{runners}x{waiting}    a board that has just been told everything plans for the first time
    plan.update_ms.{runners}       one session ends and another one asks, and the board that has planned before plans

Every second slot is taken, and the queue is longer than what is free or shorter, as it comes.
"""

import asyncio
import time
from typing import Final

import msgspec

from greenroom.common import lifecycle
from greenroom.common.lifecycle import Leased, Limits, Requested, Session
from greenroom.common.policy import EACH, Limit, Policy, PoolPolicy, Scope
from greenroom.common.service import settle_garbage
from greenroom.scheduler.actions import ColdLease, Lease
from greenroom.scheduler.core import Board, PlanLimits, Tracked
from tests.bench.report import Report, median
from tests.support.scheduler_builders import T0, at, fleet, heartbeat

_RUNNERS: Final = (10, 100, 1_000, 10_000)
_WAITING: Final = (100, 1_000, 10_000)
_SLOTS: Final = 25
_TENANTS: Final = 20
_UPDATES: Final = 200
_EXPECTED_MS: Final = 50.0
_EXPECTED_GROWTH: Final = 20.0

_POLICY: Final = Policy(
    limits=(
        Limit(id="tenants", scope=Scope.TENANT, tenant=EACH, max_sessions=1_000_000),
        Limit(id="accounts", scope=Scope.ACCOUNT, max_sessions=1_000_000),
    ),
    pools=(PoolPolicy(name="default"),),
)


async def run(report: Report) -> None:
    """Measure each size three times, and take the best; more would only show what else the machine does."""
    settle_garbage()  # as the scheduler does
    took: dict[tuple[int, int], float] = {}
    for runners in _RUNNERS:
        for waiting in _WAITING:
            report.step(f"a plan for {runners:,} runners and {waiting:,} waiting")
            took[runners, waiting] = min(_fresh_ms(runners, waiting) for _ in range(3))
            await asyncio.sleep(0)
            is_bound = (runners, waiting) == (1_000, 1_000)
            report.add(
                f"plan.ms.{runners}x{waiting}",
                took[runners, waiting],
                "ms",
                expected=f"≤ {_EXPECTED_MS:g}" if is_bound else "",
                met=took[runners, waiting] <= _EXPECTED_MS if is_bound else None,
            )
    growth = took[10_000, 10_000] / took[1_000, 1_000]
    report.add(
        "plan.growth",
        growth,
        "×",
        note="10,000 x 10,000 beside 1,000 x 1,000",
        expected=f"≤ {_EXPECTED_GROWTH:g}",
        met=growth <= _EXPECTED_GROWTH,
    )
    for runners in _RUNNERS:
        report.step(f"an incremental plan for {runners:,} runners")
        report.add(f"plan.update_ms.{runners}", _update_ms(runners), "ms", note="one ends, one asks; the median")
        await asyncio.sleep(0)


def _fresh_ms(runners: int, waiting: int) -> float:
    board = _board(runners)
    for number in range(waiting):
        board.session_changed(_tracked(_request(f"w{number:06d}", number)))
    began = time.perf_counter()
    plan = board.plan(at(1))
    took_ms = 1000 * (time.perf_counter() - began)
    free = runners * (_SLOTS - _SLOTS // 2)
    assert len(plan.actions) == min(waiting, free)
    return took_ms


def _update_ms(runners: int) -> float:
    board = _board(runners)
    for number in range(1_000):
        board.session_changed(_tracked(_request(f"w{number:06d}", number)))
    _begin(board)
    times: list[float] = []
    for number in range(_UPDATES):
        ended, asked = f"r{number % runners:05d}-{number // runners:02d}", f"x{number:06d}"
        began = time.perf_counter()
        board.forget(ended)
        board.session_changed(_tracked(_request(asked, number)))
        _begin(board)
        times.append(1000 * (time.perf_counter() - began))
    return median(times)


def _begin(board: Board) -> None:
    for action in board.plan(at(1)).actions:
        assert isinstance(action, Lease | ColdLease)
        known = board.sessions[action.session_id]
        leased = lifecycle.apply(known.session, action.transition, at(1))
        board.session_changed(msgspec.structs.replace(known, session=leased, busy=True))


def _board(runners: int) -> Board:
    """Return a board with a fleet of which half is taken, that has planned once."""
    names = [f"r{number:05d}" for number in range(runners)]
    known = fleet(*(heartbeat(name, slots=_SLOTS, standby=2) for name in names))
    board = Board(known, PlanLimits(), _POLICY)
    for number, name in enumerate(names):
        for slot in range(_SLOTS // 2):
            session = _request(f"{name}-{slot:02d}", number + slot)
            lease = Leased(runner_id=name, epoch=1, expires_at=at(3600))
            board.session_changed(_tracked(lifecycle.apply(session, lease, T0)))
    board.plan(at(0.5))
    return board


def _request(session_id: str, number: int) -> Session:
    document = Session(
        id=session_id,
        tenant=f"t{number % _TENANTS}",
        agent=f"a{number % (3 * _TENANTS)}",
        bot="echo",
        accounts=("openai/main",),
        limits=Limits(queue_timeout_s=600),
        requested_at=T0,
        queue_deadline_at=T0,
    )
    return lifecycle.apply(None, Requested(session=document), at(number * 1e-6))


def _tracked(session: Session) -> Tracked:
    return Tracked(session=session, seen_at=T0, asked=True)
