"""What every transport's adapter keeps, over the broker in memory and in virtual time.

A new adapter gets a case in tests/support/adapter_cases.py; nothing here knows of any of them. A case says what of
this doesn't concern its adapter, and why: nothing is made at a provider, or not before the session is ready; whoever
asks doesn't get in himself.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
import structlog
from structlog.testing import capture_logs

from greenroom.api.patience import unanswered
from greenroom.api.schemas import Transport
from greenroom.api.transports import Transports
from greenroom.common.errors import GreenroomError, InvalidBody
from greenroom.common.ids import uuid7
from greenroom.common.ledger import Ledger
from greenroom.common.lifecycle import Ended, Leased, Outcome, Ready, Requested, Session, Started, State
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

    async def begin(self, session: Session) -> None:
        """Have a session requested, and run until it is ready; what is made then is made."""
        entry = await self.ledger.create(Requested(session=session))
        leased = Leased(runner_id="runner-1", epoch=1, expires_at=entry.at)
        for transition in (leased, Started(runner_id="runner-1", epoch=1), Ready(epoch=1)):
            entry = await self.ledger.advance(entry, transition)
        await asyncio.sleep(3)

    async def state(self, session: Session) -> Session:
        """Return a session as it stands now."""
        entry = await self.ledger.last(session.tenant, session.id)
        assert entry is not None
        return entry.session

    async def end(self, session: Session) -> None:
        """End a session."""

        def decide(now: Session) -> Ended:
            return Ended(by="api", epoch=now.epoch, outcome=Outcome.CANCELED, reason="client-canceled")

        await self.ledger.move(session.tenant, session.id, decide)
        self.case.closed()

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
            work = [world.transports.run, *([world.case.work] if world.case.work else [])]
            tasks = {asyncio.ensure_future(each()) for each in work}
            try:
                await scenario(world)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

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
    """Each example passes the check, can be prepared, and gives its caller the way in, if there is one for him."""

    async def scenario(world: World) -> None:
        for options in world.case.options:
            world.transports.check(world.adapter.name, options)
            session, public = await world.transports.prepare(ASKED, world.session(), options)
            answer = await world.transports.answer(ASKED, session.id, public, again=False)
            assert (answer.type, bool(answer.url)) == (world.adapter.name, world.case.way_in)
            if world.case.way_in:
                assert answer.expires_at is not None
                assert answer.expires_at > world.clock.now()
            else:
                # Nothing to get in with, and nothing that could run out.
                assert (answer.expires_at, answer.token, answer.ice_servers, answer.page_url) == (None, None, (), None)

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
            await world.begin(second[0])
            assert len(world.case.left() - before) == world.case.count

    play(scenario)


def test_what_the_answer_tells_is_stored_nowhere(play: Play) -> None:
    """Tokens and tickets are in the answer alone; the installation's keys and the bot's token lie in SECRETS alone."""

    async def scenario(world: World) -> None:
        with capture_logs() as logs:
            for options in world.case.options:
                session, public = await world.transports.prepare(ASKED, world.session(), options)
                answer = await world.transports.answer(ASKED, session.id, public, again=False)
                again = await world.transports.answer(ASKED, session.id, public, again=True)
                await world.begin(session)
                secrets = world.stored(secrets=True)
                told = [text for each in (answer, again) for text in _secrets_of(each, public)]
                shown = world.stored(secrets=False) + msgspec.json.encode([public, session]) + str(logs).encode()
                _find_none(told, shown + secrets)
                _find_none(world.case.keys, shown + msgspec.json.encode(answer))
                # What the session's process alone knows.
                kept = await world.broker.last("SECRETS", f"gr.v1.secret.default.{session.id}")
                values = msgspec.json.decode(kept.data)["values"].values() if kept is not None else ()
                _find_none(
                    [value for value in values if value and "://" not in value], shown + msgspec.json.encode(answer)
                )

    play(scenario)


def test_what_was_made_goes_with_the_session(play: Play) -> None:
    """It stays while the session lives, and is gone within 11 s of its end."""

    async def scenario(world: World) -> None:
        for options in world.case.options:
            before = world.case.left()
            session, _ = await world.transports.prepare(ASKED, world.session(), options)
            await world.begin(session)
            made = world.case.left()
            assert len(made - before) == world.case.count
            await asyncio.sleep(600)
            assert world.case.left() == made
            await world.end(session)
            await asyncio.sleep(11)
            assert world.case.left() == before

    play(scenario)


def test_what_is_due_isnt_held_up_by_what_waits(play: Play) -> None:
    """However many sessions wait, what another one needs is made as soon, and goes as soon, as if it were alone."""

    async def scenario(world: World) -> None:
        for options in world.case.options:
            before, waiting = world.case.left(), list[Session]()
            for _ in range(20):
                session, _ = await world.transports.prepare(ASKED, world.session(), options)
                await world.ledger.create(Requested(session=session))
                waiting.append(session)
            await asyncio.sleep(30)
            others = world.case.left()
            session, _ = await world.transports.prepare(ASKED, world.session(), options)
            await world.begin(session)
            assert len(world.case.left() - others) == world.case.count
            await world.end(session)
            await asyncio.sleep(11)
            assert world.case.left() == others
            for each in waiting:
                await world.end(each)
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
            await world.begin(session)
            assert len(world.case.left()) == world.case.count
            world.case.closed()
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
            await world.begin(session)
            made = world.case.left()
            assert len(made) == world.case.count
            await asyncio.sleep(200)
            assert world.case.left() == made
            await world.end(session)
            await asyncio.sleep(11)
            assert not world.case.left()

    play(scenario)


@pytest.mark.parametrize("broken", [1, 2, 3, 4])
def test_a_failure_in_the_middle_leaves_nothing(play: Play, broken: int) -> None:
    """Whichever call to the provider stays without an answer, the error is typed and nothing is left two minutes on.

    As in the api the session exists once the way is prepared; where the way can't be told then, it ends.
    """

    async def scenario(world: World) -> None:
        provider = world.case.provider
        if provider is None:
            return
        for options in world.case.options:
            provider.asked.clear()
            provider.fail_from(broken, Fault("lost"))
            asked_for = await _ask_for(world, options)
            if len(provider.asked) >= broken:
                _is_typed(asked_for.error)
            provider.fail_from(None)
            if asked_for.public is not None:
                decide = functools.partial(unanswered, error=asked_for.error or GreenroomError())
                await world.ledger.move(asked_for.session.tenant, asked_for.session.id, decide)
            await asyncio.sleep(120)
            assert not world.case.left()

    play(scenario)


def test_a_way_that_couldnt_be_told_can_be_asked_for_again(play: Play) -> None:
    """Whoever has a key repeats the request: what was prepared is still there, however late, and lets him in."""

    async def scenario(world: World) -> None:
        provider = world.case.provider
        for options in world.case.options:
            session, public = await world.transports.prepare(ASKED, world.session(), options)
            await world.ledger.create(Requested(session=session))
            made = world.case.left()
            if provider:
                provider.fail_from(len(provider.asked) + 1, Fault("lost"))
            try:
                await world.transports.answer(ASKED, session.id, public, again=False)
            except GreenroomError as error:
                _is_typed(error)
            if provider:
                provider.fail_from(None)
            await asyncio.sleep(120)
            assert world.case.left() == made
            answer = await world.transports.answer(ASKED, session.id, public, again=True)
            assert bool(answer.url) == world.case.way_in
            await world.end(session)
            await asyncio.sleep(11)
            assert not world.case.left()

    play(scenario)


def test_a_failure_behind_the_request_ends_the_session(play: Play) -> None:
    """What fails once the session is ready can't be told to whoever asked: the session ends, and says why.

    What was asked for isn't asked for again, since it may have been done: nobody is called twice. A call that was made
    all the same is refused when its carrier asks (tests/integration/test_carriers_dialling.py). Where all is made
    before the session exists, it goes on whatever the provider does afterwards.
    """

    async def scenario(world: World) -> None:
        provider = world.case.provider
        for options in world.case.options:
            session, _ = await world.transports.prepare(ASKED, world.session(), options)
            asked = len(provider.asked) if provider else 0
            if provider:
                provider.fail_from(asked + 1, Fault("lost"))
            await world.begin(session)
            await asyncio.sleep(60)
            now = await world.state(session)
            if world.case.makes == "when ready":
                assert (now.state, now.reason) == (State.ENDING, "call-not-put-through")
                assert len(provider.asked if provider else ()) == asked + 1
            else:
                assert now.state is State.READY
            if provider:
                provider.fail_from(None)

    play(scenario)


@dataclass
class _AskedFor:
    """What became of a request: `public` where the way was prepared and the session exists, `error` where it failed."""

    session: Session
    public: Transport | None = None
    error: GreenroomError | None = None


async def _ask_for(world: World, options: dict[str, Any]) -> _AskedFor:
    """Do as the api does: prepare, create, answer."""
    asked_for = _AskedFor(world.session())
    try:
        asked_for.session, public = await world.transports.prepare(ASKED, asked_for.session, options)
        await world.ledger.create(Requested(session=asked_for.session))
        asked_for.public = public
        await world.transports.answer(ASKED, asked_for.session.id, public, again=False)
    except GreenroomError as error:
        asked_for.error = error
    return asked_for


def _is_typed(error: GreenroomError | None) -> None:
    assert error is not None
    assert (error.status, error.retryable, bool(error.retry_after_s)) == (503, True, True)


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
