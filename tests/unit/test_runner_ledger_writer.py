"""How a runner writes one session's transitions, and sees what others write."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta

from greenroom.common.clock import SystemClock, utcnow
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import (
    Connected,
    Ended,
    Ending,
    Leased,
    Move,
    Moved,
    Moving,
    Outcome,
    Ready,
    Requested,
    Requeued,
    Session,
    Started,
    State,
    Stayed,
    Transition,
)
from greenroom.runner.ledger_writer import LedgerWriter
from tests.support.memory_broker import MemoryBroker, MemoryServer

RUNNER = "runner-1"
DEADLINE_S = 5.0


class Scene:
    """A leased session, the runner's writer for it, and what the writer has called."""

    def __init__(self, server: MemoryServer, leased: Entry) -> None:
        self.broker: MemoryBroker = server.connect()
        self.others = Ledger(server.connect())
        self.stored: list[str] = []
        self.stops: list[Ending] = []
        self.fenced: list[str] = []
        self.moves: list[Move] = []
        self.writer = LedgerWriter(
            self.broker,
            Ledger(self.broker),
            leased,
            clock=SystemClock(),
            on_stored=lambda transition: self.stored.append(type(transition).__name__),
            on_stop=self.stops.append,
            on_move=self.moves.append,
            on_fenced=self.fenced.append,
        )

    async def move(self, transition: Transition) -> Entry:
        """Have somebody else write."""
        return await self.others.move("default", "s1", lambda _: transition)

    async def state(self) -> Session:
        """The session as the ledger has it."""
        entry = await self.others.last("default", "s1")
        assert entry is not None
        return entry.session

    async def until(self, *stored: str) -> None:
        """Wait until these are stored."""
        async with asyncio.timeout(DEADLINE_S):
            while self.stored[-len(stored) :] != list(stored):
                await asyncio.sleep(0.005)


@asynccontextmanager
async def scene() -> AsyncGenerator[Scene]:
    """A session that was requested and leased, and a running writer."""
    server = MemoryServer()
    ledger, now = Ledger(server.connect()), utcnow()
    session = Session(id="s1", tenant="default", agent="echo", bot="echo", requested_at=now, queue_deadline_at=now)
    requested = await ledger.create(Requested(session=session))
    lease = Leased(runner_id=RUNNER, epoch=1, expires_at=now + timedelta(seconds=5))
    made = Scene(server, await ledger.advance(requested, lease))
    run = asyncio.create_task(made.writer.run())
    try:
        yield made
    finally:
        made.broker.connected = True
        made.writer.stop()
        async with asyncio.timeout(DEADLINE_S):
            await run


def end(reason: str = "goodbye") -> Ended:
    """The last transition."""
    return Ended(by="session", epoch=1, outcome=Outcome.COMPLETED, reason=reason)


async def test_transitions_are_written_in_order() -> None:
    """What is put is stored one after the other, and the writer ends when it is told that nothing more comes."""
    async with scene() as it:
        it.writer.put(Started(runner_id=RUNNER, epoch=1))
        it.writer.put(Ready(epoch=1))
        it.writer.put(Connected(epoch=1))
        it.writer.put(Ending(by="session", epoch=1, reason="goodbye"))
        it.writer.put(end())
        it.writer.finish()
        await it.until("Started", "Ready", "Connected", "Ending", "Ended")
        history = await it.others.history("default", "s1")
        assert [entry.session.state.value for entry in history][2:] == ["started", "ready", "ready", "ending", "ended"]


async def test_a_stop_by_a_client_is_seen_and_overtakes_what_waits() -> None:
    """When a client has stopped the session the writer says so, drops what is impossible now, and writes the end."""
    async with scene() as it:
        it.writer.put(Started(runner_id=RUNNER, epoch=1))
        await it.until("Started")
        await it.move(Ending(by="client", epoch=1, reason="client-stop"))
        it.writer.put(Ready(epoch=1))
        async with asyncio.timeout(DEADLINE_S):
            while not it.stops:
                await asyncio.sleep(0.005)
        assert it.stops[0].reason == "client-stop"
        it.writer.put(end("client-stop"))
        await it.until("Ended")
        assert "Ready" not in it.stored
        assert (await it.state()).reason == "client-stop"


async def test_a_stop_before_the_claim_leaves_the_session_ours() -> None:
    """A client that stops a session between lease and claim is told of by the writer, and the claim counts as made."""
    async with scene() as it:
        await it.move(Ending(by="client", epoch=1, reason="client-stop"))
        it.writer.put(Started(runner_id=RUNNER, epoch=1))
        await it.until("Started")
        assert [stop.reason for stop in it.stops] == ["client-stop"]
        assert not it.fenced


async def test_a_session_that_was_given_away_is_fenced() -> None:
    """When the scheduler has put the session back, nothing of this runner is written any more."""
    async with scene() as it:
        await it.move(Requeued(epoch=1, reason="lease-expired"))
        it.writer.put(Started(runner_id=RUNNER, epoch=1))
        it.writer.put(Ready(epoch=1))
        async with asyncio.timeout(DEADLINE_S):
            while not it.fenced:
                await asyncio.sleep(0.005)
        assert it.fenced == ["state requested, epoch 1, runner none"]
        it.writer.put(end())
        assert (await it.state()).state is State.REQUESTED
        assert it.stored == []


async def test_a_session_that_was_declared_lost_is_fenced_without_waiting_for_a_write() -> None:
    """The end that the scheduler writes for a lost runner is heard at once by a runner that lives after all."""
    async with scene() as it:
        it.writer.put(Started(runner_id=RUNNER, epoch=1))
        await it.until("Started")
        await it.move(Ended(by="scheduler", epoch=1, outcome=Outcome.LOST, reason="runner-lost"))
        async with asyncio.timeout(DEADLINE_S):
            while not it.fenced:
                await asyncio.sleep(0.005)
        assert it.fenced == ["ended by the scheduler as lost (runner-lost)"]


