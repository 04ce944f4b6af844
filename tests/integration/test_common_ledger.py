"""The ledger on the memory broker and on NATS."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from greenroom.common import subjects, topology_admin
from greenroom.common.broker import Broker
from greenroom.common.errors import BrokerUnavailable, IllegalTransition, LedgerConflict, SessionNotFound, StaleEpoch
from greenroom.common.ids import uuid7
from greenroom.common.ledger import Entry, Ledger, LedgerReader
from greenroom.common.lifecycle import Connected, Ended, Ending, Outcome, Ready, Session, Started, State
from greenroom.common.nats_broker import NatsBroker
from greenroom.devtools.embedded.nats import EmbeddedNats
from tests.support.ledgers import assert_legal, call, leased, request
from tests.support.memory_broker import MemoryBroker

TENANT = "acme"


@pytest.fixture(params=["memory", "nats"])
def url(request: pytest.FixtureRequest) -> str | None:
    """Where the broker is; None for the one in memory."""
    return request.getfixturevalue("nats_url") if request.param == "nats" else None


@pytest.fixture
async def broker(url: str | None) -> AsyncGenerator[Broker]:
    """A broker with the streams of the topology."""
    if url is None:
        yield MemoryBroker()
        return
    connection = await NatsBroker.connect(url, name="test-ledger")
    await topology_admin.apply(connection)
    yield connection
    await connection.close()


@pytest.fixture
def ledger(broker: Broker) -> Ledger:
    """A ledger without sessions."""
    return Ledger(broker)


async def take(reader: LedgerReader, count: int) -> list[Entry]:
    """Return the next entries of a reader."""
    taken: list[Entry] = []
    async with asyncio.timeout(10):
        async for entry in reader:
            taken.append(entry)
            if len(taken) == count:
                break
    return taken


def end(session: Session) -> Ended:
    """Return the end of a session."""
    return Ended(by="scheduler", epoch=session.epoch, outcome=Outcome.CANCELED, reason="stopped")


async def test_a_session_is_created_once(ledger: Ledger) -> None:
    """Its id is taken from then on, even after its end."""
    created = await ledger.create(request("s1"))
    assert created.session.state is State.REQUESTED
    with pytest.raises(LedgerConflict):
        await ledger.create(request("s1"))
    await ledger.advance(created, end(created.session))
    with pytest.raises(LedgerConflict):
        await ledger.create(request("s1"))
    assert [entry.session.state for entry in await ledger.history(TENANT, "s1")] == [State.REQUESTED, State.ENDED]


async def test_an_id_belongs_to_its_tenant(ledger: Ledger) -> None:
    """Another tenant's session of the same id is another session."""
    await ledger.create(request("s1", tenant="a"))
    await ledger.create(request("s1", tenant="b"))
    await ledger.move("a", "s1", end)
    other = await ledger.last("b", "s1")
    assert other is not None
    assert not other.session.ended


async def test_a_request_begins_at_the_beginning(ledger: Ledger) -> None:
    """Whatever its document claims: state, epoch and times are the ledger's."""
    asked = request("s1")
    session = Session(
        **{name: getattr(asked.session, name) for name in ("id", "tenant", "agent", "bot", "requested_at")},
        queue_deadline_at=asked.session.requested_at, state=State.READY, epoch=9, attempt=4,
    )  # fmt: skip
    entry = await ledger.create(type(asked)(session=session))
    assert (entry.session.state, entry.session.epoch, entry.session.attempt) == (State.REQUESTED, 0, 1)
    assert entry.session.requested_at == entry.at
    assert await ledger.last(TENANT, "s1") == entry


async def test_a_call_is_written_step_by_step(ledger: Ledger) -> None:
    """Each entry is the last one, and all of them are the history, as their writer got them."""
    entries = [await ledger.create(request("s1"))]
    for transition in call():
        entries.append(await ledger.advance(entries[-1], transition))
        assert await ledger.last(TENANT, "s1") == entries[-1]
    assert await ledger.history(TENANT, "s1") == entries
    assert_legal(entries)


