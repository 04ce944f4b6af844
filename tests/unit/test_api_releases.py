"""What was made at providers goes, over the broker in memory and in virtual time."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, override

import msgspec
import pytest

from greenroom.api.auth import Caller
from greenroom.api.schemas import Transport
from greenroom.api.transports import Transports
from greenroom.api.transports.base import Adapter, Asked, Prepared, TransportUnavailable
from greenroom.api.transports.releases import LOOK_AGAIN_S, LOOK_FOR_PEOPLE_S
from greenroom.common.bodies import Bodies, BodyUnavailable
from greenroom.common.clock import SystemClock
from greenroom.common.errors import GreenroomError
from greenroom.common.ids import uuid7
from greenroom.common.ledger import Ledger
from greenroom.common.lifecycle import (
    Ended,
    Leased,
    Move,
    Moved,
    Moving,
    Outcome,
    Ready,
    Requested,
    Session,
    Started,
    Stayed,
)
from greenroom.common.secrets import ROOM_TOKEN, SecretBox, token_of, with_token
from tests.support.leaping_time import LoopClock, run_virtual
from tests.support.memory_broker import MemoryServer
from tests.support.session_rig import new_session


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


class _Standing(SystemClock):
    @override
    def now(self) -> datetime:
        return datetime(2026, 2, 3, tzinfo=UTC)


class _World:
    def __init__(self, provider: _Provider) -> None:
        self.broker = MemoryServer().connect()
        self.clock = LoopClock()
        self.ledger = Ledger(self.broker, clock=self.clock)
        self.provider = provider
        self.secrets = SecretBox(self.broker)
        self.bodies = Bodies(self.broker)
        self.transports = Transports([self.provider], broker=self.broker, ledger=self.ledger, clock=self.clock)

    async def prepare(self, **more: Any) -> Session:
        """Prepare a session that isn't requested yet."""
        now = self.clock.now()
        fields: dict[str, Any] = {"agent": "echo", "bot": "echo", "transport": "rooms", "tenant": "default", **more}
        session = Session(id=uuid7(), requested_at=now, queue_deadline_at=now, **fields)
        caller = Caller(tenant="default", key_id="k", scopes=frozenset({"*"}), secret=b"s")
        prepared, _ = await self.transports.prepare(Asked(caller=caller, origin="http://x"), session, {})
        return prepared

    async def has_body(self) -> bool:
        """Tell whether there is anything of a body, of whichever session."""
        reader = await self.broker.read("BODIES", ["gr.v1.body.>"], last_per_subject=True)
        found = await anext(aiter(reader))
        await reader.close()
        return bool(found.data)

    async def end(self, session: Session) -> None:
        """End it before it was placed."""

        def decide(now: Session) -> Ended:
            return Ended(by="api", epoch=now.epoch, outcome=Outcome.CANCELED, reason="client-canceled")

        await self.ledger.move("default", session.id, decide)


def _play(scenario: Callable[[_World], Awaitable[None]], provider: _Provider | None = None) -> None:
    async def played() -> None:
        world = _World(provider or _Provider())
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


LARGE = {"text": "x" * 900_000}


def test_a_large_body_goes_with_its_session() -> None:
    """It is there for as long as the session may be tried, and goes as its room does; a small one needs none of it."""

    async def scenario(world: _World) -> None:
        session = await world.prepare(body=LARGE)
        assert session.body == {}
        await world.ledger.create(Requested(session=session))
        await asyncio.sleep(3600)
        assert (await world.bodies.fetch(session)).body == LARGE
        await world.end(session)
        await asyncio.sleep(11)
        assert not world.provider.rooms
        with pytest.raises(BodyUnavailable):
            await world.bodies.fetch(session)
        small = await world.prepare(body={"text": "x" * 65_000})
        assert small.body_ref is None
        assert await world.broker.count("BODIES", "gr.v1.body.>") == 1

    _play(scenario)


async def test_what_is_planned_at_the_same_moment_is_planned_apart() -> None:
    """A room and a body of one session are two plans, however coarse the clock is."""
    clock = _Standing()
    broker = MemoryServer().connect()
    transports = Transports([], broker=broker, ledger=Ledger(broker, clock=clock), clock=clock)
    session = new_session("echo", transport="rooms")
    await transports.releases.plan(session, {"room": "r"})
    await transports.releases.plan(session, {}, by="body")
    assert await broker.count("RELEASES", "gr.v1.release.>") == 2


