"""What the leading scheduler answers to whoever asks: why a session waits, who waits, how pools and limits stand."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Final

import msgspec
import structlog

from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, Message
from greenroom.common.clock import Clock
from greenroom.common.lifecycle import State
from greenroom.common.messages import PoolsAnswer, PoolsQuery, QueuePageQuery, QueuePosition, QueueQuery
from greenroom.common.pins import PinsAnswer, PinsQuery
from greenroom.scheduler.keeper import Keeper
from greenroom.scheduler.launching_said import is_launching, launching
from greenroom.scheduler.outlook import Outlook
from greenroom.scheduler.picture import Picture
from greenroom.scheduler.pin_keeper import PinKeeper

_log = structlog.get_logger()

# A page of the queue goes into one message.
MAX_PAGE: Final = 500


class Answers:
    """See the module.

    Args:
        broker: questions come from it.
        picture: what is known.
        keeper: of the pools.
        pins: of the pinned sessions.
        clock: time.
        leader: who answers.
        pool: the one pool that is scheduled here; None: all.
    """

    def __init__(
        self,
        broker: Broker,
        picture: Picture,
        keeper: Keeper,
        pins: PinKeeper,
        *,
        clock: Clock,
        leader: str,
        pool: str | None = None,
    ) -> None:
        self._broker = broker
        self._picture = picture
        self._keeper = keeper
        self._pins = pins
        self._clock = clock
        self._leader = leader
        self._pool = pool
        self._outlook: Outlook | None = None

    async def open(self, stack: AsyncExitStack) -> None:
        """Answer until `stack` is closed."""
        questions = {"queue": self._queue, "waiting": self._waiting, "pools": self._pools, "pins": self._pinned}
        for name, answer in questions.items():
            subject = subjects.REQUEST.format(service="scheduler", name=name)
            subscription = await self._broker.subscribe(subject, self._answering(answer))
            stack.push_async_callback(subscription.unsubscribe)

    @property
    def outlook(self) -> Outlook:
        """Why sessions wait: computed once a tick at most, however many ask."""
        if self._outlook is None:
            self._outlook = self._picture.board.outlook()
        return self._outlook

    def renew(self) -> None:
        """Compute why sessions wait anew for the next who asks."""
        self._outlook = None

    def _answering(self, answer: Callable[[bytes], msgspec.Struct | None]) -> Callable[[Message], Awaitable[None]]:
        async def answering(message: Message) -> None:
            try:
                found = answer(message.data)
            except msgspec.MsgspecError as error:
                _log.warning("question_malformed", subject=message.subject, error=str(error))
                return
            if found is not None and message.reply:
                await self._broker.publish(message.reply, messages.encode(found))

        return answering

    def _queue(self, data: bytes) -> QueuePosition | None:
        session_id = messages.decode(data, QueueQuery).session_id
        waiting = self.outlook.of(session_id)
        if waiting is not None:
            return QueuePosition(session_id=session_id, position=waiting.position, of=waiting.of, reason=str(waiting))
        entry = self._picture.entry(session_id)
        if entry is None and self._pool is not None:
            return None  # another pool's leader may know it
        if entry is not None and is_launching(entry.session):
            known = self._keeper.cold_starts(entry.session.pool)
            reason = launching(entry.session, known, self._clock.now())
            return QueuePosition(session_id=session_id, position=0, of=0, reason=reason)
        state = entry.session.state if entry else State.ENDED
        reason = "it is being decided on" if state is State.REQUESTED else f"it doesn't wait: it is {state}"
        return QueuePosition(session_id=session_id, position=0, of=0, reason=reason)

    def _waiting(self, data: bytes) -> msgspec.Struct:
        query = messages.decode(data, QueuePageQuery)
        offset, limit = max(query.offset, 0), min(max(query.limit, 0), MAX_PAGE)
        return self.outlook.page(msgspec.structs.replace(query, offset=offset, limit=limit))

    def _pinned(self, data: bytes) -> PinsAnswer:
        messages.decode(data, PinsQuery)
        return self._pins.answer()

    def _pools(self, data: bytes) -> PoolsAnswer:
        messages.decode(data, PoolsQuery)
        board = self._picture.board
        return PoolsAnswer(
            policy_revision=board.policy.revision,
            leader=self._leader,
            pools=self._keeper.states(),
            usage=board.usage(),
            rolled_back=self._picture.verdicts.rolled_back,
        )
