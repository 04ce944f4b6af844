"""The ledger, in virtual time: lost acknowledgements, outages, and writers that know nothing of one another."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from greenroom.common import subjects
from greenroom.common.errors import (
    BrokerUnavailable,
    IllegalTransition,
    LedgerConflict,
    LedgerCorrupt,
    StaleEpoch,
)
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import (
    Connected,
    Ended,
    Ending,
    Outcome,
    Ready,
    Requeued,
    Session,
    Started,
    State,
    Transition,
)
from tests.support.leaping_time import LoopClock, VirtualTimeLoop, run_virtual
from tests.support.ledgers import assert_legal, call, leased, request
from tests.support.memory_broker import MemoryBroker, MemoryServer


def test_a_write_whose_acknowledgement_is_lost_is_found_again() -> None:
    """The repeated try meets its own message: it is stored once, and the caller never knows."""

    async def scenario() -> None:
        broker = MemoryBroker()
        ledger = Ledger(broker, clock=LoopClock())
        broker.lose_acks = 1
        entry = await ledger.create(request("s1"))
        for transition in call():
            broker.lose_acks = 1
            entry = await ledger.advance(entry, transition)
        history = await ledger.history("acme", "s1")
        assert [kept.revision for kept in history] == [1, 2, 3, 4, 5]
        assert history[-1] == entry
        assert_legal(history)

    run_virtual(scenario())


def test_a_lost_acknowledgement_is_found_behind_what_others_wrote_since() -> None:
    """Somebody built on the write before it was repeated: it is the writer's all the same."""

    async def scenario() -> None:
        broker = MemoryBroker()
        ledger, other = Ledger(broker, clock=LoopClock()), Ledger(broker.server.connect(), clock=LoopClock())
        entry = await ledger.create(request("s1"))
        broker.lose_acks = 1
        writing = asyncio.create_task(ledger.advance(entry, leased()))
        await asyncio.sleep(0.1)  # stored, and not yet repeated
        last = await other.last("acme", "s1")
        assert last is not None
        await other.advance(last, Started(runner_id="r1", epoch=1))
        assert (await writing).session == last.session
        assert len(await ledger.history("acme", "s1")) == 3

    run_virtual(scenario())


def test_a_repeated_try_that_was_overtaken_is_a_conflict() -> None:
    """The first try got lost on the way there, and somebody else was faster."""

    async def scenario() -> None:
        broker = MemoryBroker()
        ledger, other = Ledger(broker, clock=LoopClock()), Ledger(broker.server.connect(), clock=LoopClock())
        entry = await ledger.create(request("s1"))
        broker.connected = False
        writing = asyncio.create_task(ledger.advance(entry, leased(runner_id="r1")))
        await asyncio.sleep(1)
        await other.advance(entry, leased(runner_id="r2"))
        broker.connected = True
        with pytest.raises(LedgerConflict):
            await writing
        last = await other.last("acme", "s1")
        assert last is not None
        assert last.session.runner_id == "r2"

    run_virtual(scenario())


def test_a_repeated_try_on_a_session_that_was_purged_is_a_conflict() -> None:
    """What was written is gone with the session: there is nothing to wait for."""

    async def scenario() -> None:
        broker = MemoryBroker()
        ledger = Ledger(broker, clock=LoopClock())
        entry = await ledger.create(request("s1"))
        broker.lose_acks = 1
        writing = asyncio.create_task(ledger.advance(entry, leased()))
        await asyncio.sleep(0.1)
        await broker.server.connect().purge("SESSIONS", subjects.SESSION_ALL.wildcard(tenant="acme", session_id="s1"))
        async with asyncio.timeout(5):
            with pytest.raises(LedgerConflict):
                await writing

    run_virtual(scenario())


def test_a_write_outlasts_an_outage_of_some_seconds() -> None:
    """A broker whose leader was killed takes up to 8.4 s to come back: nobody is told of it."""

    async def scenario() -> None:
        broker = MemoryBroker()
        ledger = Ledger(broker, clock=LoopClock())
        broker.connected = False
        writing = asyncio.create_task(ledger.create(request("s1")))
        await asyncio.sleep(10)
        assert not writing.done()
        broker.connected = True
        entry = await writing
        assert entry == await ledger.last("acme", "s1")

    run_virtual(scenario())


def test_a_write_gives_up_after_fifteen_seconds() -> None:
    """Then the caller must know; whether it was stored isn't known."""

    async def scenario() -> None:
        broker = MemoryBroker()
        broker.connected = False
        began = asyncio.get_running_loop().time()
        with pytest.raises(BrokerUnavailable):
            await Ledger(broker, clock=LoopClock()).create(request())
        assert 14 <= asyncio.get_running_loop().time() - began <= 15

    run_virtual(scenario())


