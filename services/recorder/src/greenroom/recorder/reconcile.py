"""Puts right what the projection missed: PostgreSQL against the last entry of each session in the ledger.

The consumer of SESSIONS brings everything once, and what it has brought it doesn't bring again. So PostgreSQL stays
behind the ledger where it lost what it had (a restore from a backup), or where a message was parked that a newer
version understands. Only what the consumer is done with counts as missed: what it still has to bring comes by itself,
and what it brings late is old by then and changes nothing.

A session that is behind has all of its messages read again, and handled as if they had just come: handling is
idempotent, an old entry never overwrites a newer one, so a session is never opened again, and it ends as the ledger
says, with the ledger's outcome. Nothing is concluded from how long ago something was. Of a session that is open here
and that the ledger doesn't hold (any more), nobody knows how it ended: it stays as it is, is counted and logged.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
import structlog

from greenroom.common import subjects
from greenroom.common.broker import Broker, Message
from greenroom.common.consumer import Drop, Retry
from greenroom.common.errors import GreenroomError
from greenroom.common.ledger import STREAM
from greenroom.common.metrics import Metrics
from greenroom.recorder.database import Pool, translated
from greenroom.recorder.ingest import Incoming, decode

_log = structlog.get_logger()

# What it looks for happens to people who restore backups; it reads a subject and a number for each session.
ROUND_S: Final = 60.0
# The entries of 100,000 sessions are read in some seconds.
READ_TIMEOUT_S: Final = 60.0
PAGE: Final = 500
MAX_UNACCOUNTED: Final = 1000

# What we have of which sessions.
_SELECT_REVISIONS: Final = "SELECT id, ledger_revision FROM sessions WHERE id = ANY($1::text[])"

# Sessions that haven't ended, as far as we know.
_SELECT_OPEN: Final = "SELECT id, tenant FROM sessions WHERE state <> 'ended' ORDER BY id LIMIT $1"


class LastEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Where a session's last entry is in the ledger."""

    tenant: str
    session_id: str
    revision: int


def behind(entries: Sequence[LastEntry], known: dict[str, int], settled_to: int) -> list[LastEntry]:
    """Return the sessions of which we miss an entry that won't come by itself any more.

    Args:
        entries: the last entry of each session, as the ledger has it.
        known: by session, the revision that is stored; sessions that aren't stored are missing.
        settled_to: the stream sequence up to which the consumer is done.
    """
    return [entry for entry in entries if known.get(entry.session_id, 0) < entry.revision <= settled_to]


