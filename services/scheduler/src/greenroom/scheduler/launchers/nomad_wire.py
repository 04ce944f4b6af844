"""What of Nomad's HTTP API is read, and what is sent: the fields that are used, under their names there."""

from datetime import UTC, datetime
from typing import Any, Final

import msgspec

# Meta keys of a dispatch. The parameterized job must name exactly these as `meta_required`: Nomad refuses others.
META_TENANT: Final = "tenant"
META_SESSION_ID: Final = "session_id"
META_LEASE_ID: Final = "lease_id"
META_EPOCH: Final = "epoch"
META_KEYS: Final = (META_TENANT, META_SESSION_ID, META_LEASE_ID, META_EPOCH)

# States of a deployment during which Nomad refuses to scale its job.
ACTIVE_DEPLOYMENT: Final = frozenset({"running", "paused", "blocked", "unblocking", "initializing", "pending"})


class Dispatch(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Body of `POST /v1/job/{id}/dispatch`; the idempotency token is a query parameter."""

    meta: dict[str, str]
    # Begins the part of the child's ID behind `/dispatch-`: the child is found by it even if the answer is lost.
    id_prefix_template: str
    priority: int


class Dispatched(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to it; a repeated token gets the first child's ID, and no evaluation."""

    job_id: str = msgspec.field(name="DispatchedJobID")
    eval_id: str = msgspec.field(name="EvalID", default="")


class Metric(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Why a group couldn't be placed."""

    nodes_evaluated: int = 0
    nodes_filtered: int = 0
    nodes_exhausted: int = 0
    # Nodes with too little of it, by dimension: `memory`, `cpu`, `cores`, `devices`, a port.
    dimension_exhausted: dict[str, int] | None = None
    # Nodes that a constraint leaves out, by constraint.
    constraint_filtered: dict[str, int] | None = None
    quota_exhausted: list[str] | None = None


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """A decision of Nomad's scheduler; `blocked`: it waits for room."""

    id: str = msgspec.field(name="ID")
    job_id: str = msgspec.field(name="JobID")
    status: str = msgspec.field(name="Status")
    blocked_eval: str = msgspec.field(name="BlockedEval", default="")
    failed: dict[str, Metric] | None = msgspec.field(name="FailedTGAllocs", default=None)


class Allocation(msgspec.Struct, frozen=True, kw_only=True):
    """A runner of Nomad's; `name` is `{job}.{group}[{ordinal}]`, times are in ns since 1970."""

    id: str = msgspec.field(name="ID")
    job_id: str = msgspec.field(name="JobID")
    name: str = msgspec.field(name="Name", default="")
    client_status: str = msgspec.field(name="ClientStatus", default="pending")
    desired_status: str = msgspec.field(name="DesiredStatus", default="run")
    create_time: int = msgspec.field(name="CreateTime", default=0)

    @property
    def stays(self) -> bool:
        """Whether it is there and is to be."""
        return self.desired_status == "run" and self.client_status in {"pending", "running"}


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job; `status` is pending, running or dead."""

    id: str = msgspec.field(name="ID")
    status: str = msgspec.field(name="Status", default="pending")
    submit_time: int = msgspec.field(name="SubmitTime", default=0)
    stop: bool = msgspec.field(name="Stop", default=False)


class Deployment(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """The latest deployment of a job."""

    status: str

    @property
    def active(self) -> bool:
        """Whether the job can't be scaled because of it."""
        return self.status in ACTIVE_DEPLOYMENT


class GroupScale(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """How large a group is to be."""

    desired: int


class ScaleStatus(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """How large the groups of a job are."""

    task_groups: dict[str, GroupScale] = {}


class Scale(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Body of `POST /v1/job/{id}/scale`."""

    count: int
    target: dict[str, str]
    message: str


class Event(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """One event of the stream; what the payload holds depends on the topic."""

    topic: str
    type: str
    key: str = ""
    payload: dict[str, msgspec.Raw] | None = None


class EventBatch(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """One line of the event stream; `{}`, a sign of life, has index 0 and no events."""

    index: int = 0
    events: tuple[Event, ...] = ()


class Listing[T](msgspec.Struct, frozen=True, kw_only=True):
    """A list, and the index up to which it holds everything."""

    index: int
    items: tuple[T, ...]


class AgentVersion(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """`config.Version` of `GET /v1/agent/self`."""

    version: str = ""


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """`config` of `GET /v1/agent/self`."""

    version: AgentVersion = AgentVersion()


class AgentSelf(msgspec.Struct, frozen=True, kw_only=True):
    """What of `GET /v1/agent/self` is read."""

    config: AgentConfig = AgentConfig()


def at(time_ns: int) -> datetime:
    """Return a time of Nomad's, in ns since 1970, in UTC."""
    return datetime.fromtimestamp(time_ns / 1e9, UTC)


def decode[T](body: bytes, kind: type[T]) -> T:
    """Decode JSON of Nomad's; what isn't known of it is left out.

    Raises:
        msgspec.MsgspecError: it isn't that.
    """
    return msgspec.json.decode(body, type=kind)


def raw(payload: dict[str, msgspec.Raw] | None, key: str, kind: type[Any]) -> Any:
    """Return one part of an event's payload, or None where there is none.

    Raises:
        msgspec.MsgspecError: it isn't that.
    """
    part = (payload or {}).get(key)
    return None if part is None else msgspec.json.decode(part, type=kind)
