"""What was made at providers goes, over the broker in memory and in virtual time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, override

import pytest

from greenroom.api.auth import Caller
from greenroom.api.schemas import Transport
from greenroom.api.transports import Transports
from greenroom.api.transports.base import Adapter, Asked, Prepared, TransportUnavailable
from greenroom.api.transports.releases import LOOK_AGAIN_S, LOOK_FOR_PEOPLE_S
from greenroom.common.errors import GreenroomError
from greenroom.common.ids import uuid7
from greenroom.common.ledger import Ledger
from greenroom.common.lifecycle import Ended, Outcome, Requested, Session
from greenroom.common.secrets import SecretBox
from tests.support.leaping_time import LoopClock, run_virtual
from tests.support.memory_broker import MemoryServer


class _Provider(Adapter):
    """Makes rooms; `away` is for how many more requests it is, `used` for how many more looks they are in use."""

    def __init__(self) -> None:
        self.rooms: set[str] = set()
        self.away = 0
        self.released = 0
        self.used = 0
        self.refuses = False

    @property
    @override
    def name(self) -> str:
        return "rooms"

    @override
    def check(self, options: dict[str, Any]) -> None:
        pass

    @override
    def plan(self, session: Session, options: dict[str, Any]) -> dict[str, str]:
        return {"room": f"room-{session.id}"}

    @override
    async def prepare(self, asked: Asked, session: Session, options: dict[str, Any]) -> Prepared:
        room = f"room-{session.id}"
        self.rooms.add(room)
        if self.refuses:
            raise GreenroomError("no token for the room")
        return Prepared(public=Transport(type=self.name, info={"room": room}), secrets={"token": "t"})

    @override
    async def answer(self, asked: Asked, session_id: str, public: Transport, *, again: bool) -> Transport:
        return public

    async def in_use(self, session: Session, info: dict[str, str]) -> bool:  # noqa: ARG002 as of `Outlived`
        """See `Outlived`."""
        if self.used == 0:
            return False
        self.used -= 1
        return True

    @override
    async def release(self, tenant: str, session_id: str, info: dict[str, str]) -> None:
        if self.away:
            self.away -= 1
            raise GreenroomError("away", retry_after_s=5)
        self.rooms.discard(info["room"])
        self.released += 1


class _World:
    def __init__(self) -> None:
        self.broker = MemoryServer().connect()
        self.clock = LoopClock()
        self.ledger = Ledger(self.broker, clock=self.clock)
        self.provider = _Provider()
        self.secrets = SecretBox(self.broker)
        self.transports = Transports([self.provider], broker=self.broker, ledger=self.ledger, clock=self.clock)

    async def prepare(self) -> Session:
        """Prepare a session that isn't requested yet."""
        now = self.clock.now()
        fields: dict[str, Any] = {"agent": "echo", "bot": "echo", "transport": "rooms", "tenant": "default"}
        session = Session(id=uuid7(), requested_at=now, queue_deadline_at=now, **fields)
        caller = Caller(tenant="default", key_id="k", scopes=frozenset({"*"}), secret=b"s")
        prepared, _ = await self.transports.prepare(Asked(caller=caller, origin="http://x"), session, {})
        return prepared

    async def end(self, session: Session) -> None:
        """End it before it was placed."""

        def decide(now: Session) -> Ended:
            return Ended(by="api", epoch=now.epoch, outcome=Outcome.CANCELED, reason="client-canceled")

        await self.ledger.move("default", session.id, decide)


def _play(scenario: Callable[[_World], Awaitable[None]]) -> None:
    async def played() -> None:
        world = _World()
        running = asyncio.create_task(world.transports.run())
        try:
            await scenario(world)
        finally:
            running.cancel()
            await asyncio.wait({running})

    run_virtual(played())


def test_a_room_that_is_in_use_outlives_its_session() -> None:
    """It is looked at once a minute, and goes when nobody needs it; the secrets of its session go at once."""

    async def scenario(world: _World) -> None:
        session = await world.prepare()
        await world.ledger.create(Requested(session=session))
        world.provider.used = 3
        await world.end(session)
        await asyncio.sleep(LOOK_AGAIN_S + 1)
        assert (world.provider.used, len(world.provider.rooms)) == (2, 1)
        assert await world.secrets.take("default", session.id, keep=True) == {}
        await asyncio.sleep(2 * LOOK_FOR_PEOPLE_S)
        assert (world.provider.used, len(world.provider.rooms)) == (0, 1)
        await asyncio.sleep(LOOK_FOR_PEOPLE_S + 1)
        assert (world.provider.rooms, world.provider.released) == (set(), 1)

    _play(scenario)


def test_a_room_goes_with_its_session() -> None:
    """It stays for as long as the session does, and is taken away once, with its secrets, within 11 s of the end."""

    async def scenario(world: _World) -> None:
        session = await world.prepare()
        await world.ledger.create(Requested(session=session))
        await asyncio.sleep(3600)
        assert world.provider.rooms
        assert await world.secrets.take("default", session.id, keep=True)
        await world.end(session)
        await asyncio.sleep(11)
        assert not world.provider.rooms
        assert not await world.secrets.take("default", session.id, keep=True)
        await asyncio.sleep(3600)
        assert world.provider.released == 1

    _play(scenario)


def test_a_room_whose_session_never_came_to_be_goes() -> None:
    """A request that fails behind the room, as of an api that is killed, leaves nothing."""

    async def scenario(world: _World) -> None:
        await world.prepare()
        world.provider.refuses = True
        with pytest.raises(GreenroomError):
            await world.prepare()
        assert len(world.provider.rooms) == 2
        await asyncio.sleep(55)
        assert world.provider.released == 0, "the request may still be under way"
        await asyncio.sleep(20)
        assert not world.provider.rooms

    _play(scenario)


def test_a_provider_that_is_away_is_asked_again() -> None:
    """However often it fails, what was made goes in the end."""

    async def scenario(world: _World) -> None:
        session = await world.prepare()
        await world.ledger.create(Requested(session=session))
        await world.end(session)
        world.provider.away = 50
        await asyncio.sleep(100)
        assert world.provider.rooms
        await asyncio.sleep(600)
        assert not world.provider.rooms

    _play(scenario)


def test_an_unknown_transport_is_refused() -> None:
    """What this installation isn't set up for is a typed error, before anything is made."""

    async def scenario(world: _World) -> None:
        with pytest.raises(TransportUnavailable):
            world.transports.check("tin-can", {})

    _play(scenario)
