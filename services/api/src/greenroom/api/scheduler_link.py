"""What the leading scheduler can be asked."""

from typing import Final, cast

import msgspec

from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, NoResponder, RequestTimeout
from greenroom.common.errors import BrokerUnavailable, SchedulerUnavailable
from greenroom.common.messages import (
    PoolsAnswer,
    PoolsQuery,
    QueuePage,
    QueuePageQuery,
    QueuePosition,
    QueueQuery,
)
from greenroom.common.move_messages import MoveAnswer, MoveQuery
from greenroom.common.pins import PinsAnswer, PinsQuery

# Whoever wants to know the position in the queue doesn't want to queue for it.
_POSITION_TIMEOUT_S: Final = 0.2
# Of thousands of runners or waiting sessions; a leader that is planning answers after that.
_LISTING_TIMEOUT_S: Final = 1.0
# One append, which a broker whose leader was killed takes some seconds for.
_MOVE_TIMEOUT_S: Final = 10.0


class SchedulerLink:
    """Questions to whoever leads. Every method raises `SchedulerUnavailable` where nobody answers in time."""

    def __init__(self, broker: Broker) -> None:
        """Ask over `broker`."""
        self._broker = broker

    async def position(self, session_id: str) -> QueuePosition:
        """Return where a session stands in the queue, and why."""
        return await self._ask("queue", QueueQuery(session_id=session_id), QueuePosition, _POSITION_TIMEOUT_S)

    async def waiting(self, query: QueuePageQuery) -> QueuePage:
        """Return a part of the queue."""
        return await self._ask("waiting", query, QueuePage, _LISTING_TIMEOUT_S)

    async def pools(self) -> PoolsAnswer:
        """Return how pools and limits stand."""
        return await self._ask("pools", PoolsQuery(), PoolsAnswer, _LISTING_TIMEOUT_S)

    async def pins(self) -> PinsAnswer:
        """Return how the pins stand."""
        return await self._ask("pins", PinsQuery(), PinsAnswer, _LISTING_TIMEOUT_S)

    async def keep_room(self, query: MoveQuery) -> MoveAnswer:
        """Have another room kept for a live session, which goes there then; the same `id` is the same move."""
        return await self._ask("move", query, cast("type[MoveAnswer]", MoveAnswer), _MOVE_TIMEOUT_S)

    async def _ask[T](self, name: str, query: msgspec.Struct, kind: type[T], timeout_s: float) -> T:
        subject = subjects.REQUEST.format(service="scheduler", name=name)
        try:
            reply = await self._broker.request(subject, messages.encode(query), timeout_s=timeout_s)
            return messages.decode(reply.data, kind)
        except (NoResponder, RequestTimeout, BrokerUnavailable, msgspec.MsgspecError) as error:
            raise SchedulerUnavailable from error