def test_reading_a_history_has_a_deadline() -> None:
    """A broker that goes away in the middle of it is unavailable, not silent for ever."""

    async def scenario() -> None:
        broker = MemoryBroker()
        ledger = Ledger(broker, clock=LoopClock())
        await ledger.create(request("s1"))
        reading = asyncio.create_task(ledger.history("acme", "s1"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        broker.connected = False
        async with asyncio.timeout(10):
            with pytest.raises(BrokerUnavailable):
                await reading

    run_virtual(scenario())


class Overtaken(MemoryBroker):
    """A connection on which others are a moment faster: each append happens behind the next of `first`."""

    def __init__(self, server: MemoryServer, first: list[Callable[[], Awaitable[object]]]) -> None:
        super().__init__(server)
        self.first = first

    async def append(self, *args: Any, **options: Any) -> int:
        """See `Broker.append`."""
        if self.first:
            await self.first.pop(0)()
        return await super().append(*args, **options)


def cancel(session: Session) -> Transition:
    """Return the end of a session that was canceled."""
    return Ended(by="client", epoch=session.epoch, outcome=Outcome.CANCELED, reason="stopped")


def grant_or_take_back(session: Session) -> Transition:
    """Return what leads from requested to leased and back, without end."""
    return leased(session.epoch + 1) if session.state is State.REQUESTED else Requeued(epoch=session.epoch, reason="x")


def test_a_move_decides_anew_when_somebody_else_was_first() -> None:
    """The decision is made on what is there when it is written, however often that takes."""

    async def scenario() -> None:
        server = MemoryServer()
        other = Ledger(server.connect(), clock=LoopClock())
        await other.create(request("s1"))
        seen: list[State] = []

        def decide(session: Session) -> Transition | None:
            seen.append(session.state)
            return cancel(session)

        first = [lambda: other.move("acme", "s1", grant_or_take_back)] * 3
        ledger = Ledger(Overtaken(server, [*first]), clock=LoopClock())
        entry = await ledger.move("acme", "s1", decide)
        assert seen == [State.REQUESTED, State.LEASED, State.REQUESTED, State.LEASED]
        assert (entry.session.state, entry.session.epoch) == (State.ENDED, 2)
        assert_legal(await other.history("acme", "s1"))

    run_virtual(scenario())


def test_a_move_gives_up_when_others_are_always_first() -> None:
    """Ten times in a row is a sign that somebody writes without end."""

    async def scenario() -> None:
        server = MemoryServer()
        other = Ledger(server.connect(), clock=LoopClock())
        await other.create(request("s1"))
        broker = Overtaken(server, [lambda: other.move("acme", "s1", grant_or_take_back)] * 11)
        with pytest.raises(LedgerConflict, match="10 times"):
            await Ledger(broker, clock=LoopClock()).move("acme", "s1", cancel)
        assert len(broker.first) == 1
        history = await other.history("acme", "s1")
        assert len(history) == 11
        assert_legal(history)

    run_virtual(scenario())


# ---------------------------------------------------------------------------- any number of writers

KINDS: dict[str, Callable[[Session, int], Transition]] = {
    "requested": lambda session, _: request(session.id),
    "leased": lambda session, shift: leased(session.epoch + 1 + shift, f"r{session.epoch % 2}"),
    "requeued": lambda session, shift: Requeued(epoch=session.epoch + shift, reason="refused"),
    "started": lambda session, shift: Started(runner_id=session.runner_id or "r9", epoch=session.epoch + shift),
    "connected": lambda session, shift: Connected(epoch=session.epoch + shift),
    "ready": lambda session, shift: Ready(epoch=session.epoch + shift),
    "ending": lambda session, shift: Ending(by="client", epoch=session.epoch + shift, reason="stopped"),
    "ended": lambda session, shift: Ended(
        by="runner", epoch=session.epoch + shift, outcome=Outcome.COMPLETED, reason="goodbye"
    ),
}
WRITER = st.integers(0, 2)


@pytest.mark.parametrize("garbage", [b"", b"\xff\x00", b"{}", b"[1]", b'{"id": "x", "session": {}}'])
def test_what_is_no_entry_is_an_error_with_a_code(garbage: bytes) -> None:
    """Reading, moving and the history say so, count it, and write nothing over it; other sessions go on."""

    async def scenario() -> None:
        broker, found = MemoryBroker(), list[bool]()
        ledger = Ledger(broker, clock=LoopClock(), on_corrupt=lambda: found.append(True))
        await ledger.create(request("s1"))
        revision = await broker.append(subjects.SESSION_LIFECYCLE.format(tenant="acme", session_id="s1"), garbage)
        for attempt in (ledger.last, ledger.history):
            with pytest.raises(LedgerCorrupt, match=f"Message {revision} of"):
                await attempt("acme", "s1")
        with pytest.raises(LedgerCorrupt):
            await ledger.move("acme", "s1", lambda _: leased())
        assert len(found) == 3
        assert await broker.count("SESSIONS", "gr.v1.session.acme.s1.lifecycle") == 2
        assert (await ledger.create(request("s2"))).revision == revision + 1

    run_virtual(scenario())


def test_a_watch_passes_over_what_is_no_entry() -> None:
    """What was there before is counted too, and the next entries come as ever."""

    async def scenario() -> None:
        broker, found = MemoryBroker(), list[bool]()
        ledger = Ledger(broker, clock=LoopClock(), on_corrupt=lambda: found.append(True))
        garbage = subjects.SESSION_LIFECYCLE.format(tenant="acme", session_id="s0")
        await broker.append(garbage, b"{")
        reader = await ledger.watch()
        await ledger.create(request("s1"))
        await broker.append(garbage, b"\xff")
        await ledger.create(request("s2"))
        seen: list[str] = []
        async for entry in reader:
            seen.append(entry.session.id)
            if len(seen) == 2:
                break
        await reader.close()
        assert (seen, len(found)) == (["s1", "s2"], 2)

    run_virtual(scenario())


class Writers(RuleBasedStateMachine):
    """Three connections write to one session, each on what it has last read, which may be long outdated.

    Any of them may be cut off, lose acknowledgements, claim an epoch that isn't its own, and try what is illegal.
    Whatever happens, the ledger is one legal path, each success is in it, and nothing that failed is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.server = MemoryServer()
        self.brokers = [self.server.connect() for _ in range(3)]
        self.ledgers = [Ledger(broker, clock=LoopClock()) for broker in self.brokers]
        created = self.loop.run_until_complete(self.ledgers[0].create(request("s1")))
        self.read: list[Entry] = [created] * 3
        self.written: list[Entry] = [created]
        self.unknown = 0
        self.writing: dict[int, asyncio.Task[Entry]] = {}

    @rule(writer=WRITER)
    def look(self, writer: int) -> None:
        """Read the session as it is now."""
        if self.brokers[writer].connected:
            entry = self.loop.run_until_complete(self.ledgers[writer].last("acme", "s1"))
            assert entry is not None
            self.read[writer] = entry

    @rule(writer=WRITER, kind=st.sampled_from(sorted(KINDS)), shift=st.sampled_from([0, 0, 0, -1, 1]))
    def write(self, writer: int, kind: str, shift: int) -> None:
        """Begin to write on what was read."""
        if writer not in self.writing:
            entry = self.read[writer]
            transition = KINDS[kind](entry.session, shift)
            self.writing[writer] = self.loop.create_task(self.ledgers[writer].advance(entry, transition))

    @rule(writer=WRITER)
    def cut_off(self, writer: int) -> None:
        """Take the connection away."""
        self.brokers[writer].connected = False

    @rule(writer=WRITER)
    def mend(self, writer: int) -> None:
        """Give it back."""
        self.brokers[writer].connected = True

    @rule(writer=WRITER)
    def lose_an_acknowledgement(self, writer: int) -> None:
        """Have the next write stored, and its writer left in the dark."""
        self.brokers[writer].lose_acks = 1

    @precondition(lambda self: self.writing)
    @rule(seconds=st.sampled_from([0.0, 0.1, 0.5, 20.0]))
    def pass_time(self, seconds: float) -> None:
        """Let everybody work for a while, and take note of who is through."""
        self.loop.run_until_complete(asyncio.sleep(seconds))
        for writer, task in list(self.writing.items()):
            if task.done():
                del self.writing[writer]
                self.note(writer, task)

    def note(self, writer: int, task: asyncio.Task[Entry]) -> None:
        """Take note of how a write ended."""
        error = task.exception()
        if error is None:
            self.written.append(task.result())
            self.read[writer] = task.result()
        elif isinstance(error, BrokerUnavailable):
            self.unknown += 1
        else:
            assert isinstance(error, LedgerConflict | IllegalTransition | StaleEpoch), error

    @invariant()
    def the_history_is_legal(self) -> None:
        """One path, without a hole, that holds every success."""
        history = self.loop.run_until_complete(Ledger(self.server.connect()).history("acme", "s1"))
        assert_legal(history)
        kept = {entry.revision: entry for entry in history}
        for entry in self.written:
            assert kept[entry.revision] == entry
        assert len(self.written) <= len(history) <= len(self.written) + self.unknown + len(self.writing)

    def teardown(self) -> None:
        """Let everybody finish, and look once more."""
        for broker in self.brokers:
            broker.connected = True
        for writer, task in self.writing.items():
            self.loop.run_until_complete(asyncio.wait({task}, timeout=60))
            self.note(writer, task)
        self.writing.clear()
        self.the_history_is_legal()
        self.loop.close()


TestWriters = Writers.TestCase
TestWriters.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