async def test_who_was_slower_gets_a_conflict(ledger: Ledger) -> None:
    """Two build on the same entry: one is stored, the other has to look again."""
    created = await ledger.create(request("s1"))
    await ledger.advance(created, leased(runner_id="fast"))
    with pytest.raises(LedgerConflict):
        await ledger.advance(created, leased(runner_id="slow"))
    last = await ledger.last(TENANT, "s1")
    assert last is not None
    assert last.session.runner_id == "fast"


async def test_of_many_at_once_one_gets_the_lease(ledger: Ledger) -> None:
    """Twenty leases on one request: one success, nineteen conflicts, two entries."""
    created = await ledger.create(request("s1"))
    results = await asyncio.gather(
        *(ledger.advance(created, leased(runner_id=f"r{number}")) for number in range(20)), return_exceptions=True
    )
    won = [result for result in results if isinstance(result, Entry)]
    assert len(won) == 1
    assert all(isinstance(result, Entry | LedgerConflict) for result in results)
    assert await ledger.history(TENANT, "s1") == [created, won[0]]


@pytest.mark.parametrize(
    ("transition", "error"),
    [
        (Started(runner_id="r1", epoch=0), IllegalTransition),
        (Ready(epoch=0), IllegalTransition),
        (Ending(by="client", epoch=0, reason="stopped"), IllegalTransition),
        (Connected(epoch=0), IllegalTransition),
        (request("s1"), IllegalTransition),
        (leased(epoch=0), StaleEpoch),
        (leased(epoch=2), StaleEpoch),
        (Ended(by="runner", epoch=1, outcome=Outcome.LOST, reason="runner-lost"), StaleEpoch),
    ],
)
async def test_what_is_illegal_is_never_written(ledger: Ledger, transition: Any, error: type[Exception]) -> None:
    """Not by advance, and not by move."""
    created = await ledger.create(request("s1"))
    with pytest.raises(error):
        await ledger.advance(created, transition)
    with pytest.raises(error):
        await ledger.move(TENANT, "s1", lambda _: transition)
    assert await ledger.history(TENANT, "s1") == [created]


async def test_a_move_without_a_decision_writes_nothing(ledger: Ledger) -> None:
    """It returns what is there."""
    created = await ledger.create(request("s1"))
    assert await ledger.move(TENANT, "s1", lambda _: None) == created
    assert await ledger.history(TENANT, "s1") == [created]


async def test_moves_at_once_are_one_after_the_other(ledger: Ledger) -> None:
    """Each of them decides on the document that it follows; none gets lost."""
    created = await ledger.create(request("s1"))
    await ledger.advance(await ledger.advance(created, leased()), Started(runner_id="r1", epoch=1))
    moves = [ledger.move(TENANT, "s1", lambda session: Connected(epoch=session.epoch)) for _ in range(5)]
    await asyncio.gather(*moves)
    history = await ledger.history(TENANT, "s1")
    assert len(history) == 8
    assert_legal(history)


async def test_what_the_ledger_does_not_hold_is_told(ledger: Ledger) -> None:
    """There is no last entry, an empty history, and nothing to move."""
    assert await ledger.last(TENANT, "nobody") is None
    assert await ledger.history(TENANT, "nobody") == []
    with pytest.raises(SessionNotFound):
        await ledger.move(TENANT, "nobody", end)


async def test_a_session_that_was_purged_is_gone(ledger: Ledger, broker: Broker) -> None:
    """The recorder has it; writers are told at once, without waiting for a message that won't come."""
    created = await ledger.create(request("s1"))
    await broker.purge("SESSIONS", subjects.SESSION_ALL.wildcard(tenant=TENANT, session_id="s1"))
    async with asyncio.timeout(3):
        assert await ledger.history(TENANT, "s1") == []
        assert await ledger.last(TENANT, "s1") is None
        with pytest.raises(LedgerConflict):
            await ledger.advance(created, leased())


async def test_histories_are_whole_however_often_they_are_read(ledger: Ledger) -> None:
    """Messages that are delivered before the reader knows how many there are aren't missed."""
    entries = [await ledger.create(request("s1"))]
    entries += [await ledger.advance(entries[-1], leased())]
    for _ in range(20):
        assert await asyncio.gather(*(ledger.history(TENANT, "s1") for _ in range(5))) == [entries] * 5


