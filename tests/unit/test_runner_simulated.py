"""The simulated runner of other tests does what a runner does."""

from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import msgspec

from greenroom.common import messages, subjects
from greenroom.common.broker import Message
from greenroom.common.clock import utcnow
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import Leased, Requeued, Session, State
from greenroom.common.messages import BotOffer, Heartbeat, StartAccepted, StartAnswer, StartRefused, StartSession
from tests.support.leaping_time import LoopClock, run_virtual
from tests.support.memory_broker import MemoryBroker, MemoryServer
from tests.support.simulated_runner import SimulatedRunner, request_session


class World:
    """A broker, its ledger, and what runners say."""

    def __init__(self) -> None:
        self.server = MemoryServer()
        self.broker: MemoryBroker = self.server.connect()
        self.clock = LoopClock()
        self.ledger = Ledger(self.broker, clock=self.clock)
        self.heartbeats: list[Heartbeat] = []

    async def listen(self) -> None:
        """Hear heartbeats."""
        await self.broker.subscribe(subjects.RUNNER_HEARTBEAT.wildcard(), self._hear)

    async def _hear(self, message: Message) -> None:
        self.heartbeats.append(messages.decode(message.data, Heartbeat))

    async def lease(self, runner_id: str | None = None, version: int | None = None) -> Entry:
        """Lease a new session to a runner; None: to one that is to be launched."""
        session = await request_session(self.ledger)
        entry = await self.ledger.last("t", session.id)
        assert entry is not None
        leased = Leased(
            runner_id=runner_id or f"cold-{session.id}-1",
            epoch=1,
            expires_at=utcnow() + timedelta(seconds=60),
            cold=runner_id is None,
            agent_version=version,
        )
        return await self.ledger.advance(entry, leased)

    async def ask(self, entry: Entry) -> StartAnswer:
        """Ask the runner of a lease to start it."""
        subject = subjects.RUNNER_CMD.format(pool="default", runner_id=entry.session.runner_id or "", name="start")
        body = messages.encode(StartSession(session=entry.session, revision=entry.revision))
        return msgspec.json.decode((await self.broker.request(subject, body, timeout_s=1)).data, type=StartAnswer)

    async def now(self, entry: Entry) -> Session:
        """Return a session as it is now."""
        last = await self.ledger.last("t", entry.session.id)
        assert last is not None
        return last.session

    def cold(self, entry: Entry, **more: Any) -> SimulatedRunner:
        """Return the runner that a lease was granted to."""
        session = entry.session
        return SimulatedRunner.cold(
            self.server.connect(), self.clock, tenant="t", session_id=session.id, epoch=session.epoch, **more
        )


def play(scenario: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario in virtual time."""

    async def run() -> None:
        world = World()
        await world.listen()
        await scenario(world)

    run_virtual(run())


def test_it_tells_labels_versions_and_its_brake() -> None:
    """What the scheduler places by is in its heartbeats."""

    async def scenario(world: World) -> None:
        runner = SimulatedRunner(world.server.connect(), world.clock, version=3, labels={"gpu": "l4"})
        await runner.start()
        runner.brake = "loop lag 80 ms for 3 s"
        await world.clock.sleep(1.1)
        await runner.kill()
        first, last = world.heartbeats[0], world.heartbeats[-1]
        assert (first.labels, first.bots, first.brake) == ({"gpu": "l4"}, (BotOffer(name="echo", version=3),), None)
        assert last.brake == "loop lag 80 ms for 3 s"

    play(scenario)


def test_it_refuses_another_version_and_overload() -> None:
    """It refuses for the reasons a runner has."""

    async def scenario(world: World) -> None:
        runner = SimulatedRunner(world.server.connect(), world.clock, version=3)
        await runner.start()
        assert await world.ask(await world.lease("r1", version=2)) == StartRefused(code="bot-unknown")
        assert isinstance(await world.ask(await world.lease("r1", version=3)), StartAccepted)
        assert isinstance(await world.ask(await world.lease("r1")), StartAccepted)
        runner.overload = "1 % memory available"
        refused = await world.ask(await world.lease("r1"))
        assert refused == StartRefused(code="overloaded", detail="1 % memory available")
        await runner.kill()

    play(scenario)


def test_a_start_takes_its_time() -> None:
    """The claim comes at once, and `ready` after as long as it was told."""

    async def scenario(world: World) -> None:
        runner = SimulatedRunner(world.server.connect(), world.clock, start_s=2.0)
        await runner.start()
        entry = await world.lease("r1")
        await world.ask(entry)
        await world.clock.sleep(1.9)
        assert (await world.now(entry)).state is State.STARTED
        await world.clock.sleep(0.2)
        assert (await world.now(entry)).state is State.READY
        await runner.kill()

    play(scenario)


def test_it_claims_the_session_it_was_launched_for() -> None:
    """It tells its claim from the start, has a slot once it is warm, runs its session, and is silent afterwards."""

    async def scenario(world: World) -> None:
        entry = await world.lease()
        runner = world.cold(entry, warm_s=3.0, call_s=5.0)
        await runner.start()
        await world.clock.sleep(2.9)
        assert (await world.now(entry)).state is State.LEASED
        assert {(beat.claim, beat.slots) for beat in world.heartbeats} == {(f"{entry.session.id}-1", 0)}
        await runner.left.wait()
        assert runner.served
        assert (await world.now(entry)).reason == "goodbye"
        await world.clock.sleep(1.0)
        told = len(world.heartbeats)
        await world.clock.sleep(5.0)
        assert len(world.heartbeats) == told

    play(scenario)


def test_it_leaves_when_its_lease_is_gone() -> None:
    """A lease that ran out before it was warm isn't claimed."""

    async def scenario(world: World) -> None:
        entry = await world.lease()
        await world.ledger.advance(entry, Requeued(epoch=1, reason="lease-expired"))
        runner = world.cold(entry)
        await runner.start()
        await runner.left.wait()
        assert not runner.served
        assert (await world.now(entry)).state is State.REQUESTED

    play(scenario)


def test_it_gives_back_what_it_does_not_want() -> None:
    """A whim to refuse puts the session back, as a runner does that can't run its bot."""

    async def scenario(world: World) -> None:
        entry = await world.lease()
        runner = world.cold(entry, whim=lambda _: StartRefused(code="bot-unknown"))
        await runner.start()
        await runner.left.wait()
        assert ((await world.now(entry)).state, runner.served) == (State.REQUESTED, False)

    play(scenario)