async def test_an_outage_delays_writes_and_loses_none() -> None:
    """What happens while the broker is away is written when it is back."""
    async with scene() as it:
        it.writer.put(Started(runner_id=RUNNER, epoch=1))
        await it.until("Started")
        it.broker.connected = False
        it.writer.put(Ready(epoch=1))
        it.writer.put(end())
        await asyncio.sleep(0.3)
        assert it.stored == ["Started"]
        it.broker.connected = True
        await it.until("Started", "Ready", "Ended")


async def test_what_was_missed_in_an_outage_is_read() -> None:
    """A stop that was written while this runner was cut off is found when it looks."""
    async with scene() as it:
        it.writer.put(Started(runner_id=RUNNER, epoch=1))
        await it.until("Started")
        it.broker.connected = False
        await it.move(Ending(by="client", epoch=1, reason="client-stop"))
        await asyncio.sleep(0.05)
        assert not it.stops
        it.broker.connected = True
        it.writer.look()
        async with asyncio.timeout(DEADLINE_S):
            while not it.stops:
                await asyncio.sleep(0.005)
        assert it.stops[0].by == "client"


async def test_a_write_whose_answer_was_lost_is_not_written_twice() -> None:
    """When a transition turns out to be stored already, the writer goes on from there."""
    async with scene() as it:
        await it.move(Started(runner_id=RUNNER, epoch=1))
        it.writer.put(Started(runner_id=RUNNER, epoch=1))
        it.writer.put(Ready(epoch=1))
        await it.until("Started", "Ready")
        history = await it.others.history("default", "s1")
        assert [type(entry.transition).__name__ for entry in history] == ["Requested", "Leased", "Started", "Ready"]
        assert not it.fenced


async def test_a_move_is_told_once_and_its_end_is_written_once() -> None:
    """However often the ledger is read; also when the write of its end was stored though nobody heard of it."""
    async with scene() as it:
        it.writer.put(Started(runner_id=RUNNER, epoch=1))
        it.writer.put(Ready(epoch=1))
        await it.until("Started", "Ready")
        await it.move(Moving(epoch=1, id="m-1", room="hall", transport_info={"room": "hall"}))
        async with asyncio.timeout(DEADLINE_S):
            while not it.moves:
                await asyncio.sleep(0.005)
        it.writer.look()
        it.writer.put(Stayed(epoch=1, id="m-1", detail="closed"))
        await it.until("Stayed")
        assert (await it.state()).moving is None
        await it.move(Moving(epoch=1, id="m-2", room="hall", transport_info={"room": "hall"}))
        async with asyncio.timeout(DEADLINE_S):
            while len(it.moves) < 2:
                await asyncio.sleep(0.005)
        await it.move(Moved(epoch=1, id="m-2"))
        it.writer.put(Moved(epoch=1, id="m-2"))
        await it.until("Moved")
        assert [move.id for move in it.moves] == ["m-1", "m-2"]
        history = [type(entry.transition).__name__ for entry in await it.others.history("default", "s1")]
        assert history[4:] == ["Moving", "Stayed", "Moving", "Moved"]
        assert (await it.state()).room == "hall"
        assert not it.fenced


async def test_a_move_that_was_missed_in_an_outage_is_read() -> None:
    """What the broker said while it was away is in the ledger."""
    async with scene() as it:
        it.writer.put(Started(runner_id=RUNNER, epoch=1))
        it.writer.put(Ready(epoch=1))
        await it.until("Started", "Ready")
        it.broker.connected = False
        await it.move(Moving(epoch=1, id="m-1", transport_info={"room": "hall"}))
        it.broker.connected = True
        it.writer.look()
        async with asyncio.timeout(DEADLINE_S):
            while not it.moves:
                await asyncio.sleep(0.005)


async def test_a_claim_by_another_process_of_the_same_id_is_fenced() -> None:
    """A cold runner that was launched twice is two processes with one id: whose claim isn't in the ledger leaves."""
    async with scene() as it:
        await it.move(Started(runner_id=RUNNER, epoch=1, claim="another"))
        it.writer.put(Started(runner_id=RUNNER, epoch=1, claim=it.writer.claim))
        async with asyncio.timeout(DEADLINE_S):
            while not it.fenced:
                await asyncio.sleep(0.005)
        assert it.stored == []
        assert (await it.state()).claim == "another"


async def test_a_claim_whose_answer_was_lost_is_known_again() -> None:
    """It says whose it is."""
    async with scene() as it:
        it.broker.lose_acks = 100
        it.writer.put(Started(runner_id=RUNNER, epoch=1, claim=it.writer.claim))
        await asyncio.sleep(0.05)
        it.broker.lose_acks = 0
        await it.until("Started")
        assert it.fenced == []
        assert (await it.state()).claim == it.writer.claim


async def test_a_call_whose_ledger_is_garbage_goes_on_and_frees_its_slot_at_its_end() -> None:
    """Nothing can be written, and nobody is cut off for it; at the end the runner lets go without having written."""
    async with scene() as made:
        made.writer.put(Started(runner_id=RUNNER, epoch=1))
        await made.until("Started")
        await made.broker.append("gr.v1.session.default.s1.lifecycle", b"{")
        made.writer.put(Ready(epoch=1))
        await asyncio.sleep(0.1)
        assert (made.fenced, made.stored) == ([], ["Started"])
        made.writer.put(end())
        async with asyncio.timeout(DEADLINE_S):
            while not made.fenced:
                await asyncio.sleep(0.005)
        assert "is no entry" in made.fenced[0]
