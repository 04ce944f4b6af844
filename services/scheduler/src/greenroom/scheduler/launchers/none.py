"""A fixed fleet: runners are started by somebody else, and nothing here starts or ends one."""

import asyncio
from collections.abc import Sequence

from greenroom.scheduler.launchers.base import ColdStart, Instance, LaunchRefused, Retires


class NoLauncher:
    """See `base.Launcher`; refuses whatever would change the fleet."""

    name = "none"
    retires: Retires = "none"

    async def cold_start(self, start: ColdStart) -> None:
        """Refuse.

        Raises:
            LaunchRefused: always, for good.
        """
        raise LaunchRefused(f"pool {start.pool} is a fixed fleet: GREENROOM_LAUNCHER is none")

    async def cancel(self, launch_id: str) -> None:
        """Do nothing: nothing was launched."""

    async def instances(self, pool: str) -> Sequence[Instance]:
        """Return nothing: who runs here only the heartbeats tell."""
        del pool
        return ()

    async def set_count(self, pool: str, count: int) -> None:
        """Refuse.

        Raises:
            LaunchRefused: always, for good.
        """
        raise LaunchRefused(f"pool {pool} can't be made {count} runners large: GREENROOM_LAUNCHER is none")

    async def retire(self, instance: Instance) -> None:
        """Refuse.

        Raises:
            LaunchRefused: always, for good.
        """
        raise LaunchRefused(f"instance {instance.id} isn't this launcher's: GREENROOM_LAUNCHER is none")

    def held_back(self, pool: str) -> str | None:
        """Return None: nothing is attempted that could be held back."""
        del pool

    async def run(self) -> None:
        """Wait until cancelled."""
        await asyncio.Event().wait()
