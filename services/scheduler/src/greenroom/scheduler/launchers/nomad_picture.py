"""What Nomad has for the launcher, folded from lists and events. Pure.

A list holds everything up to its index, so events up to it are already in there; later ones are folded in.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from greenroom.scheduler.launchers import nomad_wire as wire
from greenroom.scheduler.launchers.base import Instance, InstanceState
from greenroom.scheduler.launchers.nomad_names import JobNames, launch_of, ordinal_of
from greenroom.scheduler.launchers.nomad_wire import Allocation, Evaluation, Event, EventBatch, Job, Listing, Metric

# An allocation `unknown` is on a node that Nomad has lost: Nomad itself replaces it, so it isn't counted on here.
_STATES: Final[dict[str, InstanceState]] = {"pending": "pending", "running": "running"}
_OVER: Final = frozenset({"complete", "failed", "lost"})


class NomadPicture:
    """Allocations, launches that have none yet, and what waits for room.

    Args:
        names: of the jobs.
    """

    def __init__(self, names: JobNames) -> None:
        self._names = names
        self._allocations: dict[str, Allocation] = {}
        self._launches: dict[str, datetime] = {}
        self._blocked: dict[str, str] = {}
        # Up to where lists have told everything, by topic.
        self._listed: dict[str, int] = {}

    def replace(self, allocations: Listing[Allocation], jobs: Listing[Job], blocked: Listing[Evaluation]) -> None:
        """Take lists for all there is."""
        self._allocations = {each.id: each for each in allocations.items if self._ours(each.job_id)}
        self._launches = {
            job.id: wire.at(job.submit_time)
            for job in jobs.items
            if launch_of(job.id) is not None and self._ours(job.id) and job.status != "dead" and not job.stop
        }
        self._blocked = {
            each.job_id: no_capacity(each.failed) for each in blocked.items if each.failed and self._ours(each.job_id)
        }
        self._listed = {"Allocation": allocations.index, "Job": jobs.index, "Evaluation": blocked.index}

    def note_launch(self, job_id: str, at: datetime) -> None:
        """Take in what was dispatched just now, before any list or event tells."""
        self._launches.setdefault(job_id, at)

    def note_evaluation(self, evaluation: Evaluation) -> None:
        """Take in what was decided on a launch just now; what has an allocation by now has found room."""
        if all(each.job_id != evaluation.job_id for each in self._allocations.values()):
            self._evaluation(evaluation)

    def apply(self, batch: EventBatch) -> None:
        """Fold the events of one line of the stream in.

        Raises:
            msgspec.MsgspecError: a payload isn't what its topic says.
        """
        for event in batch.events:
            if batch.index > self._listed.get(event.topic, 0):
                self._apply(event)

    def instances(self, pool: str) -> list[Instance]:
        """Return what is pending, running or stopping in a pool."""
        found = [_instance(each, pool) for each in self._allocations.values() if self._lives_in(each, pool)]
        with_allocation = {each.job_id for each in self._allocations.values()}
        found += [
            Instance(id=job_id, pool=pool, state="pending", launch_id=launch_of(job_id), ordinal=None, since=since)
            for job_id, since in self._launches.items()
            if job_id not in with_allocation and self._names.pool_of(job_id) == pool
        ]
        return found

    def held_back(self, pool: str) -> str | None:
        """Return why launches in a pool find no room, or None."""
        reasons = [text for job_id, text in self._blocked.items() if self._names.pool_of(job_id) == pool]
        if not reasons:
            return None
        return reasons[-1] if len(reasons) == 1 else f"{reasons[-1]} ({len(reasons)} wait)"

    def _lives_in(self, allocation: Allocation, pool: str) -> bool:
        return allocation.client_status in _STATES and self._names.pool_of(allocation.job_id) == pool

    def _ours(self, job_id: str) -> bool:
        return self._names.pool_of(job_id) is not None

    def _apply(self, event: Event) -> None:
        match event.topic:
            case "Allocation":
                self._allocation(wire.raw(event.payload, "Allocation", Allocation))
            case "Evaluation":
                self._evaluation(wire.raw(event.payload, "Evaluation", Evaluation))
            case "Job":
                self._job(event, wire.raw(event.payload, "Job", Job))
            case _:
                pass  # not asked for

    def _allocation(self, allocation: Allocation | None) -> None:
        if allocation is None or not self._ours(allocation.job_id):
            return
        if allocation.client_status in _OVER:
            self._allocations.pop(allocation.id, None)
            # Cold starts are never restarted nor rescheduled: with its allocation a launch is over.
            self._launches.pop(allocation.job_id, None)
            return
        self._allocations[allocation.id] = allocation
        if launch_of(allocation.job_id) is not None:
            self._blocked.pop(allocation.job_id, None)

    def _evaluation(self, evaluation: Evaluation | None) -> None:
        if evaluation is None or not self._ours(evaluation.job_id):
            return
        if evaluation.failed and evaluation.status in {"blocked", "complete"}:
            self._blocked[evaluation.job_id] = no_capacity(evaluation.failed)
        elif evaluation.status in {"complete", "canceled"}:
            self._blocked.pop(evaluation.job_id, None)

    def _job(self, event: Event, job: Job | None) -> None:
        if job is None or launch_of(job.id) is None or not self._ours(job.id):
            return
        if event.type in {"JobDeregistered", "JobBatchDeregistered"} or job.stop or job.status == "dead":
            self._launches.pop(job.id, None)
            self._blocked.pop(job.id, None)
        elif event.type == "JobRegistered":
            self._launches.setdefault(job.id, wire.at(job.submit_time))


def no_capacity(failed: dict[str, Metric]) -> str:
    """Return in words why groups couldn't be placed: "no capacity: memory exhausted on 3 nodes"."""
    return "no capacity: " + "; ".join(dict.fromkeys(_metric(metric) for metric in failed.values()))


def _metric(metric: Metric) -> str:
    parts = [f"quota exhausted: {quota}" for quota in metric.quota_exhausted or ()]
    parts += [f"{what} exhausted on {_nodes(count)}" for what, count in _sorted(metric.dimension_exhausted)]
    parts += [f"{what} leaves out {_nodes(count)}" for what, count in _sorted(metric.constraint_filtered)]
    if not parts and metric.nodes_evaluated == 0:
        return "no node is eligible"
    return ", ".join(parts) or f"{_nodes(metric.nodes_exhausted + metric.nodes_filtered)} don't fit"


def _sorted(counts: dict[str, int] | None) -> Iterable[tuple[str, int]]:
    return sorted((counts or {}).items(), key=lambda item: (-item[1], item[0]))


def _nodes(count: int) -> str:
    return f"{count} node" if count == 1 else f"{count} nodes"


def _instance(allocation: Allocation, pool: str) -> Instance:
    launch_id = launch_of(allocation.job_id)
    return Instance(
        id=allocation.id,
        pool=pool,
        state=_STATES[allocation.client_status] if allocation.desired_status == "run" else "stopping",
        launch_id=launch_id,
        ordinal=ordinal_of(allocation.name) if launch_id is None else None,
        since=wire.at(allocation.create_time),
    )
