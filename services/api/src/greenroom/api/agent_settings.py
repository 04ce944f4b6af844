"""What tenants set of agents for themselves: what becomes of sessions whose runner is lost, and how they are recorded.

A setting goes over what the agent itself says, for the sessions of one tenant that are asked for from then on, by a
request or by a call that comes in; a request that says something else goes over both. It outlives the agent: runners
that announce it anew leave it as it is.
"""

from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from greenroom.api.store import Store
from greenroom.common.lifecycle import OnLoss
from greenroom.common.recordings import RecordingChoice

# Each setting is given with whether to touch it.
_PUT: Final = """
INSERT INTO agent_settings AS kept (tenant, agent, on_loss, recording) VALUES ($1, $2, $3, $5::jsonb)
ON CONFLICT (tenant, agent) DO UPDATE SET
    on_loss = CASE WHEN $4 THEN excluded.on_loss ELSE kept.on_loss END,
    recording = CASE WHEN $6 THEN excluded.recording ELSE kept.recording END,
    updated_at = now()
"""


class RecordingWish(RecordingChoice, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How the sessions are recorded; what is left out is as the deployment says."""


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change: what is left out stays; None: as the agent itself says."""

    on_loss: OnLoss | UnsetType | None = UNSET
    recording: RecordingWish | UnsetType | None = UNSET


async def change(store: Store, tenant: str, agent: str, wanted: AgentSettings) -> None:
    """Write a change down. Raises `DatabaseUnavailable`."""
    on_loss = None if wanted.on_loss is UNSET else wanted.on_loss
    choice = None if wanted.recording is UNSET else wanted.recording
    async with store.connection("put_agent_settings") as connection:
        await connection.execute(
            _PUT,
            tenant,
            agent,
            on_loss.value if on_loss is not None else None,
            wanted.on_loss is not UNSET,
            msgspec.json.encode(choice).decode() if choice is not None else None,
            wanted.recording is not UNSET,
        )
