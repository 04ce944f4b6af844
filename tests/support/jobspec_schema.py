"""Which blocks and attributes a job of Nomad 1.11 to 2.0 may have, and of which type: what deploy/nomad uses of them.

Written down by hand: neither parser knows Nomad, and Nomad itself looks at a driver's keys only when it starts a task.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from tests.support.jobspec import Body, JobspecError, seconds

# Types of attributes; `duration` is text like 1h30m, `printed` becomes text.
type Kind = str


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """What may be in a block.

    Attributes:
        attributes: by name, each with its type.
        blocks: by name, each with the name of its shape in `SHAPES`.
        labels: how many the block has itself.
        once: may not come twice in the same body.
    """

    attributes: dict[str, Kind] = {}
    blocks: dict[str, str] = {}
    labels: int = 0
    once: bool = True
    # Any attribute, all of this type.
    free: Kind | None = None


_UPDATE: Final[dict[str, Kind]] = {
    "max_parallel": "number",
    "health_check": "text",
    "min_healthy_time": "duration",
    "healthy_deadline": "duration",
}

SHAPES: Final[dict[str, Block]] = {
    "job": Block(
        attributes={
            "id": "text",
            "namespace": "text",
            "datacenters": "list",
            "node_pool": "text",
            "type": "text",
            "priority": "number",
        },
        blocks={
            "constraint": "constraint",
            "group": "group",
            "migrate": "migrate",
            "parameterized": "parameterized",
            "spread": "spread",
            "update": "update",
        },
        labels=1,
    ),
    "group": Block(
        attributes={"count": "number", "shutdown_delay": "duration", "max_run_duration": "duration"},
        blocks={
            "constraint": "constraint",
            "disconnect": "disconnect",
            "ephemeral_disk": "ephemeral_disk",
            "network": "network",
            "reschedule": "reschedule",
            "restart": "restart",
            "scaling": "scaling",
            "service": "service",
            "spread": "spread",
            "task": "task",
            "volume": "volume",
        },
        labels=1,
        once=False,
    ),
    "task": Block(
        attributes={
            "driver": "text",
            "kill_signal": "text",
            "kill_timeout": "duration",
            "leader": "bool",
            "shutdown_delay": "duration",
            "user": "text",
        },
        blocks={
            "config": "docker",
            "env": "env",
            "identity": "identity",
            "lifecycle": "lifecycle",
            "logs": "logs",
            "resources": "resources",
            "restart": "restart",
            "template": "template",
            "volume_mount": "volume_mount",
        },
        labels=1,
        once=False,
    ),
    "update": Block(
        attributes=_UPDATE
        | {
            "canary": "number",
            "auto_promote": "bool",
            "auto_revert": "bool",
            "progress_deadline": "duration",
            "stagger": "duration",
        }
    ),
    "migrate": Block(attributes=_UPDATE),
    "parameterized": Block(attributes={"payload": "text", "meta_required": "list", "meta_optional": "list"}),
    "constraint": Block(attributes={"attribute": "text", "operator": "text", "value": "text"}, once=False),
    "spread": Block(attributes={"attribute": "text", "weight": "number"}, once=False),
    "restart": Block(
        attributes={
            "attempts": "number",
            "interval": "duration",
            "delay": "duration",
            "mode": "text",
            "render_templates": "bool",
        }
    ),
    "reschedule": Block(
        attributes={
            "attempts": "number",
            "interval": "duration",
            "delay": "duration",
            "delay_function": "text",
            "max_delay": "duration",
            "unlimited": "bool",
        }
    ),
    "disconnect": Block(
        attributes={
            "lost_after": "duration",
            "stop_on_client_after": "duration",
            "replace": "bool",
            "reconcile": "text",
        }
    ),
    "scaling": Block(attributes={"enabled": "bool", "min": "number", "max": "number"}),
    "ephemeral_disk": Block(attributes={"size": "number", "migrate": "bool", "sticky": "bool"}),
    "network": Block(attributes={"mode": "text"}, blocks={"port": "port"}),
    "port": Block(
        attributes={"static": "number", "to": "number", "host_network": "text"},
        labels=1,
        once=False,
    ),
    "volume": Block(
        attributes={
            "type": "text",
            "source": "text",
            "read_only": "bool",
            "sticky": "bool",
            "access_mode": "text",
            "attachment_mode": "text",
        },
        labels=1,
        once=False,
    ),
    "volume_mount": Block(attributes={"volume": "text", "destination": "text", "read_only": "bool"}, once=False),
    "service": Block(
        attributes={
            "name": "text",
            "provider": "text",
            "port": "text",
            "address": "text",
            "address_mode": "text",
            "tags": "list",
            "canary_tags": "list",
        },
        blocks={"check": "check"},
        once=False,
    ),
    # What Nomad's own checks know; Consul's know more.
    "check": Block(
        attributes={
            "name": "text",
            "type": "text",
            "port": "text",
            "path": "text",
            "method": "text",
            "interval": "duration",
            "timeout": "duration",
        },
        blocks={"check_restart": "check_restart"},
        once=False,
    ),
    "check_restart": Block(attributes={"limit": "number", "grace": "duration", "ignore_warnings": "bool"}),
    "identity": Block(
        attributes={
            "name": "text",
            "aud": "list",
            "change_mode": "text",
            "change_signal": "text",
            "env": "bool",
            "file": "bool",
            "filepath": "text",
            "ttl": "duration",
        },
        once=False,
    ),
    "lifecycle": Block(attributes={"hook": "text", "sidecar": "bool"}),
    "logs": Block(attributes={"max_files": "number", "max_file_size": "number"}),
    "resources": Block(attributes={"cpu": "number", "cores": "number", "memory": "number", "memory_max": "number"}),
    "template": Block(
        attributes={
            "data": "text",
            "destination": "text",
            "change_mode": "text",
            "change_signal": "text",
            "env": "bool",
            "perms": "text",
            "uid": "number",
            "gid": "number",
            "splay": "duration",
            "left_delimiter": "text",
            "right_delimiter": "text",
            "error_on_missing_key": "bool",
        },
        once=False,
    ),
    "env": Block(free="printed"),
    # The docker driver's own keys: those of them that leave a container as closed as it is.
    "docker": Block(
        attributes={
            "args": "list",
            "cap_add": "list",
            "cap_drop": "list",
            "command": "text",
            "entrypoint": "list",
            "image": "text",
            "image_pull_timeout": "duration",
            "init": "bool",
            "network_mode": "text",
            "pids_limit": "number",
            "ports": "list",
            "readonly_rootfs": "bool",
            "security_opt": "list",
            "shm_size": "number",
        },
        blocks={"mount": "docker.mount"},
    ),
    "docker.mount": Block(
        attributes={"type": "text", "target": "text", "readonly": "bool"},
        blocks={"tmpfs_options": "docker.tmpfs_options"},
        once=False,
    ),
    "docker.tmpfs_options": Block(attributes={"size": "number", "mode": "number"}),
}


def complaints(job: Body) -> list[str]:
    """Return what in an evaluated job isn't in the table, each as `where: what`."""
    ((label, body),) = [(job["id"], {name: value for name, value in job.items() if name != "id"})]
    return list(_body(f"job {label}", body, SHAPES["job"]))


