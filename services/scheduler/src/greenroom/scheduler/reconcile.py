"""Where the ledger, the heartbeats and the launcher disagree about a pool, and what is done about each disagreement.

Every difference has one remedy and a time that it must have stood: all three are looked at from afar and in turn, so
most differences are only news that is still on its way. The table says it all. What only ledger and heartbeats can
disagree about (a runner that is lost, a session that its runner doesn't report) is a part of every plan, and not here.
"""

import enum
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec

from greenroom.common.lifecycle import Session, State
from greenroom.common.policy import PoolPolicy
from greenroom.scheduler.launchers.base import Instance
from greenroom.scheduler.pool_facts import PoolFacts, RunnerFacts, silent

type SessionOf = Callable[[str], Session | None]

# A remedy that hasn't helped is tried again after this long.
_AGAIN: Final = timedelta(seconds=30)


class Remedy(enum.StrEnum):
    """What is done about a difference."""

    TAKE_BACK = "take_back"
    """Put the session back into the queue (`Requeued`, launch-failed) rather than wait for its lease to run out."""

    CANCEL = "cancel"
    """Have the launcher end the launch (`Launcher.cancel`): nobody needs it, and it holds nobody's session."""

    RETIRE = "retire"
    """Have the launcher let the instance go (`Launcher.retire`): a former leader had told it to drain for that."""

    HOLD = "hold"
    """Say so, and do nothing to the instance: cut off from here, it may have calls. The cloud guard holds launches."""

    LEAVE = "leave"
    """Say so, and leave it to the runner, which reads the ledger of what it holds every few seconds, and ends it."""

    NOTE = "note"
    """Say so once. Nothing is wrong, but somebody who counts should know."""


class Difference(enum.StrEnum):
    """In what way two of the three disagree."""

    LAUNCH_GONE = "launch-gone"
    """A cold lease waits for a runner, and the launcher has nothing pending or running for it."""

    LEASE_GONE = "lease-gone"
    """The launcher runs something for a lease that the ledger doesn't have any more."""

    LAUNCHED_TWICE = "launched-twice"
    """The launcher runs two instances for one lease. Only one of them can claim it; the other ends by itself."""

    SILENT_INSTANCE = "silent-instance"
    """The launcher runs a baseline instance that no heartbeat comes from."""

    UNKNOWN_RUNNER = "unknown-runner"
    """Heartbeats come from a runner that the launcher doesn't know: started by hand, or by another launcher."""

    DRAINED_RUNNER = "drained-runner"
    """A baseline runner has drained, is empty, and still there."""

    HELD_AFTER_END = "held-after-end"
    """A runner holds a session that has ended, or is leased to somebody else."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What is done about a difference, and after how many seconds; None: the pool's cold-start deadline."""

    remedy: Remedy
    after_s: float | None


