"""Which steps are run after the calls of a tenant or an agent; the recorder goes by it when a call is over."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from greenroom.api.store import Store
from greenroom.common.errors import GreenroomError

_COLUMNS: Final = "tenant, agent, steps, changed_at"
# All choices, or a tenant's.
_LIST: Final = f"""
SELECT {_COLUMNS} FROM post_call_choices WHERE $1::text IS NULL OR tenant = $1 ORDER BY tenant, agent
"""  # noqa: S608 constants
_PUT: Final = f"""
INSERT INTO post_call_choices (tenant, agent, steps) VALUES ($1, $2, $3)
ON CONFLICT (tenant, agent) DO UPDATE SET steps = excluded.steps, changed_at = now()
RETURNING {_COLUMNS}
"""  # noqa: S608 constants
_DELETE: Final = "DELETE FROM post_call_choices WHERE tenant = $1 AND agent = $2 RETURNING tenant"

type StepName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}(?!\n)$")]


class PostCallChoiceNotFound(GreenroomError):
    """Nothing was chosen for this tenant and agent; `GET /v1/post-call` lists what was."""

    code = "post-call-choice-not-found"
    status = 404
    title = "Nothing was chosen here"


class PostCallWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which steps are to be run, in place of any others; an empty list: none."""

    steps: Annotated[tuple[StepName, ...], Meta(max_length=16)]


class PostCallChoice(msgspec.Struct, frozen=True, kw_only=True):
    """What was chosen for a tenant's agent; `*`: for those of its agents that have no choice of their own."""

    tenant: str
    agent: str
    steps: list[str]
    changed_at: datetime


class PostCallChoices(msgspec.Struct, frozen=True, kw_only=True):
    """What was chosen, by tenant and agent."""

    choices: list[PostCallChoice]


class Choices:
    """The choices of all tenants. Every method raises `DatabaseUnavailable`.

    Args:
        store: lends connections.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def all(self, tenant: str | None) -> PostCallChoices:
        """Return a tenant's choices, or all."""
        async with self._store.connection("post_call_choices") as connection:
            rows = await connection.fetch(_LIST, tenant)
        return PostCallChoices(choices=[PostCallChoice(**row) for row in rows])

    async def put(self, tenant: str, agent: str, steps: Sequence[str]) -> PostCallChoice:
        """Choose, in the place of what was chosen; each step once."""
        async with self._store.connection("put_post_call_choice") as connection:
            row = await connection.fetchrow(_PUT, tenant, agent, list(dict.fromkeys(steps)))
        return PostCallChoice(**row)

    async def delete(self, tenant: str, agent: str) -> None:
        """Choose nothing.

        Raises:
            PostCallChoiceNotFound: nothing was.
        """
        async with self._store.connection("delete_post_call_choice") as connection:
            if await connection.fetchval(_DELETE, tenant, agent) is None:
                raise PostCallChoiceNotFound
