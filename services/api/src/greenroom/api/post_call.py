"""What steps after calls gave, as the recorder noted it."""

from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from greenroom.api.store import Store

_OF_SESSION: Final = """
SELECT step, state, attempts, result, error, updated_at FROM post_call_steps
WHERE session_id = $1 AND tenant = $2 ORDER BY created_at, step
"""


class PostCallStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step; `error` is what its last attempt failed of."""

    step: str
    state: Literal["pending", "done", "failed"]
    attempts: int
    result: dict[str, Any] | None
    error: str | None
    updated_at: datetime


class PostCallSteps(msgspec.Struct, frozen=True, kw_only=True):
    """All steps of a session."""

    steps: list[PostCallStep]


class Steps:
    """The steps of all sessions.

    Args:
        store: lends connections.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def of(self, tenant: str, session_id: str) -> list[PostCallStep]:
        """Return the steps of a tenant's session; raises `DatabaseUnavailable`."""
        async with self._store.connection("post_call_steps") as connection:
            rows = await connection.fetch(_OF_SESSION, session_id, tenant)
        return [_step(row) for row in rows]


def _step(row: Any) -> PostCallStep:
    result = msgspec.json.decode(row["result"]) if row["result"] is not None else None
    fields: dict[str, Any] = {**row, "result": result}
    return PostCallStep(**fields)