RULES: Final[Mapping[Difference, Rule]] = {
    # The launcher is asked each few seconds, and shows a launch a moment after it took it.
    Difference.LAUNCH_GONE: Rule(remedy=Remedy.TAKE_BACK, after_s=10.0),
    # It reads the ledger when it comes up and ends by itself: this is for the one that doesn't come up.
    Difference.LEASE_GONE: Rule(remedy=Remedy.CANCEL, after_s=15.0),
    Difference.LAUNCHED_TWICE: Rule(remedy=Remedy.NOTE, after_s=0.0),
    Difference.SILENT_INSTANCE: Rule(remedy=Remedy.HOLD, after_s=None),
    Difference.UNKNOWN_RUNNER: Rule(remedy=Remedy.NOTE, after_s=30.0),
    # One that drains because it is stopped ends seconds after it is empty; one that was told to drain stays.
    Difference.DRAINED_RUNNER: Rule(remedy=Remedy.RETIRE, after_s=60.0),
    # A runner looks into the ledger each 5 s, and an end takes up to `end_timeout_s`, 10 s by default.
    Difference.HELD_AFTER_END: Rule(remedy=Remedy.LEAVE, after_s=30.0),
}


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One difference and whom it concerns; `text` is for people."""

    difference: Difference
    text: str
    session_id: str | None = None
    epoch: int | None = None
    launch_id: str | None = None
    runner_id: str | None = None
    instance: Instance | None = None

    @property
    def remedy(self) -> Remedy:
        """What is done about it."""
        return RULES[self.difference].remedy

    @property
    def key(self) -> tuple[str, ...]:
        """What it is told from others by."""
        instance = self.instance.id if self.instance else ""
        return self.difference, self.session_id or "", self.launch_id or "", self.runner_id or "", instance


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """The differences there are: since when, and when each was last acted upon."""

    since: Mapping[tuple[str, ...], datetime] = {}
    acted_at: Mapping[tuple[str, ...], datetime] = {}


def differences(
    standing: Standing,
    session_of: SessionOf,
    facts: PoolFacts,
    policy: PoolPolicy,
    now: datetime,
    *,
    retiring: Collection[str] = (),
) -> tuple[Standing, tuple[Finding, ...]]:
    """Return the differences to act upon now, and what to remember for the next look.

    Nothing is concluded while heartbeats can't be heard or the launcher can't be asked.

    Args:
        standing: what the last look returned.
        session_of: returns the session of an id unless it has ended, by a ledger that was read to its end.
        facts: the pool.
        policy: how it is run; the runners of a pool that isn't scaled are its operator's to retire.
        now: the time.
        retiring: ids of runners whose retirement is under way (`PoolMemory.retiring`).
    """
    if not facts.hearing or facts.instances is None:
        return standing, ()
    fixed = facts.retires == "none" or not policy.maximum
    kept = {each.id for each in facts.runners} if fixed else frozenset(retiring)
    found = {finding.key: finding for finding in _found(session_of, facts, kept)}
    since = {key: min(standing.since.get(key, now), now) for key in found}
    deadline_s = policy.cold_deadline_s
    due = [finding for key, finding in found.items() if _is_due(finding, since[key], standing, now, deadline_s)]
    acted_at = {key: at for key, at in standing.acted_at.items() if key in found}
    return Standing(since=since, acted_at=acted_at | {each.key: now for each in due}), tuple(due)


def _is_due(finding: Finding, since: datetime, standing: Standing, now: datetime, cold_deadline_s: float) -> bool:
    rule = RULES[finding.difference]
    if now - since < timedelta(seconds=cold_deadline_s if rule.after_s is None else rule.after_s):
        return False
    acted_at = standing.acted_at.get(finding.key)
    if acted_at is None:
        return True
    # Saying it twice helps nobody.
    once = rule.remedy in {Remedy.NOTE, Remedy.HOLD, Remedy.LEAVE}
    return not once and now - acted_at >= _AGAIN


# ---------------------------------------------------------------------------- the looks


def _found(session_of: SessionOf, facts: PoolFacts, kept: Collection[str]) -> Iterator[Finding]:
    yield from _held(session_of, facts)
    # A fixed fleet has nobody to disagree with.
    if facts.launcher != "none":
        yield from _launches(session_of, facts)
        yield from _instances(facts)
        yield from _runners(facts, kept)


def _held(session_of: SessionOf, facts: PoolFacts) -> Iterator[Finding]:
    for runner in facts.runners:
        for session_id, epoch in runner.held:
            session = session_of(session_id)
            if session is None or session.epoch != epoch or session.runner_id != runner.id:
                yield Finding(
                    difference=Difference.HELD_AFTER_END,
                    text=f"runner {runner.id} holds session {session_id} in epoch {epoch}, which is over",
                    session_id=session_id,
                    epoch=epoch,
                    runner_id=runner.id,
                )


def _launches(session_of: SessionOf, facts: PoolFacts) -> Iterator[Finding]:
    shown: dict[str, list[Instance]] = {}
    for each in facts.up:
        if each.launch_id is not None:
            shown.setdefault(each.launch_id, []).append(each)
    claims = {each.claim: each for each in facts.runners if each.claim}
    for launch_id in facts.cold_leases - shown.keys() - claims.keys():
        session = _of_launch(session_of, launch_id)
        if session is not None:
            yield Finding(
                difference=Difference.LAUNCH_GONE,
                text=f"{facts.launcher} has nothing for the cold lease {launch_id}",
                session_id=session.id,
                epoch=session.epoch,
                launch_id=launch_id,
            )
    for launch_id, instances in shown.items():
        runner = claims.get(launch_id)
        # Whatever the ledger says: what holds a session isn't ended from here.
        if _of_launch(session_of, launch_id) is None and (runner is None or runner.empty):
            text = f"{facts.launcher} runs {instances[0].id} for the lease {launch_id}, which is over"
            yield Finding(difference=Difference.LEASE_GONE, text=text, launch_id=launch_id)
        if len(instances) > 1:
            text = f"{facts.launcher} runs {len(instances)} instances for the lease {launch_id}"
            yield Finding(difference=Difference.LAUNCHED_TWICE, text=text, launch_id=launch_id)


def _of_launch(session_of: SessionOf, launch_id: str) -> Session | None:
    """Return the session that a launch was made for while the lease is still that one."""
    session_id, _, epoch = launch_id.rpartition("-")
    session = session_of(session_id)
    current = session is not None and session.state is not State.REQUESTED and str(session.epoch) == epoch
    return session if current else None


def _instances(facts: PoolFacts) -> Iterator[Finding]:
    for each in silent(facts):
        if each.launch_id is None and each.state == "running":
            text = f"instance {each.id} runs by {facts.launcher}, and no heartbeat comes from it"
            yield Finding(difference=Difference.SILENT_INSTANCE, text=text, instance=each)


def _runners(facts: PoolFacts, kept: Collection[str]) -> Iterator[Finding]:
    instances = {each.id: each for each in facts.instances or ()}
    launches = {each.launch_id for each in facts.instances or () if each.launch_id}
    for runner in facts.runners:
        instance = instances.get(runner.instance)
        if instance is None and runner.claim not in launches:
            text = f"runner {runner.id} is heard, and {facts.launcher} doesn't know it"
            yield Finding(difference=Difference.UNKNOWN_RUNNER, text=text, runner_id=runner.id)
        elif instance is not None and _is_drained(runner, instance) and runner.id not in kept:
            text = f"runner {runner.id} has drained, is empty and still up"
            yield Finding(difference=Difference.DRAINED_RUNNER, text=text, runner_id=runner.id, instance=instance)


def _is_drained(runner: RunnerFacts, instance: Instance) -> bool:
    return runner.draining and runner.empty and instance.launch_id is None and instance.state == "running"
