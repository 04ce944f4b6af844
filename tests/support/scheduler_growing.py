"""A pool that grows, for tests of the shell with a virtual launcher."""

from typing import Any

from greenroom.common.lifecycle import Limits, Session
from greenroom.common.messages import Decision
from greenroom.common.policy import PoolPolicy
from tests.support.scheduler_rig import Rig
from tests.support.virtual_launcher import VirtualLauncher

PATIENT = Limits(queue_timeout_s=900)
# Until a scheduler has been hearing for long enough to tell a runner that is gone from one that it didn't hear.
HEARING_S = 8.0


async def growing(rig: Rig, *, launcher: dict[str, Any] | None = None, **pool: Any) -> VirtualLauncher:
    """Have a pool that launches, and a scheduler that leads."""
    known: dict[str, Any] = {"cold_starts": 2} | pool
    made = rig.virtual_launcher(**(launcher or {}))
    await rig.decree(pools=(PoolPolicy(name="default", **known),))
    rig.scheduler("one")
    await rig.clock.sleep(HEARING_S)
    return made


async def ask(rig: Rig, **fields: Any) -> Session:
    """Ask for a session that waits for long."""
    return await rig.request(limits=PATIENT, **fields)


async def said(rig: Rig, *kinds: str) -> list[Decision]:
    """Return the pool's decisions of some kinds, without those of a scheduler that has just begun to hear."""
    known = [each for each in await rig.pool_decisions() if "not-hearing" not in (each.reason, each.inputs.get("code"))]
    return [each for each in known if each.decision in kinds]
