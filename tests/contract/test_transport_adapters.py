"""What every transport's adapter keeps, over the broker in memory and in virtual time.

A new adapter gets a case in tests/support/adapter_cases.py; nothing here knows of any of them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

import msgspec
import pytest
import structlog
from structlog.testing import capture_logs

from greenroom.api.schemas import Transport
from greenroom.api.transports import Transports
from greenroom.common.errors import GreenroomError, InvalidBody
from greenroom.common.ids import uuid7
from greenroom.common.ledger import Ledger
from greenroom.common.lifecycle import Ended, Outcome, Requested, Session
from tests.support.adapter_cases import ASKED, CASES
from tests.support.leaping_time import LoopClock, run_virtual
from tests.support.memory_broker import MemoryServer
from tests.support.provider_stub import Fault


class World:
    """One adapter among the parts of the api that use it."""

    def __init__(self, name: str) -> None:
        self.server = MemoryServer()
        self.broker = self.server.connect()
        self.clock = LoopClock()
        self.ledger = Ledger(self.broker, clock=self.clock)
        self.case = CASES[name](self.broker, self.clock)
        self.adapter = self.case.adapter
        self.transports = Transports([self.adapter], broker=self.broker, ledger=self.ledger, clock=self.clock)

    def session(self) -> Session:
        """Return a session that isn't requested yet."""
        now = self.clock.now()
        fields: dict[str, Any] = {"agent": "echo", "bot": "echo", "transport": self.adapter.name, "tenant": "default"}
        return Session(id=uuid7(), requested_at=now, queue_deadline_at=now, **fields)

    async def end(self, session: Session) -> None:
        """End a session that waits."""

        def decide(now: Session) -> Ended:
            return Ended(by="api", epoch=now.epoch, outcome=Outcome.CANCELED, reason="client-canceled")

        await self.ledger.move(session.tenant, session.id, decide)

    def stored(self, *, secrets: bool) -> bytes:
        """Return all that lies in streams: in that of secrets, or in the others."""
        streams = (stream for name, stream in self.server.streams.items() if (name == "SECRETS") == secrets)
        return b"\n".join(message.data for stream in streams for message in stream.on(">"))


@pytest.fixture(params=sorted(CASES))
def play(request: pytest.FixtureRequest) -> Callable[[Callable[[World], Awaitable[None]]], None]:
    """Return a function that plays a scenario with each adapter, its releases being carried out meanwhile."""

    def played(scenario: Callable[[World], Awaitable[None]]) -> None:
        async def run() -> None:
            world = World(request.param)
            releasing = asyncio.create_task(world.transports.run())
            try:
                await scenario(world)
            finally:
                releasing.cancel()
                await asyncio.wait({releasing})

        run_virtual(run())

    return played


type Play = Callable[[Callable[[World], Awaitable[None]]], None]


def test_unknown_options_are_refused(play: Play) -> None:
    """Whatever a transport doesn't know is refused with a pointer to where it was said, before anything is made."""

    async def scenario(world: World) -> None:
        for options in ({"no_such_option": 1}, *({**each, "zzz": None} for each in world.case.options)):
            with pytest.raises(InvalidBody) as refused:
                world.transports.check(world.adapter.name, options)
            assert [error.pointer.startswith("/transport_options") for error in refused.value.errors] == [True]
        assert not world.case.left()

    play(scenario)


def test_known_options_are_taken(play: Play) -> None:
    """Each example passes the check, can be prepared, and gives its caller the way in."""

    async def scenario(world: World) -> None:
        for options in world.case.options:
            world.transports.check(world.adapter.name, options)
            session, public = await world.transports.prepare(ASKED, world.session(), options)
            answer = await world.transports.answer(ASKED, session.id, public, again=False)
            assert (answer.type, bool(answer.url)) == (world.adapter.name, True)
            assert answer.expires_at is not None
            assert answer.expires_at > world.clock.now()

    play(scenario)


def test_preparing_twice_prepares_once(play: Play) -> None:
    """A request that is repeated finds what was made for it: one thing at the provider, and the same public answer."""

    async def scenario(world: World) -> None:
        for options in world.case.options:
            before, session = world.case.left(), world.session()
            first = await world.transports.prepare(ASKED, session, options)
            once = world.case.left()
            second = await world.transports.prepare(ASKED, session, options)
            assert world.case.left() == once
            assert len(once - before) <= 1
            assert first[0].transport_info == second[0].transport_info
            assert (first[1].info, first[1].type) == (second[1].info, second[1].type)

    play(scenario)


