"""A fleet that is heard without anybody speaking: ten thousand heartbeats a virtual second would be all one simulated.

A runner speaks when something about it changes. From then on nothing happens to it until something is done to it (it
starts or ends a call, is lost, is cut off), so what its heartbeats would say each second is known, and when they would
end isn't yet: `Heard.heard_at` simply moves with the clock. Whoever makes a runner fall silent says so
(`HearingFleet.silenced`), and then the true time of its last heartbeat stands there. What the core concludes, and when,
is the same to the second.

That holds as long as runners report a session before they write its claim, and until they have written its end, which
those of the simulation do: for how long one is missing from heartbeats can't be told from a time that moves.
"""

from datetime import datetime, timedelta
from typing import Any, Final

from greenroom.common.messages import Heartbeat
from greenroom.devtools.sim.clockwork import Clockwork
from greenroom.scheduler.fleet import Fleet, Runner, RunnerKey

# The board looks at each runner again when it would be lost if it hadn't been heard: each 6 s. A runner that speaks on
# is taken to have been heard ahead of the time, and so looked at once an hour, until it is silenced.
_AHEAD: Final = timedelta(hours=1)


class Heard(Runner, frozen=True, kw_only=True):
    """A runner that speaks on, whatever the time is."""

    clock: Clockwork

    @property
    def heard_at(self) -> datetime:  # pyright: ignore[reportIncompatibleVariableOverride] - a field there, told here
        """When it was last heard, somewhat ahead of the time."""
        return self.clock.now() + _AHEAD

    @property
    def up_s(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How long it has been up, in seconds."""
        return (self.clock.now() - self.process_started_at).total_seconds()


class HearingFleet(Fleet):
    """See the module.

    Args:
        clock: virtual time.
    """

    def __init__(self, clock: Clockwork) -> None:
        super().__init__()
        self._clock = clock

    def heard(self, heartbeat: Heartbeat, now: datetime) -> bool:
        """Take in a heartbeat, which those that follow each second will repeat."""
        news = super().heard(heartbeat, now)
        if news:
            key = (heartbeat.pool, heartbeat.runner_id)
            self._runners[key] = Heard(clock=self._clock, **_fields(self._runners[key]))
        return news

    def silenced(self, key: RunnerKey, heard_at: datetime) -> bool:
        """Take in that a runner was heard then for the last time; return whether it was heard at all."""
        known = self._runners.get(key)
        if known is not None:
            up_s = max((heard_at - known.process_started_at).total_seconds(), 0.0)
            fields = _fields(known)
            fields.update(heard_at=heard_at, up_s=up_s)
            self._runners[key] = Runner(**fields)
            # They are in the order in which they were last heard, and all that speak on are ahead of it.
            self._runners.move_to_end(key, last=False)
        return known is not None


def _fields(runner: Runner) -> dict[str, Any]:
    return {name: getattr(runner, name) for name in Runner.__struct_fields__}
