"""What may go wrong in a scenario."""

import msgspec

from greenroom.common.policy import Share
from greenroom.devtools.sim.spans import Positive, Seconds


class RunnerLoss(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="runner_loss"
):
    """A share of the runners is gone at once, calls and all; without a launcher they are back after `back_s`."""

    at_s: Seconds
    share: Share
    pool: str = "default"
    back_s: Positive | None = None


class Partition(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="partition"
):
    """A share of the runners can't be heard and hears nothing, while its calls go on."""

    from_s: Seconds
    to_s: Positive
    share: Share
    pool: str = "default"


class LauncherAway(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="launcher_away"
):
    """The launcher doesn't answer, and starts nothing that it was asked for before."""

    from_s: Seconds
    to_s: Positive


class LauncherSlow(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="launcher_slow"
):
    """Whatever is launched in that time takes `times` as long."""

    from_s: Seconds
    to_s: Positive
    times: Positive


class LeaderChange(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="leader_change"
):
    """The leader is killed, with what it was about to do; a stand-by takes over after `gap_s`."""

    at_s: Seconds
    gap_s: Positive = 3.0


type Fault = RunnerLoss | Partition | LauncherAway | LauncherSlow | LeaderChange
