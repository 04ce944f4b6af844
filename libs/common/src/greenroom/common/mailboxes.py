"""The mailboxes of sessions in the broker: one message each, changed by compare-and-set. See `mailbox`."""

from collections.abc import Callable
from typing import Final

import msgspec

from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, WrongLastSequence
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.mailbox import STREAM, Mailbox

# Two writers, one of them a few instances of the api.
_TRIES: Final = 20


class Mailboxes:
    """Reads and changes mailboxes."""

    def __init__(self, broker: Broker) -> None:
        """Keep them on `broker`."""
        self._broker = broker

    async def read(self, tenant: str, session_id: str) -> Mailbox:
        """Return a session's mailbox; an empty one if it has none.

        Raises:
            BrokerUnavailable: it can't be read now, or not by this version: a later one has put a command into it.
        """
        return (await self._read(subjects.MAILBOX.format(tenant=tenant, session_id=session_id)))[0]

    async def change(self, tenant: str, session_id: str, change: Callable[[Mailbox], Mailbox]) -> Mailbox:
        """Change a mailbox, and return it; nothing is written if `change` changes nothing.

        Args:
            tenant: whose session it is.
            session_id: which.
            change: returns the mailbox as it is to be. May be called several times; what it raises is raised.

        Raises:
            BrokerUnavailable: it isn't known whether it was changed; doing it again is safe.
        """
        subject = subjects.MAILBOX.format(tenant=tenant, session_id=session_id)
        for _ in range(_TRIES):
            before, revision = await self._read(subject)
            after = change(before)
            if after == before:
                return before
            try:
                await self._broker.append(subject, messages.encode(after), expected_last=revision)
            except WrongLastSequence:
                continue
            return after
        raise BrokerUnavailable(f"{subject} was changed by others {_TRIES} times in a row")

    async def _read(self, subject: str) -> tuple[Mailbox, int]:
        message = await self._broker.last(STREAM, subject)
        if message is None:
            return Mailbox(), 0
        try:
            return messages.decode(message.data, Mailbox), message.stream_seq
        except msgspec.MsgspecError as error:
            raise BrokerUnavailable(f"{subject} holds what this version can't read: {error}") from error
