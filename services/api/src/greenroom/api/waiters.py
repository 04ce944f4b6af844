"""Tells whoever waits for a session that something has happened to it.

A core subscription to the session's ledger subject, for as long as somebody waits: the ledger's traffic of all the
others costs nothing here. What is heard is only a hint. Core NATS also delivers writes that the stream then refuses
(a lost compare-and-set), and may lose some while it reconnects. So whoever is woken reads the ledger, and looks there
from time to time even when nothing was heard.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from greenroom.common import subjects
from greenroom.common.broker import Broker, Message
from greenroom.common.errors import BrokerUnavailable, LedgerCorrupt
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import Session, State

# How long a hint may be missing before the ledger is read without one.
LOOK_EVERY_S: Final = 1.0
# A session has some six transitions.
_MAX_HINTS: Final = 32
# A write is heard of as it comes, up to some milliseconds before it can be read: then it is looked for again.
_LOOK_AFTER_S: Final = (0.0, 0.001, 0.003, 0.01, 0.05)


class _HintedSession(msgspec.Struct, frozen=True, kw_only=True):
    state: State


class _Hint(msgspec.Struct, frozen=True, kw_only=True):
    session: _HintedSession


_HINT: Final = msgspec.json.Decoder(_Hint)


class Watch:
    """Waits for hints on one session."""

    def __init__(self, states: frozenset[State]) -> None:
        """Be woken when the session seems to have come into one of `states`."""
        self._states = states
        self._changed = asyncio.Event()

    async def changed(self, timeout_s: float) -> bool:
        """Return True at the next hint, or False after `timeout_s` without one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        hinted = self._changed.is_set()
        self._changed.clear()
        return hinted

    def shows(self, session: Session) -> bool:
        """Tell whether the session is in one of the states that hints are taken for."""
        return session.state in self._states

    async def heard(self, message: Message) -> None:
        """Take a hint."""
        try:
            state = _HINT.decode(message.data).session.state
        except msgspec.MsgspecError:
            return  # not from us; the recorder parks it
        if state in self._states:
            self._changed.set()


class Waiters:
    """Waiting for sessions."""

    def __init__(self, broker: Broker, ledger: Ledger) -> None:
        """Hear hints on `broker`, and read the truth from `ledger`."""
        self._broker = broker
        self._ledger = ledger

    @asynccontextmanager
    async def watch(self, tenant: str, session_id: str, states: frozenset[State]) -> AsyncGenerator[Watch]:
        """Give a watch on a session; open it before the write whose consequences are waited for.

        Raises:
            BrokerUnavailable: not connected.
        """
        watch = Watch(states)
        subject = subjects.SESSION_LIFECYCLE.format(tenant=tenant, session_id=session_id)
        # Hints are as good as one another: of many that come at once some may be dropped.
        subscription = await self._broker.subscribe(subject, watch.heard, max_pending=_MAX_HINTS)
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
            hinted = await watch.changed(min(left_s, LOOK_EVERY_S))
            for delay_s in _LOOK_AFTER_S if hinted else _LOOK_AFTER_S[:1]:
                await asyncio.sleep(delay_s)
                entry = await self._look(entry)
                if watch.shows(entry.session):
                    break
        return entry

    async def _look(self, entry: Entry) -> Entry:
        try:
            return await self._ledger.last(entry.session.tenant, entry.session.id) or entry
        except (BrokerUnavailable, LedgerCorrupt):
            return entry
