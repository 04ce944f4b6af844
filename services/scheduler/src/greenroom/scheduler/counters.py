"""What the scheduler counts."""

from collections.abc import Mapping
from typing import Final

from greenroom.common.metrics import Metrics
from greenroom.common.reasons import Reason

_PLAN_BUCKETS_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)
# The reasons for which a plan leaves a session waiting.
_WAITING: Final = (
    Reason.NO_FREE_SLOT,
    Reason.NO_RUNNER_FOR_AGENT,
    Reason.RUNNER_LACKS_SECRET,
    Reason.RUNNER_DRAINING,
    Reason.RUNNER_OVERLOADED,
    Reason.RUNNER_REFUSED,
    Reason.TENANT_LIMIT,
    Reason.LIMIT_REACHED,
    Reason.STARTS_LIMIT,
)


class Counters:
    """The metrics of a scheduler."""

    def __init__(self, metrics: Metrics) -> None:
        self.placed = metrics.counter("scheduler_placed", "Leases that a runner has accepted", ["pool"])
        self.refused = metrics.counter(
            "scheduler_refused", "Starts that weren't accepted, by the runner's code", ["code"]
        )
        self.requeued = metrics.counter("scheduler_requeued", "Sessions put back into the queue", ["reason"])
        self.ended = metrics.counter("scheduler_ended", "Sessions that a scheduler ended", ["outcome", "reason"])
        self.failed = metrics.counter("scheduler_actions_failed", "Actions that came to nothing", ["code"])
        self.waited = metrics.histogram(
            "scheduler_wait_seconds", "From the request of a session to its lease", ["pool"]
        )
        self.plan = metrics.histogram("scheduler_plan_seconds", "Time to make a plan", buckets=_PLAN_BUCKETS_S)
        self.corrupt = metrics.counter("scheduler_ledger_corrupt", "Messages read from the ledger that are no entries")
        self.leader = metrics.gauge("scheduler_leader", "1 while this scheduler leads")
        self._waiting = metrics.gauge("scheduler_waiting", "Sessions that wait, by reason (of the leader)", ["reason"])
        self.leader.set(0)

    def waiting(self, counts: Mapping[Reason, int]) -> None:
        """Show how many sessions wait for what."""
        for reason in _WAITING:
            self._waiting.set(counts.get(reason, 0), reason=reason)
