"""Which version of its agent a session gets, and when a canary has failed."""

import hashlib
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from greenroom.common.lifecycle import Session
from greenroom.common.policy import EACH, Policy, RolledBack, Rollout
from greenroom.scheduler.history import Trial

# The hash is read as a number below this.
_RANGE: Final = 2**64

# Tenant (of the rollout), agent and version.
type TrialKey = tuple[str, str, int]


class Share(NamedTuple):
    """Whose versions a session gets: those of a rollout, and whether it belongs to the canary's share; see `Rollouts`.

    Without a rollout it gets what is offered.
    """

    rollout: Rollout | None = None
    trial: bool = False


class Rollouts:
    """The rollouts of the policy, without the canaries that were rolled back.

    Args:
        policy: the policy.
        rolled_back: what was found about canaries so far.

    Attributes:
        rolled_back: trials that are over.
        withheld: trials that have failed by now.
    """

    def __init__(self, policy: Policy, rolled_back: Collection[RolledBack] = ()) -> None:
        self._rollouts = {(rollout.tenant, rollout.agent): rollout for rollout in policy.rollouts}
        self.rolled_back: set[TrialKey] = {(each.tenant, each.agent, each.version) for each in rolled_back}
        self.withheld: set[TrialKey] = set()

    def of(self, session: Session) -> Rollout | None:
        """Return the rollout of a session's agent: its tenant's own before one that all share."""
        if not self._rollouts:
            return None
        own = self._rollouts.get((session.tenant, session.agent))
        return own or self._rollouts.get((EACH, session.agent))

    def share(self, session: Session) -> Share:
        """Return which part of a rollout a session belongs to, whatever became of the canary."""
        rollout = self.of(session)
        if rollout is None or rollout.canary is None:
            return Share(rollout)
        return Share(rollout, _position(rollout, session) < rollout.canary_share)

    def versions(self, share: Share, offered: Sequence[int]) -> tuple[int, ...]:
        """Return the versions that sessions may get, the preferred one first.

        A canary that no runner offers yet, or any more, is given to nobody: nobody has to wait because of a trial. One
        that is offered and has no slot free is waited for, so that a key stays with its version.

        Args:
            share: whose.
            offered: versions of the bot that runners offer, newest first.
        """
        rollout = share.rollout
        if rollout is None:
            return tuple(offered)
        key = trial_key(rollout)
        over = key in self.rolled_back or key in self.withheld
        if share.trial and not over and rollout.canary is not None and rollout.canary in offered:
            return (rollout.canary,)
        return (rollout.current,)

    def trial(self, session: Session) -> TrialKey | None:
        """Return which trial the start of a session belongs to, or None when its version isn't under trial."""
        rollout = self.of(session)
        if rollout is None or rollout.canary != session.agent_version:
            return None
        return trial_key(rollout)

    def failed(self, trials: dict[TrialKey, Trial]) -> list[tuple[Rollout, Trial]]:
        """Return the canaries that are to be rolled back and aren't yet.

        One fails as soon as it can no longer pass: even if all starts up to `min_starts` went well from now on, the
        share of failed ones would be too large. With 3 failed of 5, when 2 of 10 may fail, there is nothing to wait
        for.
        """
        return [
            (rollout, trial)
            for _, rollout in sorted(self._rollouts.items())
            if (trial := trials.get(trial_key(rollout))) is not None
            and trial.failures > rollout.max_failure_rate * max(trial.starts, rollout.min_starts)
            and trial_key(rollout) not in self.rolled_back
        ]

    def keys(self) -> set[TrialKey]:
        """Return all trials that are going on, or were rolled back."""
        return {trial_key(rollout) for rollout in self._rollouts.values() if rollout.canary is not None}


def trial_key(rollout: Rollout) -> TrialKey:
    """Return the trial of a rollout's canary."""
    return rollout.tenant, rollout.agent, rollout.canary or 0


def rolled_back(rollout: Rollout, trial: Trial, now: datetime) -> RolledBack:
    """Return what is kept of a canary that failed."""
    return RolledBack(
        tenant=rollout.tenant,
        agent=rollout.agent,
        version=rollout.canary or 0,
        at=now,
        starts=trial.starts,
        failures=trial.failures,
    )


def _position(rollout: Rollout, session: Session) -> float:
    """Return where in [0, 1) the key of a session lies: evenly spread, anew for each canary, the same for each share.

    So a share that grows keeps those who have the canary already.
    """
    key = f"{rollout.agent}\0{rollout.canary}\0{session.sticky_key or session.id}"
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) / _RANGE
