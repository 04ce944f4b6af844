"""A scenario: a fleet, what operators decided, who calls, and what goes wrong. A TOML file, checked as a whole."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from greenroom.common.errors import FieldProblem, GreenroomError
from greenroom.common.lifecycle import OnLoss, Priority
from greenroom.common.policy import Limit, Policy, PoolPolicy, Reservation, Rollout, Schedule, Share
from greenroom.devtools.sim.spans import Constant, Lognormal, Positive, Seconds, Span
from greenroom.scheduler.settle import PlanLimits

type Count = Annotated[int, msgspec.Meta(ge=0)]
type AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]

SHIPPED: Final = Path(__file__).parent / "scenarios"
# A Monday.
_BEGINS: Final = datetime(2026, 1, 5, tzinfo=UTC)
_AT: Final = re.compile(r"(?P<what>.*) - at `\$\.?(?P<where>[^`]*)`", re.DOTALL)


class ScenarioInvalid(GreenroomError):
    """A scenario file can't be read, isn't TOML, or says something that makes no sense; the detail names the field.

    `docs/simulation.md` has the fields; the shipped scenarios are examples.
    """

    code = "scenario-invalid"
    status = 422
    title = "The scenario can't be simulated"


# ---------------------------------------------------------------------------- the fleet


class Latency(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long the parts take that are always the same, in milliseconds."""

    # From the wake-up of the scheduler to its plan; what comes within is planned together.
    plan_ms: Seconds = 1.0
    ledger_ms: Seconds = 1.0
    # From the lease to the runner's answer and claim.
    claim_ms: Seconds = 3.0


class Pool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Runners of one kind that are up when the scenario begins.

    Attributes:
        name: of the pool.
        runners: how many.
        slots: of each, those that are launched later too.
        standby: warm processes that each keeps.
        refill: until one that was taken is replaced.
        warm_start: from the claim to `ready` in a warm process.
        fork_start: the same when none was warm.
        bots: that they offer.
        bot_version: in which version.
        labels: that they have.
    """

    name: str = "default"
    runners: Count = 0
    slots: AtLeastOne = 1
    standby: Count = 1
    refill: Span = Constant(s=0.5)
    warm_start: Span = Constant(s=0.02)
    fork_start: Span = Constant(s=1.0)
    bots: tuple[str, ...] = ("echo",)
    bot_version: AtLeastOne = 1
    labels: dict[str, str] = {}


class Launcher(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What starts and ends runners.

    Attributes:
        cold_start: from the order of a runner to its first heartbeat.
        retires: which instances of a group it lets go.
        notices_s: until it begins to replace a runner of a group that is lost.
    """

    cold_start: Span = Lognormal(median_s=12.0, p95_s=25.0)
    retires: Literal["any", "last", "none"] = "any"
    notices_s: Seconds = 10.0


# ---------------------------------------------------------------------------- who calls


class Steady(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="constant"):
    """Callers who don't know of one another: a Poisson process of one rate; `regular`: one after the other by the clock."""

    per_s: Positive
    regular: bool = False


class Diurnal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="diurnal"):
    """A day: the rate swings between `low_per_s` and `peak_per_s`, which it reaches at `peak_hour` (UTC).

    With a higher `sharpness` the peak is narrower; 1 is a plain cosine.
    """

    low_per_s: Seconds = 0.0
    peak_per_s: Positive
    peak_hour: Annotated[float, msgspec.Meta(ge=0, lt=24)] = 12.0
    sharpness: Positive = 1.0


class Burst(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="burst"):
    """A steady rate that is `times` as high for `for_s` seconds."""

    per_s: Positive
    at_s: Seconds
    for_s: Positive
    times: Positive


class Recorded(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="recorded"):
    """Times from a file, one a line, in seconds from the beginning; the path is relative to the scenario's."""

    file: str


class Callers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sessions that are alike but for when they come and how long they take.

    `begins_s` and `ends_s`: nobody of them calls before and after. `patience_s` is `limits.queue_timeout_s` of the
    sessions.
    """

    when: Steady | Diurnal | Burst | Recorded
    length: Span = Lognormal(median_s=120.0, p95_s=600.0)
    patience_s: Positive = 30.0
    begins_s: Seconds = 0.0
    ends_s: Seconds | None = None
    tenant: str = "default"
    agent: str = "echo"
    bot: str = "echo"
    pool: str = "default"
    priority: Priority = Priority.NORMAL
    on_loss: OnLoss = OnLoss.BEFORE_MEDIA
    requires: dict[str, str] = {}
    prefers: dict[str, str] = {}
    accounts: tuple[str, ...] = ()
    carrier: str | None = None


# ---------------------------------------------------------------------------- what goes wrong


class RunnerLoss(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="runner_loss"
):
    """A share of the runners is gone at once, with all that they run. Without a launcher they are back after `back_s`."""

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


# ---------------------------------------------------------------------------- what operators decided


class _Limit(Limit, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _Schedule(Schedule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _PoolPolicy(PoolPolicy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    schedules: tuple[_Schedule, ...] = ()


class _Reservation(Reservation, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _Rollout(Rollout, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class StrictPolicy(Policy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The policy, of which a misspelt field is an error."""

    limits: tuple[_Limit, ...] = ()
    pools: tuple[_PoolPolicy, ...] = ()
    reservations: tuple[_Reservation, ...] = ()
    rollouts: tuple[_Rollout, ...] = ()


