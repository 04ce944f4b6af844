"""A scenario: a fleet, what operators decided, who calls, and what goes wrong. A TOML file, checked as a whole."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from greenroom.common.errors import FieldProblem, GreenroomError
from greenroom.common.lifecycle import OnLoss, Priority
from greenroom.common.policy import Share
from greenroom.devtools.sim.faults import Fault, LauncherAway, LauncherSlow, Partition, RunnerLoss
from greenroom.devtools.sim.spans import Constant, Lognormal, Positive, Seconds, Span
from greenroom.devtools.sim.strict import StrictPlanLimits, StrictPolicy

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

    A pool may have several kinds, e.g. of two versions; what is launched is of the first.

    Attributes:
        name: of the pool.
        runners: how many.
        slots: of each, those that are launched later too.
        standby: warm processes that each keeps.
        refill: until one that was taken is replaced.
        warm_start: from the claim to `ready` in a warm process.
        fork_start: the same when none was warm.
        bots: that they offer.
        fits: runners measure what sessions cost, and take so many of a bot at most, if of no other; a bot that isn't
            named costs what the dearest does. `slots` are the most then, whichever they are of. Empty: they are told.
        bot_version: in which version.
        start_failures: share of the sessions that fail instead of becoming ready.
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
    fits: dict[str, AtLeastOne] = {}
    bot_version: AtLeastOne = 1
    start_failures: Share = 0.0
    labels: dict[str, str] = {}


class Launcher(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What starts and ends runners.

    Attributes:
        cold_start: from the order of a runner to its first heartbeat.
        retires: which instances of a group it lets go.
        notices_s: until it sees that a runner is gone with its host, and replaces it if it was of a group.
    """

    cold_start: Span = Lognormal(median_s=12.0, p95_s=25.0)
    retires: Literal["any", "last", "none"] = "any"
    notices_s: Seconds = 10.0


# ---------------------------------------------------------------------------- who calls


class Steady(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="constant"):
    """Callers who don't know of one another: a Poisson process of one rate; `regular`: one after the other."""

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
    scheduler: StrictPlanLimits = StrictPlanLimits()
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
    pools = {each.name for each in scenario.pools}
    for number, pool in enumerate(scenario.policy.pools):
        if pool.name not in pools:
            yield f"policy.pools[{number}].name", f"there is no pool {pool.name}"
    for number, callers in enumerate(scenario.callers):
        for field, what in _odd_callers(scenario, callers, pools):
            yield f"callers[{number}].{field}", what
    for number, fault in enumerate(scenario.faults):
        for field, what in _odd_fault(scenario, fault, pools):
            yield f"faults[{number}].{field}", what


def _odd_callers(scenario: Scenario, callers: Callers, pools: set[str]) -> Iterator[tuple[str, str]]:
    when = callers.when
    if callers.pool not in pools:
        yield "pool", f"there is no pool {callers.pool}"
    if callers.ends_s is not None and callers.ends_s <= callers.begins_s:
        yield "ends_s", "it isn't after begins_s"
    if isinstance(when, Recorded) and not Path(scenario.folder, when.file).is_file():
        yield "when.file", f"there is no file {when.file}"
    if isinstance(when, Diurnal) and when.low_per_s > when.peak_per_s:
        yield "when.low_per_s", "it is above peak_per_s"


def _odd_fault(scenario: Scenario, fault: Fault, pools: set[str]) -> Iterator[tuple[str, str]]:
    if isinstance(fault, RunnerLoss | Partition) and fault.pool not in pools:
        yield "pool", f"there is no pool {fault.pool}"
    if isinstance(fault, Partition | LauncherAway | LauncherSlow) and fault.to_s <= fault.from_s:
        yield "to_s", "it isn't after from_s"
    if isinstance(fault, LauncherAway | LauncherSlow) and scenario.launcher is None:
        yield "kind", "there is no launcher"
