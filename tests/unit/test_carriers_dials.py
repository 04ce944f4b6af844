"""Calls that we make, in virtual time: at once when their session is ready, and at little cost until then."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, cast

import httpx
import pytest

from greenroom.api.carriers import make_carriers
from greenroom.api.carriers.callbook import CallBook
from greenroom.api.carriers.dials import Dials
from greenroom.api.carriers.links import Links
from greenroom.api.carriers.rest import Rest
from greenroom.api.carriers.settings import CarrierSettings
from greenroom.api.tickets import Tickets
from greenroom.api.waiters import Waiters, Watch
from greenroom.common.ids import uuid7
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import Ended, Leased, Limits, Outcome, Ready, Requested, Session, Started
from tests.support.carriers.exchange import CALLER, NUMBER, dialect_of
from tests.support.carriers.provider import CarrierProvider
from tests.support.leaping_time import LoopClock, run_virtual
from tests.support.memory_broker import MemoryServer


class _CountedLedger(Ledger):
    looks = 0

    async def last(self, tenant: str, session_id: str) -> Entry | None:
        """Count."""
        self.looks += 1
        return await super().last(tenant, session_id)


class _World:
    """A carrier, and instances of the api that share the plans."""

    def __init__(self, instances: int = 1, *, deaf: bool = False) -> None:
        server, dialect, self.clock = MemoryServer(), dialect_of("twilio"), LoopClock()
        self.provider = CarrierProvider(dialect)
        named = cast("Any", dialect.settings("https://carrier.example"))
        carriers = make_carriers(CarrierSettings(nats_url="nats://127.0.0.1:1", **named))
        self.carrier = carriers["twilio"]
        self.ledgers: list[_CountedLedger] = []
        self.dials: list[Dials] = []
        for _ in range(instances):
            broker = server.connect()
            ledger = _CountedLedger(broker, clock=self.clock)
            self.ledgers.append(ledger)
            self.dials.append(
                Dials(
                    broker=broker,
                    ledger=ledger,
                    # One that hears of another broker is told nothing of this one.
                    waiters=Waiters(MemoryServer().connect() if deaf else broker, ledger),
                    book=CallBook(broker, self.clock),
                    links=Links(Tickets(broker, clock=self.clock)),
                    rest=Rest(httpx.AsyncClient(transport=self.provider.transport())),
                    carriers=carriers,
                    clock=self.clock,
                )
            )
        self.ledger = Ledger(server.connect(), clock=self.clock)
        self.dialled_at: list[float] = []
        self.provider.on_call = lambda *_: self.dialled_at.append(self.clock.monotonic())

    async def ask(self) -> Session:
        """Plan a call, and ask for its session."""
        now = self.clock.now()
        fields: dict[str, Any] = {"agent": "a", "bot": "a", "transport": "twilio", "tenant": "default"}
        session = Session(
            id=uuid7(), requested_at=now, queue_deadline_at=now, limits=Limits(queue_timeout_s=7200), **fields
        )
        await self.dials[0].plan(
            self.carrier,
            session,
            to=CALLER,
            caller=NUMBER,
            ring_timeout_s=45,
            machine_detection=False,
            origin="https://voice.example.org",
        )
        await self.ledger.create(Requested(session=session))
        return session

    async def become_ready(self, session: Session) -> None:
        """Have the session leased, started and ready."""
        lease = Leased(runner_id="r", epoch=1, expires_at=self.clock.now())
        for step in (lease, Started(runner_id="r", epoch=1), Ready(epoch=1)):
            await self.ledger.move("default", session.id, lambda _session, step=step: step)

    def looks(self) -> int:
        """Return how often sessions were looked at."""
        return sum(ledger.looks for ledger in self.ledgers)


def _play(scenario: Callable[[_World], Awaitable[None]], world: Callable[[], _World] = _World) -> None:
    async def played() -> None:
        made = world()
        running = [asyncio.create_task(dials.run()) for dials in made.dials]
        try:
            await scenario(made)
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)

    run_virtual(played())


@pytest.mark.parametrize("instances", [1, 3])
@pytest.mark.parametrize("after_s", [0.01, 0.3, 7.0, 1234.5])
def test_a_session_that_is_ready_calls_at_once(instances: int, after_s: float) -> None:
    """However long it has waited, and once, whoever of us hears of it."""

    async def scenario(world: _World) -> None:
        session = await world.ask()
        await asyncio.sleep(after_s)
        ready_at = world.clock.monotonic()
        await world.become_ready(session)
        await asyncio.sleep(120)
        (dialled_at,) = world.dialled_at
        assert dialled_at - ready_at < 0.05

    _play(scenario, lambda: _World(instances))


def test_a_session_that_becomes_ready_before_anybody_listens_calls_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a look and the subscription nothing is lost."""
    watch = Waiters.watch

    async def scenario(world: _World) -> None:
        session = await world.ask()
        await asyncio.sleep(1000)

        @contextlib.asynccontextmanager
        async def late(waiters: Waiters, *what: Any) -> AsyncGenerator[Watch]:
            monkeypatch.setattr(Waiters, "watch", watch)
            ready_at.append(world.clock.monotonic())
            await world.become_ready(session)
            async with watch(waiters, *what) as given:
                yield given

        ready_at: list[float] = []
        monkeypatch.setattr(Waiters, "watch", late)
        await asyncio.sleep(120)
        assert world.dialled_at[0] - ready_at[0] < 0.05

    _play(scenario)


def test_what_isnt_heard_of_is_found() -> None:
    """Half a minute later at most, and soon where the session is new."""

    async def scenario(world: _World) -> None:
        for after_s, late_s in ((0.4, 0.5), (1000.0, 30.1)):
            session = await world.ask()
            await asyncio.sleep(after_s)
            ready_at = world.clock.monotonic()
            await world.become_ready(session)
            await asyncio.sleep(60)
            assert world.dialled_at.pop() - ready_at < late_s

    _play(scenario, lambda: _World(deaf=True))


def test_those_that_wait_cost_little() -> None:
    """An hour of 20 sessions that wait for a slot: two looks in half a minute each."""

    async def scenario(world: _World) -> None:
        for _ in range(20):
            await world.ask()
        await asyncio.sleep(3600)
        assert world.looks() < 20 * (2 * 3600 / 30 + 30)
        assert len(world.dials[0]._listening) <= 20 + 1

    _play(scenario)


def test_one_that_ends_calls_nobody() -> None:
    """Nobody listens for it any more either."""

    async def scenario(world: _World) -> None:
        session = await world.ask()
        await asyncio.sleep(100)
        over = Ended(by="api", epoch=0, outcome=Outcome.CANCELED, reason="client-canceled")
        await world.ledger.move("default", session.id, lambda _session: over)
        await asyncio.sleep(60)
        looks = world.looks()
        await asyncio.sleep(600)
        assert world.dialled_at == []
        assert world.looks() == looks
        assert not world.dials[0]._listening

    _play(scenario)
