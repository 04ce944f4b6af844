"""What a test of a webhook endpoint says: by type, the `data` of something that might have happened."""

from typing import Any, Final

TEST: Final = "webhook.test"

_BUDGET: Final[dict[str, Any]] = {
    "agent": "*",
    "budget": "sample",
    "amount": "50",
    "currency": "EUR",
    "period_start": "2026-11-20T23:00:00Z",
    "period_end": "2026-11-21T23:00:00Z",
}

SAMPLES: Final[dict[str, dict[str, Any]]] = {
    TEST: {"text": "It works."},
    "budget.warning": {**_BUDGET, "spent": "40.01"},
    "budget.reached": {**_BUDGET, "spent": "50.02"},
    "limit.reached": {
        "limit": "sample",
        "scope": "tenant",
        "key": "sample",
        "at_limit": "refuse",
        "reason": "tenant-limit",
        "active": 20,
        "max_sessions": 20,
        "max_starts_per_s": None,
    },
}