def test_what_the_answer_tells_is_stored_nowhere(play: Play) -> None:
    """Tokens and tickets are in the answer alone; the installation's keys and the bot's token lie in SECRETS alone."""

    async def scenario(world: World) -> None:
        with capture_logs() as logs:
            for options in world.case.options:
                session, public = await world.transports.prepare(ASKED, world.session(), options)
                answer = await world.transports.answer(ASKED, session.id, public, again=False)
                again = await world.transports.answer(ASKED, session.id, public, again=True)
                await world.ledger.create(Requested(session=session))
                secrets = world.stored(secrets=True)
                told = [text for each in (answer, again) for text in _secrets_of(each, public)]
                shown = world.stored(secrets=False) + msgspec.json.encode([public, session]) + str(logs).encode()
                _find_none(told, shown + secrets)
                _find_none(world.case.keys, shown + msgspec.json.encode(answer))
                # What the session's process alone knows.
                kept = await world.broker.last("SECRETS", f"gr.v1.secret.default.{session.id}")
                values = msgspec.json.decode(kept.data)["values"].values() if kept is not None else ()
                _find_none([value for value in values if "://" not in value], shown + msgspec.json.encode(answer))

    play(scenario)


def test_what_was_made_goes_with_the_session(play: Play) -> None:
    """It stays while the session lives, and is gone within 11 s of its end."""

    async def scenario(world: World) -> None:
        for options in world.case.options:
            before = world.case.left()
            session, _ = await world.transports.prepare(ASKED, world.session(), options)
            await world.ledger.create(Requested(session=session))
            made = world.case.left()
            await asyncio.sleep(600)
            assert world.case.left() == made
            await world.end(session)
            await asyncio.sleep(11)
            assert world.case.left() == before

    play(scenario)


def test_releasing_twice_is_releasing_once(play: Play) -> None:
    """What is gone may be released again: by two instances, or after an acknowledgement that was lost."""

    async def scenario(world: World) -> None:
        for options in world.case.options:
            session = world.session()
            plan = world.adapter.plan(session, options)
            await world.adapter.prepare(ASKED, session, options)
            for _ in range(2):
                await world.adapter.release(session.tenant, session.id, plan or {})
                assert not world.case.left()

    play(scenario)


def test_what_is_made_again_is_taken_away_again(play: Play) -> None:
    """A request that is repeated when its first try has been cleared up has a way in, and leaves nothing either."""

    async def scenario(world: World) -> None:
        for options in world.case.options:
            session = world.session()
            await world.transports.prepare(ASKED, session, options)
            made = world.case.left()
            await asyncio.sleep(80)
            assert not world.case.left()
            session, _ = await world.transports.prepare(ASKED, session, options)
            assert world.case.left() == made
            await world.ledger.create(Requested(session=session))
            await asyncio.sleep(200)
            assert world.case.left() == made
            await world.end(session)
            await asyncio.sleep(11)
            assert not world.case.left()

    play(scenario)


@pytest.mark.parametrize("broken", [1, 2, 3])
def test_a_failure_in_the_middle_leaves_nothing(play: Play, broken: int) -> None:
    """Whichever call to the provider stays without an answer, the error is typed and nothing is left two minutes on."""

    async def scenario(world: World) -> None:
        provider = world.case.provider
        if provider is None:
            return
        for options in world.case.options:
            provider.asked.clear()
            provider.fail_from(broken, Fault("lost"))
            error = await _failure(world, options)
            if len(provider.asked) >= broken:
                assert error is not None
                assert (error.status, error.retryable, bool(error.retry_after_s)) == (503, True, True)
            provider.fail_from(None)
            await asyncio.sleep(120)
            assert not world.case.left()

    play(scenario)


async def _failure(world: World, options: dict[str, Any]) -> GreenroomError | None:
    try:
        session, public = await world.transports.prepare(ASKED, world.session(), options)
        await world.transports.answer(ASKED, session.id, public, again=False)
    except GreenroomError as error:
        return error
    return None


def _secrets_of(answer: Transport, public: Transport) -> Iterable[str]:
    """Return what an answer has that its public part lacks, and whose knowledge lets in."""
    found = [answer.token, answer.sip_uri, *(server.credential for server in answer.ice_servers)]
    if answer.url is not None and answer.url not in public.info.values():
        found.append(answer.url.rpartition("/")[2])
    return [text for text in found if text]


def _find_none(secrets: Iterable[str], where: bytes) -> None:
    for secret in secrets:
        assert secret.encode() not in where, f"{secret[:12]}… was found"


@pytest.fixture(autouse=True)
def _all_levels() -> Iterator[None]:
    """Hear every level, whatever another test has set logs up for."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(0))
    yield
    structlog.configure(**before)


def test_logs_are_caught() -> None:
    """What a test above looks for in logs would be found there."""
    with capture_logs() as logs:
        structlog.get_logger().info("seen", token="the-secret")
    with pytest.raises(AssertionError):
        _find_none(["the-secret"], str(logs).encode())
