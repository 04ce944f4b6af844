"""What sessions used, what that costs, and budgets.

    session_events ─▶ lines.py (pure) ─▶ usage ──────────────────────────┐
                                           └─▶ days.py ─▶ usage_days ────┼─▶ usage_between (SQL) ─▶ GET /v1/usage
    PUT /v1/prices ─────────────────▶ prices ────────────────────────────┘         │
    PUT /v1/budgets ─▶ budgets ─▶ spending.py (pure) ◀─────────────────────────────┘
    events of live sessions ─▶ live.py (pure) ─┘  └─▶ spend, notices ─▶ api, schedulers

A session whose end is stored is marked in `usage_due`, in the transaction that stores it, and so is one that something
is stored of later; whoever counts it takes the mark away in the transaction that writes its rows. So nothing is
forgotten by whichever process dies, and what is counted twice comes to the same rows.
"""