class Reconciler:
    """Compares all sessions of the ledger with PostgreSQL, in rounds.

    Args:
        broker: has the ledger.
        pool: has the projection.
        settled_to: returns the stream sequence up to which every message of SESSIONS has been dealt with.
        handle: stores a batch of messages; raises what a consumer's handler does.
        metrics: sessions put right, and sessions that can't be.
        max_batch: messages handled together at most.
    """

    def __init__(
        self,
        *,
        broker: Broker,
        pool: Pool,
        settled_to: Callable[[], Awaitable[int]],
        handle: Callable[[Sequence[Incoming]], Awaitable[None]],
        metrics: Metrics,
        max_batch: int,
    ) -> None:
        self._broker = broker
        self._pool = pool
        self._settled_to = settled_to
        self._handle = handle
        self._max_batch = max_batch
        # Sessions whose last entry can't be stored, by revision: tried once by each recorder, since the next version
        # may understand it.
        self._refused: dict[str, int] = {}
        self._unaccounted: set[str] = set()
        self._reconciled = metrics.counter("recorder_reconciled_sessions", "Sessions that were behind the ledger")
        self._open = metrics.gauge(
            "recorder_unaccounted_sessions", "Sessions that are open here, and that the ledger doesn't hold"
        )

    async def run(self) -> None:
        """Reconcile until canceled."""
        while True:
            try:
                await self.reconcile()
            except (GreenroomError, Retry, TimeoutError) as error:
                code = error.code if isinstance(error, GreenroomError) else type(error).__name__
                _log.warning("not_reconciled", code=code, again_in_s=ROUND_S)
            await asyncio.sleep(ROUND_S)

    async def reconcile(self) -> list[str]:
        """Put right what is behind, and return the ids of those sessions.

        Raises:
            BrokerUnavailable, DatabaseUnavailable, Retry, TimeoutError: something is away; the next round does it.
        """
        # Asked first: what is written later than this answer isn't missed yet.
        settled_to = await self._settled_to()
        entries = await self._last_entries()
        missed: list[LastEntry] = []
        for page in itertools.batched(entries, PAGE):
            missed += behind(page, await self._known([entry.session_id for entry in page]), settled_to)
        done = [
            entry.session_id
            for entry in missed
            if self._refused.get(entry.session_id, 0) < entry.revision and await self._catch_up(entry)
        ]
        await self._look_for_unaccounted({entry.session_id for entry in entries})
        return done

    async def _last_entries(self) -> list[LastEntry]:
        return [
            LastEntry(tenant=tokens["tenant"], session_id=tokens["session_id"], revision=message.stream_seq)
            for message in await self._read(subjects.SESSION_LIFECYCLE.wildcard(), last_per_subject=True)
            if (tokens := subjects.SESSION_LIFECYCLE.parse(message.subject))
        ]

    async def _read(self, subject: str, *, last_per_subject: bool = False) -> list[Message]:
        """Return what the stream holds of a subject now."""
        found: list[Message] = []
        reader = await self._broker.read(
            STREAM, [subject], after=None if last_per_subject else 0, last_per_subject=last_per_subject
        )
        try:
            if reader.caught_up.is_set():
                return found
            async with asyncio.timeout(READ_TIMEOUT_S):
                async for message in reader:
                    # Of an entry only its place is wanted: ten thousand documents needn't be held for that.
                    found.append(msgspec.structs.replace(message, data=b"") if last_per_subject else message)
                    if reader.caught_up.is_set():
                        break
        finally:
            await reader.close()
        return found

    async def _known(self, ids: Sequence[str]) -> dict[str, int]:
        with translated():
            rows = await self._pool.fetch(_SELECT_REVISIONS, list(ids))
        return {row["id"]: row["ledger_revision"] for row in rows}

    async def _catch_up(self, entry: LastEntry) -> bool:
        """Handle all messages of a session again, and return whether it isn't behind any more."""
        everything = subjects.SESSION_ALL.wildcard(tenant=entry.tenant, session_id=entry.session_id)
        incoming: list[Incoming] = []
        for message in await self._read(everything):
            try:
                incoming.append(decode(message))
            except Drop:
                # The consumer has parked it. The others are worth having all the same.
                continue
        for batch in itertools.batched(incoming, self._max_batch):
            try:
                await self._handle(batch)
            except Drop:
                await self._handle_each(batch)
        reached = (await self._known([entry.session_id])).get(entry.session_id, 0)
        if reached < entry.revision:
            self._refused[entry.session_id] = entry.revision
            _log.error("session_not_reconciled", session_id=entry.session_id, revision=entry.revision, reached=reached)
            return False
        self._reconciled.inc()
        _log.warning("session_reconciled", session_id=entry.session_id, tenant=entry.tenant, revision=entry.revision)
        return True

    async def _handle_each(self, batch: Sequence[Incoming]) -> None:
        for item in batch:
            try:
                await self._handle([item])
            except Drop as drop:
                _log.info("message_still_refused", session_id=item.session_id, reason=drop.reason)

    async def _look_for_unaccounted(self, held: set[str]) -> None:
        """Count the sessions that are open here and that the ledger doesn't hold."""
        with translated():
            rows = await self._pool.fetch(_SELECT_OPEN, MAX_UNACCOUNTED + len(held))
        found: set[str] = set()
        for row in rows:
            if row["id"] in held:
                continue
            subject = subjects.SESSION_LIFECYCLE.format(tenant=row["tenant"], session_id=row["id"])
            # It may have been asked for since the ledger was read.
            if await self._broker.last(STREAM, subject) is None:
                found.add(row["id"])
                if row["id"] not in self._unaccounted:
                    _log.error("session_unaccounted", session_id=row["id"], tenant=row["tenant"])
        self._unaccounted = found
        self._open.set(len(found))
