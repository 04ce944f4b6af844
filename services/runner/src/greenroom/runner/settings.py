"""What the runner can be told from the environment."""

import os
import re
from typing import Annotated, Final

import msgspec

from greenroom.common.settings import Env, ServiceSettings

# 24 sessions hold per processor with p99 frame lateness below 6 ms (48 on two, measured with stub providers); real
# bots do more per frame than a stub, so the default stays at half of that.
_SLOTS_PER_CPU: Final = 12
# More idle processes than this only cost memory: one is forked in 20 ms while the next call is on its way.
_DEFAULT_STANDBY: Final = 4
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_NOT_TOKEN: Final = re.compile(r"[^A-Za-z0-9_-]")
_EXTRA_BOT: Final = re.compile(r"[A-Za-z0-9_-]{1,128}=[\w.]+:\w+")


def default_slots() -> int:
    """Return how many sessions this host takes by default: 12 for each processor it may use."""
    return _SLOTS_PER_CPU * len(os.sched_getaffinity(0))


class RunnerSettings(ServiceSettings, frozen=True, kw_only=True):
    """Settings of a runner."""

    pool: Annotated[str, Env(help="Pool that the runner belongs to")] = "default"
    slots: Annotated[int, msgspec.Meta(ge=1, le=512), Env(help="Sessions at once; default: 12 for each processor")] = (
        msgspec.field(default_factory=default_slots)
    )
    standby: Annotated[
        int, msgspec.Meta(ge=0, le=64), Env(help="Warm processes that wait for a session; never more than slots")
    ] = _DEFAULT_STANDBY
    bots: Annotated[
        tuple[str, ...],
        Env(help="Bots beside the installed entry points, as name=module:function; the module must be importable"),
    ] = ()
    warmup_timeout_s: Annotated[
        float, msgspec.Meta(gt=0, le=600), Env(help="How long importing, warming and rehearsing one bot may take")
    ] = 60.0
    drain_timeout_s: Annotated[
        float,
        msgspec.Meta(ge=0),
        Env(help="How long the calls of a stopping runner may go on; Nomad's kill_timeout must be longer"),
    ] = 3600.0

    def __post_init__(self) -> None:
        """Check what the types don't say.

        Raises:
            ValueError: the pool can't be part of a subject, or a bot isn't written as name=module:function.
        """
        if not _TOKEN.fullmatch(self.pool):
            raise ValueError(f"GREENROOM_POOL is {self.pool!r}: letters, digits, _ and - only, 128 at most")
        for bot in self.bots:
            if not _EXTRA_BOT.fullmatch(bot):
                raise ValueError(f"GREENROOM_BOTS has {bot!r} (expected: name=module:function)")

    @property
    def runner_id(self) -> str:
        """The instance id as part of a subject: the dots of a host name become dashes."""
        return _NOT_TOKEN.sub("-", self.instance_id)[:128]

    @property
    def standby_target(self) -> int:
        """How many warm processes are kept waiting, as long as there are slots for them."""
        return min(self.slots, self.standby)
