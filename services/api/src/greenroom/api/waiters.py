"""Tells who waits for a session that something has happened to it.

One core subscription a process hears every ledger write. What it hears is only a hint: core NATS also delivers
writes that the stream then refuses (a lost compare-and-set), and may lose some while it reconnects. So whoever is
woken reads the ledger, and looks there from time to time even when nothing was heard.
"""

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

import msgspec

from greenroom.common import subjects
from greenroom.common.broker import Broker, Message, Subscription
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import Session, State

# How long a hint may be missing before the ledger is read without one.
LOOK_EVERY_S: Final = 1.0
# gr.v1.session.{tenant}.{session_id}.lifecycle
_SESSION_TOKEN: Final = 4


class _HintedSession(msgspec.Struct, frozen=True, kw_only=True):
    state: State


class _Hint(msgspec.Struct, frozen=True, kw_only=True):
    session: _HintedSession


_HINT: Final = msgspec.json.Decoder(_Hint)


class Watch:
    """Waits for hints on one session."""

    def __init__(self, states: frozenset[State]) -> None:
        """Be woken when the session seems to have come into one of `states`."""
        self.states: Final = states
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Make `changed` return."""
        self._changed.set()

    async def changed(self, timeout_s: float) -> None:
        """Return at the next hint, or after `timeout_s` without one."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return
        self._changed.clear()


class Waiters:
    """Everybody in this process who waits for a session."""

    def __init__(self, broker: Broker, ledger: Ledger) -> None:
        """Hear the ledger on `broker`, and read it through `ledger`."""
        self._broker = broker
        self._ledger = ledger
        self._watches: dict[str, set[Watch]] = {}
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Begin to listen."""
        self._subscription = await self._broker.subscribe(subjects.SESSION_LIFECYCLE.wildcard(), self._heard)

    async def stop(self) -> None:
        """Stop listening; whoever still waits goes on by looking."""
        if self._subscription is not None:
            await self._subscription.unsubscribe()
            self._subscription = None

    @contextmanager
    def watch(self, session_id: str, states: frozenset[State]) -> Generator[Watch]:
        """Give a watch on a session; open it before the write whose consequences are waited for."""
        watch = Watch(states)
        self._watches.setdefault(session_id, set()).add(watch)
        try:
            yield watch
        finally:
            watches = self._watches[session_id]
            watches.discard(watch)
            if not watches:
                del self._watches[session_id]

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
            await watch.changed(min(left_s, LOOK_EVERY_S))
            try:
                entry = await self._ledger.last(entry.session.tenant, entry.session.id) or entry
            except BrokerUnavailable:
                continue
        return entry

    async def _heard(self, message: Message) -> None:
        watches = self._watches.get(message.subject.split(".")[_SESSION_TOKEN])
        if not watches:
            return
        try:
            state = _HINT.decode(message.data).session.state
        except msgspec.MsgspecError:
            return  # not from us; the recorder parks it
        for watch in watches:
            if state in watch.states:
                watch.wake()
