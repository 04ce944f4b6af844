"""How a stack on one machine grows: the scheduler of `greenroom up` launches further runners as processes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import asyncpg
import structlog

from greenroom.common.clock import SystemClock
from greenroom.common.settings import load
from greenroom.recorder import database
from greenroom.runner.settings import RunnerSettings, default_slots
from greenroom.scheduler.launchers.process import stop_all

_log = structlog.get_logger()

LAUNCHER: Final = "GREENROOM_LAUNCHER"
FOLDER: Final = "GREENROOM_LAUNCHER_FOLDER"
_SLOTS: Final = "GREENROOM_SLOTS"
_TIMEOUT_S: Final = 10.0

# Beside the runner that is always up; a third of what they would take more of is the machine itself.
MAX_LAUNCHED: Final = 2
# A cold start takes 3 s on an idle machine, and 20 s beside others that start.
_COLD_DEADLINE_S: Final = 60.0
# Somebody who tries things out is to see the fleet shrink again.
_IDLE_RETIRE_S: Final = 60.0
_COOLDOWN_S: Final = 5.0


def slots_of(env: Mapping[str, str]) -> int:
    """Return how many slots a runner with these settings has, before it has measured what sessions cost.

    Raises:
        SettingsInvalid: it wouldn't start with them.
    """
    slots = load(RunnerSettings, {_SLOTS: env.get(_SLOTS, "")}).slots
    return default_slots() if slots == "auto" else slots


async def seed_policy(dsn: str, *, slots: int) -> None:
    """Let the pool `default` grow to three runners, unless anything has ever been decided about scheduling.

    Args:
        dsn: of a database with the current schema.
        slots: that a runner has here.

    Raises:
        DatabaseUnavailable: PostgreSQL doesn't answer.
    """
    connection: asyncpg.Connection = await database.connect(dsn, timeout_s=_TIMEOUT_S)
    try:
        with database.translated():
            await connection.execute(
                """
                INSERT INTO policy_pools (
                    name, maximum, max_runners, slots_per_runner,
                    cold_starts, cold_deadline_s, idle_retire_s, cooldown_s
                )
                SELECT 'default', $1::int * $2::int, $2::int, $1::int, $2::int, $3, $4, $5
                FROM policy_revision WHERE revision = 0
                """,
                slots,
                MAX_LAUNCHED,
                _COLD_DEADLINE_S,
                _IDLE_RETIRE_S,
                _COOLDOWN_S,
            )
    finally:
        await connection.close(timeout=_TIMEOUT_S)


async def end_launched(folder: Path, *, timeout_s: float) -> None:
    """End the runners that were launched; the scheduler that did so must have been stopped before."""
    killed = await stop_all(folder, clock=SystemClock(), timeout_s=timeout_s)
    if killed:
        _log.warning("runners_killed", count=killed)
