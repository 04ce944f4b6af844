"""The scheduler as the api meets it: it answers questions and decides on requests, by what a test tells it."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Self

from greenroom.common import messages, subjects
from greenroom.common.broker import Message, Responder, Subscription
from greenroom.common.clock import utcnow
from greenroom.common.errors import IllegalTransition, LedgerConflict
from greenroom.common.ledger import Ledger, LedgerReader
from greenroom.common.lifecycle import Ended, Leased, Outcome, Session, State, Transition
from greenroom.common.messages import PoolsAnswer, QueuePage, QueuePageQuery, WaitingSession
from greenroom.common.nats_broker import NatsBroker
from greenroom.common.pins import PinsAnswer, PinState

type Decide = Callable[[Session], Transition | None]


def leases(session: Session) -> Transition:
    """Decide to lease."""
    return Leased(runner_id="runner-1", epoch=session.epoch + 1, expires_at=utcnow())


def refuses(reason: str, retry_after_s: float | None = None) -> Decide:
    """Return the decision to refuse."""

    def decide(session: Session) -> Transition:
        return Ended(
            by="scheduler",
            epoch=session.epoch,
            outcome=Outcome.REJECTED,
            reason=reason,
            detail="20 of 20",
            retry_after_s=retry_after_s,
        )

    return decide


class LeadingScheduler:
    """Leads for the time of the block.

    Args:
        broker: a connection of its own.
        decide: what becomes of a session that is requested; None: nothing.
        pools: what it answers when it is asked for pools.
        waiting: the queue, of all tenants.
        pins: what it answers when it is asked for pins.
    """

    def __init__(
        self,
        broker: NatsBroker,
        *,
        decide: Decide | None = None,
        pools: PoolsAnswer | None = None,
        waiting: Sequence[WaitingSession] = (),
        pins: Sequence[PinState] = (),
    ) -> None:
        self.pools = pools or PoolsAnswer(policy_revision=0, leader="sched-1", pools=())
        self.waiting = waiting
        self.pins = pins
        self.asked: list[QueuePageQuery] = []
        self._broker = broker
        self._ledger = Ledger(broker)
        self._decide = decide
        self._subscriptions: list[Subscription] = []
        self._following: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin to answer and to decide."""
        questions: dict[str, Responder] = {"waiting": self._on_waiting, "pools": self._on_pools, "pins": self._on_pins}
        for name, responder in questions.items():
            subject = subjects.REQUEST.format(service="scheduler", name=name)
            self._subscriptions.append(await self._broker.serve(subject, responder))
        await self._broker.client.flush()
        if self._decide is not None:
            self._following = asyncio.create_task(self._follow(await self._ledger.watch(), self._decide))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Lead no more."""
        while self._subscriptions:
            await self._subscriptions.pop().unsubscribe()
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following

    async def _follow(self, reader: LedgerReader, decide: Decide) -> None:
        try:
            async for entry in reader:
                if entry.session.state is State.REQUESTED:
                    transition = decide(entry.session)
                    if transition is not None:
                        with contextlib.suppress(LedgerConflict, IllegalTransition):
                            await self._ledger.advance(entry, transition)
        finally:
            await reader.close()

    async def _on_pools(self, _message: Message) -> bytes:
        return messages.encode(self.pools)

    async def _on_pins(self, _message: Message) -> bytes:
        return messages.encode(PinsAnswer(policy_revision=self.pools.policy_revision, pins=tuple(self.pins)))

    async def _on_waiting(self, message: Message) -> bytes:
        query = messages.decode(message.data, QueuePageQuery)
        self.asked.append(query)
        found = [
            each for each in self.waiting if query.tenant in {None, each.tenant} and query.pool in {None, each.pool}
        ]
        page = tuple(found[query.offset : query.offset + query.limit])
        return messages.encode(QueuePage(total=len(found), waiting=page))
