"""What a Nomad stub knows of: jobs, allocations, evaluations; each as Nomad's JSON has it."""

import base64
from dataclasses import dataclass, field
from typing import Any

_OVER = frozenset({"complete", "failed", "lost"})


class Refused(Exception):
    """A dispatch that doesn't fit its job: 500, as text."""


@dataclass
class Parameterized:
    """The `parameterized` block of a job."""

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    payload: str = "optional"

    def check(self, meta: dict[str, str], payload: str, max_payload: int) -> None:
        """Check what is dispatched, in Nomad's order.

        Raises:
            Refused: it doesn't fit.
        """
        size = len(base64.b64decode(payload))
        if self.payload == "required" and not size:
            raise Refused("Payload is not provided but required by parameterized job")
        if self.payload == "forbidden" and size:
            raise Refused("Payload provided but forbidden by parameterized job")
        if size > max_payload:
            raise Refused(f"Payload exceeds maximum size; {size} > {max_payload}")
        unpermitted = [key for key in meta if key not in (*self.required, *self.optional)]
        if unpermitted:
            raise Refused(f"Dispatch request included unpermitted metadata keys: [{' '.join(unpermitted)}]")
        missing = [key for key in self.required if key not in meta]
        if missing:
            raise Refused(f"Dispatch did not provide required meta keys: [{' '.join(missing)}]")


@dataclass
class StubJob:
    """A job with one group. `updates`: it has an update block, so that each change of it starts a deployment."""

    id: str
    type: str = "service"
    group: str = "runner"
    count: int = 0
    minimum: int = 0
    maximum: int | None = None
    updates: bool = False
    parameterized: Parameterized | None = None
    parent: str = ""
    token: str = ""
    meta: dict[str, str] = field(default_factory=dict[str, str])
    priority: int = 50
    status: str = "running"
    stop: bool = False
    version: int = 0
    create_index: int = 0
    modify_index: int = 0
    submit_time: int = 1_767_225_600_000_000_000

    def json(self) -> dict[str, Any]:
        """Return it as a list, a job or an event has it."""
        return {
            "ID": self.id,
            "ParentID": self.parent,
            "Name": self.id,
            "Type": self.type,
            "Priority": self.priority,
            "Status": self.status,
            "Stop": self.stop,
            "SubmitTime": self.submit_time,
            "Meta": self.meta,
            "CreateIndex": self.create_index,
            "ModifyIndex": self.modify_index,
        }


@dataclass
class StubAllocation:
    """An allocation; its states as the client reports them, and as the servers want them."""

    id: str
    job_id: str
    group: str
    ordinal: int
    create_time: int
    client: str = "pending"
    desired: str = "run"
    modify_index: int = 0

    @property
    def live(self) -> bool:
        """Whether it takes up room."""
        return self.client not in _OVER

    def json(self) -> dict[str, Any]:
        """Return it as a list or an event has it."""
        return {
            "ID": self.id,
            "Name": f"{self.job_id}.{self.group}[{self.ordinal}]",
            "JobID": self.job_id,
            "TaskGroup": self.group,
            "ClientStatus": self.client,
            "DesiredStatus": self.desired,
            "CreateTime": self.create_time,
            "ModifyIndex": self.modify_index,
        }


@dataclass
class StubEvaluation:
    """An evaluation; `failed` says why something has no room, by group."""

    id: str
    job_id: str
    status: str = "pending"
    blocked: str = ""
    failed: dict[str, Any] | None = None

    def json(self) -> dict[str, Any]:
        """Return it as a list, an evaluation or an event has it."""
        return {
            "ID": self.id,
            "JobID": self.job_id,
            "Status": self.status,
            "BlockedEval": self.blocked,
            "FailedTGAllocs": self.failed,
        }


def job_from_json(spec: dict[str, Any]) -> StubJob:
    """Return the job that a specification in JSON (`POST /v1/jobs`) describes."""
    job, group = spec["Job"], spec["Job"]["TaskGroups"][0]
    block = job.get("ParameterizedJob")
    scaling = group.get("Scaling") or {}
    return StubJob(
        id=job["ID"],
        type=job.get("Type", "service"),
        group=group["Name"],
        count=group.get("Count", 1),
        minimum=scaling.get("Min", 0),
        maximum=scaling.get("Max"),
        updates=bool((group.get("Update") or {}).get("MaxParallel")),
        priority=job.get("Priority", 50),
        parameterized=None
        if block is None
        else Parameterized(
            required=tuple(block.get("MetaRequired") or ()),
            optional=tuple(block.get("MetaOptional") or ()),
            payload=block.get("Payload") or "optional",
        ),
    )
