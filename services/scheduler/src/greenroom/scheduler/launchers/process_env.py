"""The environment that a scheduler hands to the runners it starts: its own, less what is only its own."""

import sys
from collections.abc import Mapping, Sequence
from typing import Final

# Settings of the scheduler, and its credentials for other launchers.
_OWN_PREFIXES: Final = ("GREENROOM_SCHEDULER_", "GREENROOM_LAUNCHER", "GREENROOM_NOMAD_", "NOMAD_")
# What must not be the same for two processes, and what only a launcher says.
_PER_PROCESS: Final = frozenset(
    {
        "GREENROOM_INSTANCE_ID",
        "GREENROOM_INSTANCE",
        "GREENROOM_ORDINAL",
        "GREENROOM_CLAIM",
        "GREENROOM_POOL",
        "GREENROOM_HEALTH_PORT",
    }
)


def runner_command() -> Sequence[str]:
    """Return the arguments that start a runner, in the interpreter that runs this."""
    return (sys.executable, "-m", "greenroom.runner")


def runner_env(
    own: Mapping[str, str], *, instance_id: str, pool: str, ordinal: int | None = None, claim: str | None = None
) -> dict[str, str]:
    """Return the environment of one runner.

    Args:
        own: that of the scheduler.
        instance_id: what the launcher knows it by, and its id as a runner.
        pool: it belongs to.
        ordinal: its place in the baseline group, if it is of one.
        claim: the session it is for, `TENANT/SESSION_ID/EPOCH`, if it is for one.
    """
    env = {
        name: value for name, value in own.items() if name not in _PER_PROCESS and not name.startswith(_OWN_PREFIXES)
    }
    env |= {
        "GREENROOM_INSTANCE_ID": instance_id,
        "GREENROOM_INSTANCE": instance_id,
        "GREENROOM_POOL": pool,
        # Any free one: several run on this host. The runner's log has it.
        "GREENROOM_HEALTH_PORT": "0",
        # Its output goes to a file, which is read while it runs.
        "PYTHONUNBUFFERED": "1",
    }
    if ordinal is not None:
        env["GREENROOM_ORDINAL"] = str(ordinal)
    if claim is not None:
        env["GREENROOM_CLAIM"] = claim
    return env
