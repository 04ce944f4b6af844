"""Which agents there are: what PostgreSQL says, and the running fleet where it can't be asked."""

from typing import Final

import msgspec

from greenroom.api.bodycheck import BodyCheck, body_check
from greenroom.api.cache import Cache
from greenroom.api.fleet import Fleet
from greenroom.api.store import Agent, Store
from greenroom.common.clock import Clock
from greenroom.common.errors import AgentNotFound, DatabaseUnavailable, SecretMissing

# How long a change of an agent may go unnoticed.
AGENT_TTL_S: Final = 2.0
UNKNOWN_AGENT_TTL_S: Final = 0.5
# The tenant of agents that everybody may use.
SHARED: Final = "*"
_MAX_NAME: Final = 128


class KnownAgent(msgspec.Struct, frozen=True, kw_only=True):
    """An agent, and the check for the bodies of its sessions."""

    agent: Agent
    check_body: BodyCheck


class Agents:
    """Looks agents up."""

    def __init__(self, store: Store, fleet: Fleet, *, clock: Clock | None = None) -> None:
        """Ask `store`; while it is away, what it said before, and then what `fleet` offers."""
        self._store = store
        self._fleet = fleet
        self._cache: Cache[tuple[str, str], KnownAgent] = Cache(
            self._load, ttl_s=AGENT_TTL_S, absent_ttl_s=UNKNOWN_AGENT_TTL_S, clock=clock
        )

    async def get(self, tenant: str, name: str) -> KnownAgent:
        """Return an agent that `tenant` may use.

        Raises:
            AgentNotFound: there is none of this name.
            DatabaseUnavailable: that can't be told now.
        """
        if len(name) > _MAX_NAME or "\0" in name:
            raise AgentNotFound
        try:
            known = await self._cache.get((tenant, name))
        except DatabaseUnavailable:
            known = self._offered(name)
            if known is None:
                raise
        # A runner has just announced it and PostgreSQL doesn't have it yet: no reason to send the caller away.
        known = known or self._offered(name)
        if known is None:
            raise AgentNotFound(f"There is no agent {name!r}.")
        return known

    def forget(self, tenant: str, name: str) -> None:
        """Look an agent up again the next time: it was changed."""
        self._cache.forget((tenant, name))

    def check_secrets(self, pool: str, bot: str) -> None:
        """Check that a runner of a pool has the secrets that a bot needs, as far as is known.

        Raises:
            SecretMissing: none has.
        """
        if missing := self._fleet.missing_secrets(pool, bot):
            raise SecretMissing(f"No runner of pool {pool} has {', '.join(missing)}, which bot {bot} needs.")

    async def all(self, tenant: str) -> list[Agent]:
        """Return the agents that `tenant` may use, by name; only those that can run now while PostgreSQL is away."""
        try:
            return await self._store.agents(tenant)
        except DatabaseUnavailable:
            offered = [known.agent for name in sorted(self._fleet.offers()) if (known := self._offered(name))]
            if not offered:
                raise
            return offered

    async def _load(self, key: tuple[str, str]) -> KnownAgent | None:
        agent = await self._store.agent(*key)
        return KnownAgent(agent=agent, check_body=body_check(agent.body_schema)) if agent else None

    def _offered(self, name: str) -> KnownAgent | None:
        found = self._fleet.offers().get(name)
        if found is None:
            return None
        pool, offer = found
        agent = Agent(
            tenant=SHARED,
            name=name,
            version=1,
            bot=name,
            pool=pool,
            description=offer.description,
            body_schema=offer.body_schema,
            transports=offer.transports,
        )
        return KnownAgent(agent=agent, check_body=body_check(agent.body_schema))
