"""Publishes a call as its session process does: the same emitter, the same spool, and the ledger around them."""

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from greenroom.common import messages
from greenroom.common.clock import utcnow
from greenroom.common.events import event_of
from greenroom.common.ids import uuid7
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import Ended, Leased, Outcome, Ready, Requested, Session, Started, Transition
from greenroom.common.messages import Event, EventType, LedgerEntry
from greenroom.common.nats_broker import NatsBroker
from greenroom.common.spool import Spool
from greenroom.runner.session.audio import Chunk
from greenroom.runner.session.emitter import Emitter
from tests.support.chaos.calls import RATE, SIDES, Call, Said, audio
from tests.support.chaos.stage_clock import StageClock

TENANT = "t"
# What a call has left to say waits for the broker for as long; a session process would leave it to its runner.
_FLUSH_S = 90.0
_RUNNER = "runner-1"


class NotedSpool(Spool):
    """A spool whose events are known."""

    def __init__(self, broker: NatsBroker) -> None:
        super().__init__(broker)
        self.events: list[Event] = []

    def put(
        self,
        subject: str,
        data: bytes,
        *,
        msg_id: str,
        headers: Mapping[str, str] | None = None,
        droppable: bool = False,
    ) -> bool:
        """See `Spool.put`."""
        if not droppable:
            self.events.append(messages.decode(data, Event))
        return super().put(subject, data, msg_id=msg_id, headers=headers, droppable=droppable)


class Caller:
    """One call.

    Args:
        broker: a connection of its own.
        seed: of the run.
        call: what it consists of.
    """

    def __init__(self, broker: NatsBroker, seed: int, call: Call) -> None:
        self.call = call
        # Everything that is to be stored, in its order, as it was published.
        self.told: list[Event] = []
        self.revision = 0
        now = utcnow()
        self.session = Session(
            id=uuid7(), tenant=TENANT, agent="echo", bot="echo", requested_at=now, queue_deadline_at=now
        )
        self._broker = broker
        self._seed = seed
        self._ledger = Ledger(broker)

    async def run(self, clock: StageClock) -> None:
        """Publish the call, by the clock of the run.

        Raises:
            AssertionError: the broker didn't take all of it in time.
        """
        first = next((step.at_s for step in self.call.steps), 0.0)
        await clock.until(first)
        entry = self._note(await self._ledger.create(Requested(session=self.session)))
        for transition in (
            Leased(runner_id=_RUNNER, epoch=1, expires_at=utcnow()),
            Started(runner_id=_RUNNER, epoch=1),
            Ready(epoch=1),
        ):
            entry = await self._advance(entry, transition)
        spool = NotedSpool(self._broker)
        publishing = asyncio.create_task(spool.run())
        try:
            await self._speak(Emitter(spool, entry.session), clock)
            left = await spool.flush(_FLUSH_S)
        finally:
            publishing.cancel()
        assert (left, spool.dropped) == (0, 0), f"call {self.call.number} didn't get rid of all it had to say"
        self.told += spool.events
        ended = Ended(by="runner", epoch=1, outcome=Outcome.COMPLETED, reason="goodbye")
        self.revision = (await self._advance(entry, ended)).revision

    async def _advance(self, entry: Entry, transition: Transition) -> Entry:
        return self._note(await self._ledger.advance(entry, transition))

    def _note(self, entry: Entry) -> Entry:
        stored = LedgerEntry(id="", at=entry.at, transition=entry.transition, session=entry.session)
        self.told.append(event_of(stored))
        return entry

    async def _speak(self, emitter: Emitter, clock: StageClock) -> None:
        sounds = {side: audio(self._seed, self.call.number, side, self.call.samples) for side in SIDES}
        origin_ns = int(self.session.requested_at.timestamp() * 1e9)
        emitter.emit(EventType.CALL_STARTED, {"call": self.call.number})
        for step in self.call.steps:
            await clock.until(step.at_s)
            if isinstance(step, Said):
                assert emitter.emit(step.kind, step.data)
                continue
            pcm = sounds[step.side][step.position : step.position + step.samples].tobytes()
            emitter.audio(step.side, Chunk(position=step.position, pcm=pcm), origin_ns)
        await clock.until(self.call.end_s)
        emitter.emit(EventType.CALL_COMPLETED, {"chunks": emitter.chunks, "rate": RATE})


def shown(event: Event) -> dict[str, Any]:
    """Return an event as its row has to be; of a transition the id isn't known here."""
    row = msgspec.structs.asdict(event)
    row["data"] = msgspec.to_builtins(event.data)
    return row
