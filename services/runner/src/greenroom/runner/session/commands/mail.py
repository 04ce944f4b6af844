"""Takes what waits in the session's mailbox: its desired settings first, then the commands from before it was ready.

Settings are there before anybody is answered; so are changes of them at the head of the mailbox, for they are safe with
whichever process has them. The rest waits until the ledger says that the session is ready, so that nothing is carried
out by a process whose lease turns out to be over; and what is for somebody to hear, until somebody is there.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

import structlog

from greenroom.common import mailbox, subjects
from greenroom.common.broker import Broker, Message, Subscription
from greenroom.common.commands import Command, CommandAnswer, CommandRequest, Configure
from greenroom.common.desired import Desired
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.ids import uuid7
from greenroom.common.lifecycle import Session
from greenroom.common.mailbox import Mailbox
from greenroom.common.mailboxes import Mailboxes

_log = structlog.get_logger()

# A start doesn't wait longer than this to learn whether something waits for it, nor for that to be done.
_LOOK_S: Final = 1.0
_RETRY_S: Final = 0.5
# A runner that is gone leaves us one second.
_CLOSE_S: Final = 0.1
# Who has read that the session isn't ready may write until then. The broker says so, unless we are cut off just then.
_LAST_LOOK_S: Final = 15.0
# A session that was leased within this time was hardly known to anybody before.
_AT_ONCE: Final = timedelta(milliseconds=50)


class Mail:
    """The mailbox of one session, seen by its process.

    Args:
        broker: where it is.
        session: whose it is.
        restore: has the settings that a process before us had; called once, before any command.
        carry_out: carries a command out and returns the answer; the same one for the same id.

    Attributes:
        restored: set when the settings that the session had are there, or it had none.
        caught_up: set when what can be done before the session is ready is done.
    """

    def __init__(
        self,
        broker: Broker,
        session: Session,
        *,
        restore: Callable[[Desired], Awaitable[None]],
        carry_out: Callable[[CommandRequest], Awaitable[CommandAnswer]],
    ) -> None:
        self.restored = asyncio.Event()
        self.caught_up = asyncio.Event()
        self._broker = broker
        self._mailboxes = Mailboxes(broker)
        self._session = session
        self._restore = restore
        self._carry_out = carry_out
        # An epoch isn't enough: a runner that is launched twice has two processes of one.
        self._name = f"{session.epoch}/{uuid7()}"
        self._ready = self._somebody_came = self._closing = False
        # Settings that are applied and not written down yet.
        self._unkept: Desired | None = None
        self._wake = asyncio.Event()
        self._subscription: Subscription | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin to hear when something comes."""
        subject = subjects.MAILBOX_STORED.format(tenant=self._session.tenant, session_id=self._session.id)
        self._subscription = await self._broker.subscribe(subject, self._on_stored)

    async def look(self) -> bool:
        """Return whether something waits, as far as can be learned in a second; to be called once subscribed.

        It isn't learned, and done once the session is ready, of one that had a slot at once and no process before us:
        hardly anybody can have sent it anything, and to ask takes 0.8 ms of a start of 18.
        """
        if _had_a_slot_at_once(self._session):
            self._wake.set()
            return False
        try:
            async with asyncio.timeout(_LOOK_S):
                box = await self._mailboxes.read(self._session.tenant, self._session.id)
        except (BrokerUnavailable, TimeoutError) as error:
            _log.warning("mailbox_unread", detail=str(error))
            self._wake.set()
            return False
        owed = box.open or box.desired.version > 0
        if owed:
            self._wake.set()
        else:
            self.restored.set()
        return owed

    def begin(self) -> None:
        """Do what waits, from now on; the pipeline runs."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="mail")

    def on_ready(self) -> None:
        """The ledger says that the session is ready."""
        self._ready = True
        self._wake.set()
        asyncio.get_running_loop().call_later(_LAST_LOOK_S, self._wake.set)

    def on_somebody(self) -> None:
        """Somebody is connected."""
        self._somebody_came = True
        self._wake.set()

    async def keep(self, desired: Desired) -> bool:
        """Write settings down for the next process; return whether that is done, else it will be tried again."""
        try:
            await self._change(lambda box: mailbox.keep(box, desired))
        except BrokerUnavailable:
            self._unkept = desired
            self._wake.set()
            return False
        return True

    async def close(self) -> None:
        """Take nothing more; what is under way is canceled, and answered so if that can be written down at once."""
        self._closing = True
        if self._subscription is not None:
            await self._subscription.unsubscribe()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_CLOSE_S)
            self._task.cancel()

    async def _on_stored(self, _: Message) -> None:
        self._wake.set()

    async def _run(self) -> None:
        retry_s = _RETRY_S
        while not self._closing:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._work()
                self.caught_up.set()
                retry_s = _RETRY_S
            except BrokerUnavailable as error:
                _log.warning("mailbox_unavailable", detail=error.detail, again_in_s=retry_s)
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, _LAST_LOOK_S)
                self._wake.set()

    async def _work(self) -> None:
        if not self.restored.is_set():
            box = await self._mailboxes.read(self._session.tenant, self._session.id)
            if box.desired.version:
                await self._restore(box.desired)
            self.restored.set()
        if (unkept := self._unkept) is not None:
            await self._change(lambda box: mailbox.keep(box, unkept))
            self._unkept = None
        while not self._closing and (request := await self._take()) is not None:
            answer = await self._carry_out(request)
            await self._change(lambda box, answer=answer: mailbox.answer(box, answer))

    async def _take(self) -> CommandRequest | None:
        box = await self._change(lambda box: mailbox.take(box, self._name, self._session.epoch, self._may))
        return mailbox.held(box, self._name)

    def _may(self, command: Command) -> bool:
        if isinstance(command, Configure):
            return True
        return self._ready and (self._somebody_came or not mailbox.needs_somebody(command))

    async def _change(self, change: Callable[[Mailbox], Mailbox]) -> Mailbox:
        return await self._mailboxes.change(self._session.tenant, self._session.id, change)


def _had_a_slot_at_once(session: Session) -> bool:
    if session.epoch != 1 or session.leased_at is None:
        return False
    # Two hosts' clocks: where they differ it is looked.
    return timedelta() <= session.leased_at - session.requested_at < _AT_ONCE
