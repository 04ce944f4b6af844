"""What only the process of a session may know: laid down by the api, taken by the process, gone after a day.

Secrets never go into the ledger, which everybody of the house may read and which is kept. They lie in a stream of
their own, the last message per session, where a used one is overwritten by an empty one.
"""

from collections.abc import Callable, Mapping
from typing import Final

from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, WrongLastSequence
from greenroom.common.messages import SessionSecrets

STREAM: Final = "SECRETS"

# What a bot gets into its room with: of the first one, and (`.` and its name) of those that it goes to later.
ROOM_TOKEN: Final = "room_token"  # noqa: S105 a name, not a token
# Of the rooms that a session may go to: one at a time, and those that it was on its way to in vain.
_MOST_TOKENS: Final = 8


def token_of(values: Mapping[str, str], room: str | None) -> str | None:
    """Return the token for a room among the secrets of a session; None: there is none."""
    return values.get(f"{ROOM_TOKEN}.{room}", values.get(ROOM_TOKEN))


def with_token(values: Mapping[str, str], room: str, token: str, *, now: str | None) -> dict[str, str]:
    """Return the secrets of a session with the token for a room that it is to go to.

    Args:
        values: as they are.
        room: where to.
        token: for it.
        now: the room that it is in, whose token stays however many there are.
    """
    name = f"{ROOM_TOKEN}.{room}"
    kept = {each: value for each, value in values.items() if each != name}
    old = [each for each in kept if each.startswith(f"{ROOM_TOKEN}.") and each != f"{ROOM_TOKEN}.{now}"]
    for each in old[: max(len(old) - _MOST_TOKENS + 1, 0)]:
        del kept[each]
    return {**kept, name: token}


class SecretBox:
    """Keeps the secrets of sessions.

    Args:
        broker: where they lie.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def put(self, tenant: str, session_id: str, values: Mapping[str, str]) -> None:
        """Lay down the secrets of a session, in place of what was there.

        Raises:
            MessageTooLarge: they have more than 64 KiB.
            BrokerUnavailable: they weren't stored.
        """
        secrets = SessionSecrets(values=dict(values))
        await self._broker.append(_subject(tenant, session_id), messages.encode(secrets))

    async def change(self, tenant: str, session_id: str, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
        """Lay down the secrets of a session as `change` makes them of those that are there; it may be called again.

        Raises:
            MessageTooLarge: they have more than 64 KiB.
            BrokerUnavailable: they weren't stored, or aren't known to be.
        """
        subject = _subject(tenant, session_id)
        while True:
            stored = await self._broker.last(STREAM, subject)
            values = messages.decode(stored.data, SessionSecrets).values if stored is not None and stored.data else {}
            data = messages.encode(SessionSecrets(values=change(values)))
            try:
                await self._broker.append(subject, data, expected_last=stored.stream_seq if stored is not None else 0)
            except WrongLastSequence:
                continue
            return

    async def take(self, tenant: str, session_id: str, *, keep: bool) -> dict[str, str]:
        """Return the secrets of a session: none if there are none, or they were taken.

        Args:
            tenant: of the session.
            session_id: which.
            keep: leave them for another try, in case this process is lost.

        Raises:
            BrokerUnavailable: they can't be read.
        """
        subject = _subject(tenant, session_id)
        stored = await self._broker.last(STREAM, subject)
        if stored is None or not stored.data:
            return {}
        if not keep:
            try:
                await self._broker.append(subject, b"", expected_last=stored.stream_seq)
            except WrongLastSequence:
                # They were laid down anew, or somebody else has them: what counts is what is there now.
                return await self.take(tenant, session_id, keep=keep)
        return messages.decode(stored.data, SessionSecrets).values

    async def forget(self, tenant: str, session_id: str) -> None:
        """Take away the secrets of a session that is over; nothing if there are none.

        Raises:
            BrokerUnavailable: they may still be there.
        """
        subject = _subject(tenant, session_id)
        stored = await self._broker.last(STREAM, subject)
        if stored is not None and stored.data:
            await self._broker.append(subject, b"")


def _subject(tenant: str, session_id: str) -> str:
    return subjects.SECRET.format(tenant=tenant, session_id=session_id)
