"""Examples for the schema: a day of one tenant, priced but for its carrier."""

from typing import Any, Final

PRICE: Final[dict[str, Any]] = {
    "tenant": "*",
    "provider": "openai",
    "model": "gpt-4.1-mini",
    "unit": "llm_in",
    "price": "0.40",
    "per": 1_000_000,
    "currency": "USD",
    "valid_from": "2026-01-01T00:00:00Z",
}

PRICE_WISHES: Final[dict[str, Any]] = {"prices": [PRICE]}

PRICES: Final[dict[str, Any]] = {"prices": [{**PRICE, "price": "0.4"}], "next": None}

BUDGET_WISH: Final[dict[str, Any]] = {
    "tenant": "acme",
    "amount": "50",
    "currency": "USD",
    "period": "day",
    "zone": "Europe/Berlin",
    "at_limit": "refuse",
}

BUDGET: Final[dict[str, Any]] = {
    **BUDGET_WISH,
    "id": "acme-daily",
    "agent": "*",
    "warn_share": 0.8,
    "spent": "41.27",
    "reached": False,
    "period_start": "2026-03-01T23:00:00Z",
    "period_end": "2026-03-02T23:00:00Z",
}

BUDGETS: Final[dict[str, Any]] = {"budgets": [BUDGET], "told_at": "2026-03-02T09:30:00Z"}

USAGE: Final[dict[str, Any]] = {
    "since": "2026-03-01T23:00:00Z",
    "until": "2026-03-02T23:00:00Z",
    "group_by": "day",
    "groups": [
        {
            "tenant": "acme",
            "key": "2026-03-02",
            "sessions": 2,
            "cost": [{"amount": "0.0052", "currency": "USD"}],
            "lines": [
                {
                    "provider": "openai",
                    "model": "gpt-4.1-mini",
                    "unit": "llm_in",
                    "quantity": "13000",
                    "cost": "0.0052",
                    "currency": "USD",
                }
            ],
            "unpriced": [{"provider": "twilio", "model": "", "unit": "carrier_min", "quantity": "7"}],
        }
    ],
    "next": None,
}