def _body(where: str, body: Body, shape: Block) -> list[str]:
    found: list[str] = []
    for name, value in body.items():
        if name in shape.blocks:
            found += _blocks(f"{where} / {name}", value, SHAPES[shape.blocks[name]])
        elif kind := shape.attributes.get(name, shape.free):
            if not _is(value, kind):
                found.append(f"{where}: {name} is {value!r}, not {kind}")
        else:
            found.append(f"{where}: there is no {name}")
    return found


def _blocks(where: str, value: Any, shape: Block) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(body, dict) for body in value):
        return [f"{where} is no block"]
    found = [f"{where} comes {len(value)} times"] if shape.once and len(value) > 1 else []
    for each in value:
        if shape.labels:
            for label, body in each.items():
                if not isinstance(body, dict):
                    found.append(f"{where} has no label")
                else:
                    found += _body(f"{where} {label}", body, shape)
        else:
            found += _body(where, each, shape)
    return found


def _is(value: Any, kind: Kind) -> bool:
    return _CHECKS[kind](value)


def _is_duration(text: str) -> bool:
    try:
        seconds(text)
    except JobspecError:
        return False
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_CHECKS: Final[dict[Kind, Callable[[Any], bool]]] = {
    "text": lambda value: isinstance(value, str),
    "printed": lambda value: isinstance(value, str) or _is_number(value),
    "bool": lambda value: isinstance(value, bool),
    "number": _is_number,
    "list": lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
    "duration": lambda value: isinstance(value, str) and _is_duration(value),
}