async def test_a_watcher_catches_up_and_goes_on(ledger: Ledger) -> None:
    """First the last entry of each session, in order; then every entry as it is written."""
    sessions = [uuid7() for _ in range(5)]
    for session_id in sessions:
        await ledger.create(request(session_id))
    for session_id in sessions[:3]:
        await ledger.move(TENANT, session_id, lambda session: leased(session.epoch + 1))
    reader = await ledger.watch()
    first = await take(reader, 5)
    assert reader.caught_up.is_set()
    assert [entry.revision for entry in first] == sorted(entry.revision for entry in first)
    assert {entry.session.id: entry.session.state for entry in first} == {
        **dict.fromkeys(sessions[:3], State.LEASED),
        **dict.fromkeys(sessions[3:], State.REQUESTED),
    }
    late = await ledger.create(request("late"))
    ended = await ledger.move(TENANT, sessions[0], end)
    assert await take(reader, 2) == [late, ended]
    await reader.close()


async def test_a_watcher_of_an_empty_ledger_has_caught_up(ledger: Ledger) -> None:
    """There is nothing to wait for."""
    reader = await ledger.watch()
    assert reader.caught_up.is_set()
    await reader.close()


async def test_a_watcher_passes_over_what_is_no_entry(ledger: Ledger, broker: Broker) -> None:
    """A foreign message on a ledger's subject is the recorder's to park; who schedules goes on."""
    await broker.append(subjects.SESSION_LIFECYCLE.format(tenant=TENANT, session_id="odd"), b'{"hello": 1}')
    created = await ledger.create(request("s1"))
    reader = await ledger.watch()
    assert await take(reader, 1) == [created]
    await reader.close()


async def test_events_of_a_session_are_none_of_the_ledgers_business(ledger: Ledger, broker: Broker) -> None:
    """They share the stream, not the subject: neither history nor watchers see them, and they disturb no write."""
    created = await ledger.create(request("s1"))
    await broker.append(subjects.SESSION_EVENT.format(tenant=TENANT, session_id="s1", type="user_spoke"), b"{}")
    second = await ledger.advance(created, leased())
    assert await ledger.history(TENANT, "s1") == [created, second]
    reader = await ledger.watch()
    assert await take(reader, 1) == [second]
    await reader.close()


# ---------------------------------------------------------------------------- when the server dies


async def test_writers_and_watchers_outlast_a_killed_server(own_nats: EmbeddedNats) -> None:
    """Calls that are under way when the server is killed are written to their end, each step once."""
    broker = await NatsBroker.connect(own_nats.url, name="writer")
    watching = await NatsBroker.connect(own_nats.url, name="watcher")
    await topology_admin.apply(broker)
    ledger = Ledger(broker)
    reader = await Ledger(watching).watch()
    seen: list[Entry] = []
    ids = [f"s{number}" for number in range(30)]

    async def watch() -> None:
        async for entry in reader:
            seen.append(entry)
            if sum(entry.session.ended for entry in seen) == len(ids):
                return

    async def live(session_id: str) -> None:
        entry = await ledger.create(request(session_id))
        for transition in call():
            await asyncio.sleep(0.03)
            entry = await ledger.advance(entry, transition)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(watch())
        for session_id in ids:
            group.create_task(live(session_id))
        await asyncio.sleep(0.06)
        await own_nats.kill()
        await asyncio.sleep(0.2)
        await own_nats.start()
    for session_id in ids:
        history = await ledger.history(TENANT, session_id)
        assert len(history) == 5
        assert_legal(history)
        assert [entry for entry in seen if entry.session.id == session_id] == history
    await reader.close()
    for connection in (broker, watching):
        await connection.close()


async def test_reading_without_a_server_fails_at_once(own_nats: EmbeddedNats) -> None:
    """Who asks can try again; nobody hangs."""
    broker = await NatsBroker.connect(own_nats.url, name="reader")
    await topology_admin.apply(broker)
    ledger = Ledger(broker)
    await ledger.create(request("s1"))
    await own_nats.kill()
    async with asyncio.timeout(3):
        while broker.connected:
            await asyncio.sleep(0.01)
        for read in (ledger.last(TENANT, "s1"), ledger.history(TENANT, "s1"), ledger.watch()):
            with pytest.raises(BrokerUnavailable):
                await read
    await broker.close()
