"""Tells whoever waits for a session what has happened to it.

A core subscription to what the broker says of the session's ledger once it is stored, for as long as somebody waits:
the ledger's traffic of all the others costs nothing here, and nothing has to be read. Core NATS may lose messages
while it reconnects, so the ledger is read from time to time all the same.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final

from greenroom.common import subjects
from greenroom.common.broker import Broker, Message
from greenroom.common.errors import BrokerUnavailable, LedgerCorrupt
from greenroom.common.ledger import Entry, Ledger, stored_entry
from greenroom.common.lifecycle import Session, State

# How long a message may be missing before the ledger is read without one.
LOOK_EVERY_S: Final = 1.0
# A session has some six transitions.
_MAX_PENDING: Final = 32


class Watch:
    """What is heard of one session."""

    def __init__(self, states: frozenset[State]) -> None:
        """Be woken when the session comes into one of `states`."""
        self._states = states
        self._changed = asyncio.Event()
        self._newest: Entry | None = None

    async def newer(self, revision: int, timeout_s: float) -> Entry | None:
        """Return what was heard that is newer than `revision`, or None if nothing is within `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        self._changed.clear()
        newest = self._newest
        return newest if newest is not None and newest.revision > revision else None

    async def heard(self, message: Message) -> None:
        """Take what the broker says."""
        try:
            entry = stored_entry(message)
        except ValueError:
            return  # not from us; the recorder parks it
        if self._newest is None or entry.revision > self._newest.revision:
            self._newest = entry
        if entry.session.state in self._states:
            self._changed.set()


class Waiters:
    """Waiting for sessions."""

    def __init__(self, broker: Broker, ledger: Ledger) -> None:
        """Hear of changes on `broker`, and look into `ledger` from time to time."""
        self._broker = broker
        self._ledger = ledger

    @asynccontextmanager
    async def watch(self, tenant: str, session_id: str, states: frozenset[State]) -> AsyncGenerator[Watch]:
        """Give a watch on a session; open it before the write whose consequences are waited for.

        Raises:
            BrokerUnavailable: not connected.
        """
        watch = Watch(states)
        subject = subjects.SESSION_STORED.format(tenant=tenant, session_id=session_id)
        subscription = await self._broker.subscribe(subject, watch.heard, max_pending=_MAX_PENDING)
        try:
            yield watch
        finally:
            await subscription.unsubscribe()

    async def wait(self, watch: Watch, entry: Entry, done: Callable[[Session], bool], timeout_s: float) -> Entry:
        """Wait until `done` holds for the session or it has ended, at most `timeout_s`.

        Args:
            watch: on the session.
            entry: its last known ledger entry.
            done: what is waited for.
            timeout_s: how long.

        Returns:
            The last entry that is known then.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not done(entry.session) and not entry.session.ended:
            left_s = deadline - loop.time()
            if left_s <= 0:
                break
            newer = await watch.newer(entry.revision, min(left_s, LOOK_EVERY_S))
            entry = newer if newer is not None else await self._look(entry)
        return entry

    async def _look(self, entry: Entry) -> Entry:
        try:
            return await self._ledger.last(entry.session.tenant, entry.session.id) or entry
        except (BrokerUnavailable, LedgerCorrupt):
            return entry
