"""Examples for the schema: an installation with one busy tenant, one pool that grows, and a canary."""

from typing import Any, Final

from greenroom.api.examples import SESSION_ID

_REVISION: Final = 1_772_443_800_000

LIMIT_WISH: Final[dict[str, Any]] = {
    "scope": "account",
    "key": "openai/main",
    "max_sessions": 20,
    "at_limit": "refuse",
}

LIMIT: Final[dict[str, Any]] = {
    "id": "openai-main",
    "scope": "account",
    "tenant": "*",
    "key": "openai/main",
    "max_sessions": 20,
    "max_starts_per_s": None,
    "at_limit": "refuse",
    "usage": [{"tenant": "*", "key": "openai/main", "active": 17, "waiting": 0}],
}

LIMITS: Final[dict[str, Any]] = {
    "revision": _REVISION,
    "applied_revision": _REVISION,
    "problem": None,
    "limits": [LIMIT],
}

_SCHEDULE: Final[dict[str, Any]] = {
    "days": [0, 1, 2, 3, 4],
    "begin": "08:00:00",
    "end": "18:00:00",
    "zone": "Europe/Berlin",
    "warm": 40,
}

POOL_WISH: Final[dict[str, Any]] = {
    "baseline": 4,
    "minimum": 4,
    "maximum": 60,
    "slots_per_runner": 8,
    "cold_starts": 10,
    "schedules": [{**_SCHEDULE, "begin": "08:00", "end": "18:00"}],
}

POOL: Final[dict[str, Any]] = {
    "name": "default",
    "decided": True,
    "policy": {
        "name": "default",
        "placement": "packed",
        "baseline": 4,
        "minimum": 4,
        "maximum": 60,
        "max_runners": 100,
        "safety": 1.5,
        "slots_per_runner": 8,
        "cold_starts": 10,
        "cold_deadline_s": 90.0,
        "idle_retire_s": 300.0,
        "cooldown_s": 60.0,
        "schedules": [_SCHEDULE],
    },
    "state": {
        "name": "default",
        "runners": 6,
        "draining": 0,
        "braking": 0,
        "slots": 48,
        "busy": 9,
        "warm": 39,
        "waiting": 0,
        "target": 40,
        "target_why": {"baseline": 4, "arrivals": 1.2, "schedule": 40},
        "instances": 6,
        "cold_starts_in_flight": 0,
        "cold_start_p50_s": 11.8,
        "cold_start_p95_s": 19.4,
        "arrivals_per_s": 0.04,
        "launcher": "nomad",
        "held_back": None,
        "held_back_until": None,
    },
}

POOLS: Final[dict[str, Any]] = {
    "revision": _REVISION,
    "applied_revision": _REVISION,
    "problem": None,
    "leader": "sched-1-31",
    "pools": [POOL],
}

RESERVATION_WISH: Final[dict[str, Any]] = {
    "pool": "default",
    "warm": 100,
    "starts_at": "2026-03-06T17:30:00Z",
    "ends_at": "2026-03-06T21:00:00Z",
    "note": "televised appeal",
}

RESERVATION: Final[dict[str, Any]] = {"id": "0199b6a4-7f10-7a11-8c55-1c5a3b1e7f42", **RESERVATION_WISH}

RESERVATIONS: Final[dict[str, Any]] = {"revision": _REVISION, "reservations": [RESERVATION]}

ROLLOUT_WISH: Final[dict[str, Any]] = {"current": 3, "canary": 4, "canary_share": 0.1}

ROLLOUT: Final[dict[str, Any]] = {
    "tenant": "*",
    "agent": "frontdesk",
    "current": 3,
    "canary": 4,
    "canary_share": 0.1,
    "min_starts": 10,
    "max_failure_rate": 0.2,
    "rolled_back": None,
}

WEIGHT_WISH: Final[dict[str, Any]] = {"weight": 2.0}

WEIGHT: Final[dict[str, Any]] = {"tenant": "acme", "weight": 2.0}

WEIGHTS: Final[dict[str, Any]] = {"revision": _REVISION, "weights": {"acme": 2.0}}

QUEUE: Final[dict[str, Any]] = {
    "total": 9,
    "waiting": [
        {
            "session_id": SESSION_ID,
            "tenant": "acme",
            "agent": "frontdesk",
            "pool": "default",
            "priority": "normal",
            "position": 2,
            "of": 9,
            "reason": "tenant-limit",
            "text": "2nd of 9: tenant at 20/20; next slot expected in ~14 s",
            "requested_at": "2026-03-02T09:30:00.000000Z",
            "deadline_at": "2026-03-02T09:30:10.000000Z",
            "expected_s": 14.0,
        }
    ],
    "next": None,
}

PIN_WISH: Final[dict[str, Any]] = {
    "agent": "frontdesk",
    "count": 2,
    "room": "lobby-{slot}",
    "body": {"language": "en"},
    "relaunch": {"longest_s": 120},
}

_RELAUNCH: Final[dict[str, Any]] = {
    "first_s": 1.0,
    "longest_s": 120.0,
    "max_failures": 10,
    "window_s": 600.0,
    "stable_s": 60.0,
}

PIN: Final[dict[str, Any]] = {
    "id": "lobby",
    "tenant": "acme",
    "agent": "frontdesk",
    "agent_version": 1,
    "count": 2,
    "pool": "default",
    "transport": "websocket",
    "transport_info": {},
    "room": "lobby-{slot}",
    "body": {"language": "en"},
    "metadata": {},
    "priority": "normal",
    "relaunch": _RELAUNCH,
    "changed_at": "2026-03-02T09:30:00Z",
    "running": 1,
    "slots": [
        {
            "slot": 1,
            "state": "running",
            "text": "",
            "session_id": SESSION_ID,
            "generation": 4,
            "failures": 0,
            "next_at": None,
        },
        {
            "slot": 2,
            "state": "backing_off",
            "text": "3 failures in a row, last: bot-failed after 2 s; next in 3 s",
            "session_id": None,
            "generation": 7,
            "failures": 3,
            "next_at": "2026-03-02T10:00:07Z",
        },
    ],
}

PINS: Final[dict[str, Any]] = {
    "revision": _REVISION,
    "applied_revision": _REVISION,
    "problem": None,
    "pins": [PIN],
}
