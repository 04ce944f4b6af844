"""What has to be made before an api of this version is given work: the streams, and the schema of the database.

    greenroom topology apply        streams and consumers        topology-missing
    greenroom migrate               tables and columns           schema-not-migrated

Nothing of it is made here. While something is missing the api isn't ready and says what (`/readyz`, its log): whoever
rolls out a version keeps the one before until then. PostgreSQL itself may be away: sessions go on without it, so that
keeps nobody from being ready; once it is there, its schema is looked at.
"""

import asyncio
from typing import Final

import structlog

from greenroom.api.store import Store
from greenroom.common import topology_admin
from greenroom.common.errors import BrokerUnavailable, DatabaseUnavailable, SchemaNotMigrated, TopologyMissing
from greenroom.common.health import Readiness
from greenroom.common.nats_broker import NatsBroker

_log = structlog.get_logger()

RETRY_S: Final = 0.5


class Prerequisites:
    """See the module.

    Args:
        broker: has the streams.
        store: knows which migrations are applied.
        readiness: is told what is missing.
    """

    def __init__(self, broker: NatsBroker, store: Store, readiness: Readiness) -> None:
        self._broker = broker
        self._store = store
        self._missing: dict[str, str] = {}
        for name in ("topology", "schema"):
            readiness.add(name, lambda name=name: self._missing.get(name))

    async def streams(self, stopping: asyncio.Event) -> None:
        """Return once the streams are there, or the service stops."""
        while not stopping.is_set():
            try:
                await topology_admin.check(self._broker)
            except TopologyMissing as error:
                self._missing["topology"] = error.code
                _log.warning("topology_awaited", code=error.code, detail=error.detail)
            except BrokerUnavailable as error:  # which is said by a check of its own
                _log.warning("topology_awaited", code=error.code, detail=error.detail)
            else:
                self._missing.pop("topology", None)
                return
            await asyncio.sleep(RETRY_S)

    async def schema(self) -> None:
        """Return once the database has the schema of this version."""
        while not await self.look_at_schema():  # noqa: ASYNC110 PostgreSQL doesn't tell
            await asyncio.sleep(RETRY_S)

    async def look_at_schema(self) -> bool:
        """Return whether the database has the schema of this version; not where that can't be known now."""
        try:
            missing = await self._store.missing_migrations()
        except DatabaseUnavailable:
            return False
        if missing:
            self._missing["schema"] = SchemaNotMigrated.code
            names = ", ".join(missing)
            _log.warning("schema_awaited", code=SchemaNotMigrated.code, missing=names, run="greenroom migrate")
            return False
        self._missing.pop("schema", None)
        return True