def test_a_large_body_whose_session_never_came_to_be_goes() -> None:
    """An api that is killed, or a provider that fails, behind the body leaves nothing of it."""

    async def scenario(world: _World) -> None:
        world.provider.refuses = True
        with pytest.raises(GreenroomError):
            await world.prepare(body=LARGE)
        assert await world.has_body()
        await asyncio.sleep(71)
        assert not await world.has_body()

    _play(scenario)


class _Movable(_Provider):
    """Makes rooms that sessions can go to later."""

    @property
    @override
    def movable(self) -> bool:
        return True

    @override
    def plan(self, session: Session, options: dict[str, Any]) -> dict[str, str]:
        return {"room": _room(session)}

    @override
    async def prepare(self, asked: Asked, session: Session, options: dict[str, Any]) -> Prepared:
        room = _room(session)
        self.rooms.add(room)
        info = {"room": room}
        return Prepared(public=Transport(type=self.name, info=info), info=info, secrets={ROOM_TOKEN: f"for {room}"})


def _room(session: Session) -> str:
    return session.moving.id if session.moving is not None else "first"


async def _go(world: _World, session: Session, room: str) -> Session:
    """Have another room made for a live session, and kept for it."""
    caller = Caller(tenant="default", key_id="k", scopes=frozenset({"*"}), secret=b"s")
    move = Move(id=room, transport_info={}, at=world.clock.now())
    there = msgspec.structs.replace(session, moving=move)
    info = await world.transports.prepare_room(Asked(caller=caller, origin="http://x"), there, {})
    entry = await world.ledger.move(
        "default", session.id, lambda now: Moving(epoch=now.epoch, id=room, transport_info=info)
    )
    return entry.session


@pytest.mark.parametrize("let_in", [True, False])
def test_of_two_rooms_the_one_that_the_session_isnt_in_goes(let_in: bool) -> None:  # noqa: FBT001
    """While it is on its way both stay, however long that takes; the tokens for both stay while it lives."""

    async def scenario(world: _World) -> None:
        session = await world.prepare()
        entry = await world.ledger.create(Requested(session=session))
        lease = Leased(runner_id="r", epoch=1, expires_at=world.clock.now())
        for step in (lease, Started(runner_id="r", epoch=1), Ready(epoch=1)):
            entry = await world.ledger.advance(entry, step)
        await _go(world, entry.session, "second")
        await asyncio.sleep(3600)
        assert world.provider.rooms == {"first", "second"}
        end = Moved(epoch=1, id="second") if let_in else Stayed(epoch=1, id="second")
        await world.ledger.move("default", session.id, lambda _: end)
        await asyncio.sleep(11)
        assert world.provider.rooms == ({"second"} if let_in else {"first"})
        secrets = await world.secrets.take("default", session.id, keep=True)
        assert (token_of(secrets, "first"), token_of(secrets, "second")) == ("for first", "for second")
        over = Ended(by="runner", epoch=1, outcome=Outcome.COMPLETED, reason="goodbye")
        await world.ledger.move("default", session.id, lambda _: over)
        await asyncio.sleep(11)
        assert not world.provider.rooms
        assert not await world.secrets.take("default", session.id, keep=True)

    _play(scenario, _Movable())


def test_a_room_that_was_made_for_a_move_that_nobody_decided_on_goes() -> None:
    """As of an api that was killed before it had asked for the room to be kept; not before that is sure."""

    async def scenario(world: _World) -> None:
        session = await world.prepare()
        await world.ledger.create(Requested(session=session))
        world.provider.rooms.add("second")
        move = Move(id="second", transport_info={}, at=world.clock.now())
        there = msgspec.structs.replace(session, moving=move)
        await world.transports.releases.plan(there, {"room": "second"})
        await asyncio.sleep(50)
        assert world.provider.rooms == {"first", "second"}
        await asyncio.sleep(25)
        assert world.provider.rooms == {"first"}

    _play(scenario, _Movable())


def test_tokens_of_rooms_that_a_session_was_on_its_way_to_dont_pile_up() -> None:
    """That of the room it is in stays, whatever else comes."""
    secrets = with_token({ROOM_TOKEN: "0", "other": "x"}, "here", "1", now="start")
    for number in range(50):
        secrets = with_token(secrets, f"r{number}", str(number), now="here")
    assert (token_of(secrets, "here"), token_of(secrets, "r49"), token_of(secrets, "start")) == ("1", "49", "0")
    assert secrets["other"] == "x"
    assert len(secrets) == 11


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
