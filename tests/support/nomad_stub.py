"""A Nomad for tests: its rules and its error texts, without clients, servers or time.

It decides at once what a cluster decides within milliseconds: an evaluation is complete when the answer to what caused
it is sent. Allocations run at once too, unless a test wants to see them pend (`auto_run`), and end as soon as they are
told to (`auto_end`). Texts and the order of checks are those of Nomad 2.0. `nomad_stub_http` serves it.
"""

import itertools
import json
import secrets
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Final
from uuid import uuid4

from tests.support.nomad_stub_jobs import StubAllocation, StubEvaluation, StubJob, job_from_json

# What a server keeps of its events by default.
EVENT_BUFFER: Final = 100
_MAX_PAYLOAD: Final = 16 * 1024
_ACTIVE: Final = frozenset({"running", "paused", "blocked", "unblocking", "initializing", "pending"})


class NomadError(Exception):
    """An answer other than a success: Nomad's errors are text/plain."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class NomadStub:
    """The state of one namespace, the calls on it, and what tests do to it.

    Attributes:
        version: that `/v1/agent/self` names.
        capacity: how many allocations have room; None: any number.
        exhausted: dimension that is said to be lacking when there is no room, and on how many nodes.
        auto_run: allocations run as soon as they are placed.
        auto_end: allocations end as soon as they are told to.
        events: what happened, as the event stream tells it, the last `EVENT_BUFFER` batches.
    """

    def __init__(self, *, namespace: str = "default") -> None:
        self.namespace = namespace
        self.version = "2.0.5"
        self.capacity: int | None = None
        self.exhausted: tuple[str, int] = ("memory", 3)
        self.auto_run = True
        self.auto_end = True
        self.jobs: dict[str, StubJob] = {}
        self.allocations: dict[str, StubAllocation] = {}
        self.evaluations: dict[str, StubEvaluation] = {}
        self.deployments: dict[str, dict[str, Any]] = {}
        self.events: deque[dict[str, Any]] = deque(maxlen=EVENT_BUFFER)
        self.index_of: dict[str, int] = {"Job": 1, "Allocation": 1, "Evaluation": 1, "Deployment": 1}
        self._index = itertools.count(10)

    # ------------------------------------------------------------------------ calls

    def register(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Register a job given as `POST /v1/jobs` takes it."""
        job = job_from_json(spec)
        known = self.jobs.get(job.id)
        job.create_index = known.create_index if known else self._next()
        self.jobs[job.id] = job
        self._job_changed(job, "JobRegistered")
        return self._answer(job, self._evaluate(job) if job.parameterized is None else None)

    def job(self, job_id: str) -> StubJob:
        """Return a job."""
        if job_id not in self.jobs:
            raise NomadError(404, "job not found")
        return self.jobs[job_id]

    def dispatch(self, job_id: str, body: dict[str, Any], token: str) -> dict[str, Any]:
        """Dispatch a parameterized job."""
        parent = self.jobs.get(job_id)
        if parent is None:
            raise NomadError(500, "parameterized job not found")
        if parent.parameterized is None:
            raise NomadError(500, f'Specified job "{job_id}" is not a parameterized job')
        if parent.stop:
            raise NomadError(500, f'Specified job "{job_id}" is stopped')
        meta: dict[str, str] = body.get("Meta") or {}
        parent.parameterized.check(meta, body.get("Payload") or "", _MAX_PAYLOAD)
        for known in self.jobs.values():
            if token and known.parent == job_id and known.token == token:
                return {**self._answer(known, None), "DispatchedJobID": known.id}
        prefix = f"{body['IdPrefixTemplate']}-" if body.get("IdPrefixTemplate") else ""
        child = StubJob(
            id=f"{job_id}/dispatch-{prefix}{int(time.time())}-{secrets.token_hex(4)}",
            type=parent.type,
            group=parent.group,
            count=1,
            parent=job_id,
            token=token,
            meta=meta,
            priority=body.get("Priority") or parent.priority,
            create_index=self._next(),
        )
        self.jobs[child.id] = child
        self._job_changed(child, "JobRegistered")
        return {**self._answer(child, self._evaluate(child)), "DispatchedJobID": child.id}

    def scale_status(self, job_id: str) -> dict[str, Any]:
        """Return how large a job's group is."""
        job = self.job(job_id)
        live = [each for each in self.allocations_of(job_id) if each.live]
        group = {"Desired": job.count, "Placed": len(live), "Running": sum(each.client == "running" for each in live)}
        return {"JobID": job_id, "JobStopped": job.stop, "TaskGroups": {job.group: group}}

    def scale(self, job_id: str, body: dict[str, Any]) -> dict[str, Any]:
        """Change the size of a job's group."""
        job, count = self.jobs.get(job_id), int(body["Count"])
        if body["Target"].get("Job", job_id) != job_id:
            raise NomadError(400, "job ID in payload did not match URL")
        if job is None:
            raise NomadError(404, f'job "{job_id}" not found')
        group = body["Target"].get("Group", "")
        if job.type == "system" and count > 1:
            raise NomadError(400, 'jobs of type "system" can only be scaled to 1 or 0')
        if group != job.group:
            raise NomadError(400, f'task group "{group}" specified for scaling does not exist in job')
        # Also where the scaling block says `enabled = false`.
        if count < job.minimum:
            raise NomadError(400, f"group count was less than scaling policy minimum: {count} < {job.minimum}")
        if job.maximum is not None and count > job.maximum:
            raise NomadError(400, f"group count was greater than scaling policy maximum: {count} > {job.maximum}")
        if self.deployments.get(job_id, {}).get("Status") in _ACTIVE:
            raise NomadError(400, "job scaling blocked due to active deployment")
        job.count = count
        job.version += 1
        self._job_changed(job, "JobRegistered")
        if job.updates:
            self.deploy(job_id)
        return {"EvalID": self._evaluate(job).id, "JobModifyIndex": job.modify_index, "Warnings": ""}

    def deregister(self, job_id: str) -> dict[str, Any]:
        """Stop a job."""
        job = self.job(job_id)
        job.stop = True
        job.status = "dead"
        self._job_changed(job, "JobDeregistered")
        return self._answer(job, self._evaluate(job))

    def allocations_of(self, job_id: str) -> list[StubAllocation]:
        """Return the allocations of a job, ended ones too."""
        return [each for each in self.allocations.values() if each.job_id == job_id]

    # ------------------------------------------------------------------------ what tests do to it

    def run(self, allocation: StubAllocation) -> None:
        """Have the client start an allocation."""
        self._set(allocation, client="running")

    def finish(self, allocation: StubAllocation, *, failed: bool = False) -> None:
        """Have the client end an allocation; one of a service is replaced, a dispatched job is dead with it."""
        self._set(allocation, client="failed" if failed else "complete")
        job = self.jobs[allocation.job_id]
        if job.parent:
            job.status = "dead"
        elif not job.stop:
            self._evaluate(job)

    def set_capacity(self, capacity: int | None) -> None:
        """Change how much room there is; what is blocked is looked at again."""
        self.capacity = capacity
        for blocked in [each for each in self.evaluations.values() if each.status == "blocked"]:
            self._evaluate(self.jobs[blocked.job_id], blocked)

    def deploy(self, job_id: str, status: str = "running") -> None:
        """Put the latest deployment of a job into a state."""
        self.deployments[job_id] = {"ID": str(uuid4()), "JobID": job_id, "Status": status, "TaskGroups": {}}
        self._publish("Deployment", "DeploymentStatusUpdate", job_id, {"Deployment": self.deployments[job_id]})

    def collect_garbage(self) -> None:
        """Forget dead jobs, and with them their tokens."""
        dead = {job.id for job in self.jobs.values() if job.status == "dead"}
        self.jobs = {id_: job for id_, job in self.jobs.items() if id_ not in dead}
        self.allocations = {id_: each for id_, each in self.allocations.items() if each.job_id not in dead}

    def forget_events(self) -> None:
        """Lose the event buffer, as a server does that restarts."""
        self.events.clear()

    def launched(self, launch_id: str) -> list[StubJob]:
        """Return the jobs that were dispatched with a token, dead ones too."""
        return [job for job in self.jobs.values() if job.token == launch_id]

    # ------------------------------------------------------------------------ deciding

    def _evaluate(self, job: StubJob, blocked: StubEvaluation | None = None) -> StubEvaluation:
        """Stop what is too much, place what is lacking, and block on what has no room."""
        wanted = 0 if job.stop else job.count
        live = {each.ordinal: each for each in self.allocations_of(job.id) if each.live and each.desired == "run"}
        for ordinal, allocation in sorted(live.items()):
            if ordinal >= wanted:
                self._set(allocation, desired="stop")
                if self.auto_end or allocation.client == "pending":
                    self._set(allocation, client="complete")
        missing = [ordinal for ordinal in range(wanted) if ordinal not in live]
        placed = [ordinal for ordinal in missing if self._place(job, ordinal)]
        if not job.stop:
            job.status = "pending" if wanted > len(live) + len(placed) and not live and not placed else "running"
        failed = len(placed) < len(missing)
        return self._decided(job, blocked, failed=failed)

    def _decided(self, job: StubJob, blocked: StubEvaluation | None, *, failed: bool) -> StubEvaluation:
        if blocked is not None and failed:
            return blocked
        for earlier in [each for each in self.evaluations.values() if each.job_id == job.id]:
            if earlier.status == "blocked" and earlier is not blocked:
                self._evaluated(earlier, "canceled")
        evaluation = blocked or StubEvaluation(id=str(uuid4()), job_id=job.id)
        self.evaluations[evaluation.id] = evaluation
        if failed:
            waiting = StubEvaluation(id=str(uuid4()), job_id=job.id, failed=self._metric(job))
            self.evaluations[waiting.id] = waiting
            self._evaluated(waiting, "blocked")
            evaluation.blocked = waiting.id
        evaluation.failed = self._metric(job) if failed else None
        self._evaluated(evaluation, "complete")
        return evaluation

    def _metric(self, job: StubJob) -> dict[str, Any]:
        dimension, nodes = self.exhausted
        return {
            job.group: {
                "NodesEvaluated": nodes,
                "NodesExhausted": nodes,
                "DimensionExhausted": {dimension: nodes},
                "ConstraintFiltered": None,
            }
        }

    def _place(self, job: StubJob, ordinal: int) -> bool:
        taken = sum(each.live for each in self.allocations.values())
        if self.capacity is not None and taken >= self.capacity:
            return False
        allocation = StubAllocation(
            id=str(uuid4()), job_id=job.id, group=job.group, ordinal=ordinal, create_time=time.time_ns()
        )
        self.allocations[allocation.id] = allocation
        self._set(allocation)
        if self.auto_run:
            self._set(allocation, client="running")
        return True

    # ------------------------------------------------------------------------ telling

    def since(self, index: int) -> Iterator[dict[str, Any]]:
        """Yield the batches that a subscription begins with: all from `index` on, or from the closest there is."""
        return iter([batch for batch in self.events if batch["Index"] >= index])

    def _set(self, allocation: StubAllocation, *, client: str | None = None, desired: str | None = None) -> None:
        allocation.client = client or allocation.client
        allocation.desired = desired or allocation.desired
        kind = "AllocationUpdated" if client else "PlanResult"
        allocation.modify_index = self._publish("Allocation", kind, allocation.id, allocation.json)

    def _evaluated(self, evaluation: StubEvaluation, status: str) -> None:
        evaluation.status = status
        self._publish("Evaluation", "EvaluationUpdated", evaluation.id, evaluation.json)

    def _job_changed(self, job: StubJob, kind: str) -> None:
        job.modify_index = self._publish("Job", kind, job.id, job.json)

    def _publish(self, topic: str, kind: str, key: str, what: Any) -> int:
        index = self._next()
        self.index_of[topic] = index
        payload = what if isinstance(what, dict) else {topic: what()}
        # As it is now: what is told must not change when the object does.
        payload = json.loads(json.dumps(payload))
        event = {"Topic": topic, "Type": kind, "Key": key, "Namespace": self.namespace, "Payload": payload}
        self.events.append({"Index": index, "Events": [event]})
        return index

    def _next(self) -> int:
        return next(self._index)

    def _answer(self, job: StubJob, evaluation: StubEvaluation | None) -> dict[str, Any]:
        return {
            "EvalID": evaluation.id if evaluation else "",
            "EvalCreateIndex": job.modify_index if evaluation else 0,
            "JobCreateIndex": job.create_index,
            "Index": job.modify_index,
        }