class _PlanLimits(PlanLimits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it.

    Attributes:
        title: one line.
        about: what there is to see.
        seed: of all chance; the same seed gives the same figures.
        begins: what the clocks show at the beginning.
        duration_s: until nobody calls any more; then what is there comes to its end.
        look_s: how often capacity is assessed; every second in a scheduler, less often for a fleet so large that the
            simulation would do little else.
        launcher: without one the fleet stays as it is.
        scheduler: its patience (`PlanLimits`).
    """

    title: str
    about: str = ""
    seed: int = 1
    begins: datetime = _BEGINS
    duration_s: Positive
    look_s: Positive = 1.0
    latency: Latency = Latency()
    pools: tuple[Pool, ...] = ()
    launcher: Launcher | None = None
    scheduler: _PlanLimits = _PlanLimits()
    policy: StrictPolicy = StrictPolicy()
    callers: Annotated[tuple[Callers, ...], msgspec.Meta(min_length=1)]
    faults: tuple[Fault, ...] = ()
    # Where recorded times are looked for; set by `load`.
    folder: str = ""


# ---------------------------------------------------------------------------- reading


def shipped() -> dict[str, Path]:
    """Return the scenarios that come with Greenroom, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def load(name: str) -> Scenario:
    """Return a scenario by the path of its file, or by the name of one that is shipped.

    Raises:
        ScenarioInvalid: there is none, or there is something wrong with it.
    """
    path = Path(name)
    if not path.exists():
        known = shipped()
        if name not in known:
            raise ScenarioInvalid(f"there is no file {name}, and no such scenario is shipped: {', '.join(known)}")
        path = known[name]
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ScenarioInvalid(f"{path} can't be read: {error.strerror}") from error
    return parse(text, str(path), folder=path.parent)


def parse(text: bytes, name: str, *, folder: Path | None = None) -> Scenario:
    """Return the scenario in a TOML text.

    Args:
        text: UTF-8.
        name: for the error.
        folder: where recorded times are looked for.

    Raises:
        ScenarioInvalid: see there.
    """
    try:
        scenario = msgspec.toml.decode(text, type=Scenario)
    except msgspec.ValidationError as error:
        found = _AT.fullmatch(str(error))
        raise _invalid(name, found["where"] if found else "", found["what"] if found else str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ScenarioInvalid(f"{name} isn't TOML: {error}") from error
    if scenario.begins.tzinfo is None:
        raise _invalid(name, "begins", "it has no time zone: write 2026-01-05T00:00:00Z")
    scenario = msgspec.structs.replace(scenario, folder=str(folder) if folder else "")
    for where, what in _contradictions(scenario):
        raise _invalid(name, where, what)
    return scenario


def _invalid(name: str, where: str, what: str) -> ScenarioInvalid:
    pointer = "".join(f"/{part}" for part in re.split(r"[.\[\]]+", where) if part)
    text = f"{name}: {where}: {what}" if where else f"{name}: {what}"
    return ScenarioInvalid(text, errors=(FieldProblem(pointer=pointer, detail=what),))


def _contradictions(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """Yield what can be read and makes no sense: where, and why."""
    pools = [each.name for each in scenario.pools]
    if len(set(pools)) < len(pools):
        yield "pools", "two have the same name"
    for number, callers in enumerate(scenario.callers):
        where = f"callers[{number}]"
        if callers.pool not in pools:
            yield f"{where}.pool", f"there is no pool {callers.pool}"
        if callers.ends_s is not None and callers.ends_s <= callers.begins_s:
            yield f"{where}.ends_s", "it isn't after begins_s"
        if isinstance(callers.when, Recorded) and not Path(scenario.folder, callers.when.file).is_file():
            yield f"{where}.when.file", f"there is no file {callers.when.file}"
        if isinstance(callers.when, Diurnal) and callers.when.low_per_s > callers.when.peak_per_s:
            yield f"{where}.when.low_per_s", "it is above peak_per_s"
    for number, fault in enumerate(scenario.faults):
        where = f"faults[{number}]"
        if isinstance(fault, RunnerLoss | Partition) and fault.pool not in pools:
            yield f"{where}.pool", f"there is no pool {fault.pool}"
        if isinstance(fault, Partition | LauncherAway | LauncherSlow) and fault.to_s <= fault.from_s:
            yield f"{where}.to_s", "it isn't after from_s"
        if isinstance(fault, LauncherAway | LauncherSlow) and scenario.launcher is None:
            yield where, "there is no launcher"
    for number, pool in enumerate(scenario.policy.pools):
        if pool.name not in pools:
            yield f"policy.pools[{number}].name", f"there is no pool {pool.name}"
