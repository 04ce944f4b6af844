"""How a runner comes to the one session it was launched for: with real processes, broker and ledger."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from greenroom.common import subjects
from greenroom.common.broker import Message
from greenroom.common.clock import SystemClock
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import Ended, Ending, Outcome, Requeued, Session, State
from greenroom.common.messages import Drain, Heartbeat, decode, encode
from greenroom.common.metrics import Metrics
from greenroom.common.nats_broker import NatsBroker
from greenroom.runner import coldstart
from greenroom.runner.app import Runner
from greenroom.runner.claim import Claim
from greenroom.runner.coldstart import ClaimFailed, ColdStart
from greenroom.runner.discovery import BotSpec, specs_of
from greenroom.runner.instruments import Instruments
from greenroom.runner.settings import RunnerSettings
from greenroom.runner.supervisor import Supervisor
from tests.support.runner_process import lease_cold, request, scheduler_side
from tests.support.runner_rig import LIMITS, STANDIN, environment, until
from tests.support.spans import record_spans

PATIENCE_S = 20.0


class Cold:
    """A runner with a claim that has begun to serve it, and what it says."""

    def __init__(self, runner: Runner, supervisor: Supervisor, cold_start: ColdStart) -> None:
        self.runner = runner
        self.supervisor = supervisor
        self.cold_start = cold_start
        self.heartbeats: list[Heartbeat] = []
        self.serving = asyncio.create_task(cold_start.run())

    async def hear(self, message: Message) -> None:
        """Take a heartbeat."""
        self.heartbeats.append(decode(message.data, Heartbeat))

    async def outcome(self) -> str:
        """Return how it went, once it is over."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.serving


@asynccontextmanager
async def cold_runner(
    nats_url: str, claim: str, *, age_s: float = 0.0, timeout_s: float = 30.0
) -> AsyncGenerator[Cold]:
    """Run a runner with a claim for the time of the block."""
    clock = SystemClock()
    settings = RunnerSettings(nats_url=nats_url, claim=claim, claim_timeout_s=timeout_s, labels=("gpu=l4",))
    broker = await NatsBroker.connect(nats_url, name="cold-runner-test")
    supervisor = Supervisor(settings, None, clock=clock, environment=environment(), run=STANDIN, rehearse=False)
    instruments = Instruments(Metrics())
    ledger = Ledger(broker)
    runner = Runner(settings, broker=broker, ledger=ledger, supervisor=supervisor, clock=clock, instruments=instruments)
    cold_start = ColdStart(
        Claim.parse(claim),
        timeout_s=timeout_s,
        broker=broker,
        ledger=ledger,
        runner=runner,
        supervisor=supervisor,
        discover=bots,
        clock=clock,
        age_s=age_s,
    )
    running = asyncio.create_task(runner.run())
    cold = Cold(runner, supervisor, cold_start)
    await broker.subscribe(subjects.RUNNER_HEARTBEAT.format(pool="default", runner_id=settings.runner_id), cold.hear)
    try:
        yield cold
    finally:
        for task in (cold.serving, running):
            task.cancel()
        await asyncio.wait({cold.serving, running})
        await broker.close()


def bots(session: Session) -> tuple[BotSpec, ...]:
    """The bots of the test, as far as they are the session's."""
    return specs_of(
        session, (BotSpec(name=each, target=f"tests.support.standin_bots:{each}") for each in ("plain", "missing"))
    )


async def leased(ledger: Ledger, bot: str = "plain", *, lasts_s: float = 60.0, **fields: Any) -> tuple[Entry, str]:
    """Lease a session to a runner that isn't there yet; return the lease and its claim."""
    entry = await lease_cold(ledger, await request(ledger, bot, limits=LIMITS, **fields), lasts_s=lasts_s)
    return entry, f"default/{entry.session.id}/{entry.session.epoch}"


async def now(ledger: Ledger, entry: Entry) -> Session:
    """Return a session as it is now."""
    last = await ledger.last("default", entry.session.id)
    assert last is not None
    return last.session


async def steps(ledger: Ledger, entry: Entry) -> list[str]:
    """Return what happened after the lease."""
    history = await ledger.history("default", entry.session.id)
    return [type(each.transition).__name__ for each in history][2:]


async def test_a_claim_is_served(nats_url: str) -> None:
    """The runner tells its claim from the start, has one slot once it could begin, claims, and is done at the end."""
    async with scheduler_side(nats_url) as ledger:
        entry, claim = await leased(ledger, body={"connect": True, "finish_after_s": 0.3})
        async with cold_runner(nats_url, claim) as it:
            assert await it.outcome() == "claim_served"
            # Everything is written by then: nothing is left to wait for.
            session = await now(ledger, entry)
            assert (session.state, session.outcome, session.reason) == (State.ENDED, Outcome.COMPLETED, "goodbye")
            assert await steps(ledger, entry) == ["Started", "Ready", "Connected", "Ending", "Ended"]
            first = it.heartbeats[0]
            assert (first.runner_id, first.claim) == (entry.session.runner_id, f"{entry.session.id}-1")
            assert (first.slots, first.labels) == (0, {"gpu": "l4"})
            assert {heartbeat.claim for heartbeat in it.heartbeats} == {first.claim}
            assert max(heartbeat.slots for heartbeat in it.heartbeats) == 1
            assert max(heartbeat.standby for heartbeat in it.heartbeats) == 0


async def test_a_cold_start_is_a_span_of_the_session(nats_url: str) -> None:
    """`runner.cold_start` lasts from the start of the process to the claim, and its events tell what that took."""
    recorder = record_spans()
    async with scheduler_side(nats_url) as ledger:
        _, claim = await leased(ledger, body={"finish_after_s": 0}, traceparent=f"00-{7:032x}-{9:016x}-01")
        async with cold_runner(nats_url, claim, age_s=2.0) as it:
            await it.outcome()
        span = recorder.one("runner.cold_start")
        assert span.parent is not None
        assert (span.parent.trace_id, span.parent.span_id) == (7, 9)
        assert [event.name for event in span.events] == ["connected", "lease", "warm", "claimed"]
        assert span.start_time is not None
        assert span.end_time is not None
        assert span.start_time < span.events[0].timestamp - 1.9e9
        assert span.events[-1].timestamp <= span.end_time
        assert span.attributes is not None
        assert span.attributes["greenroom.zygote.bots_ms"]
        assert recorder.one("session.start").parent == span.parent


@pytest.mark.parametrize(
    ("transition", "state"),
    [
        (Requeued(epoch=1, reason="lease-expired"), State.REQUESTED),
        (Ended(by="scheduler", epoch=1, outcome=Outcome.CANCELED, reason="client-canceled"), State.ENDED),
    ],
)
async def test_a_lease_that_is_gone_is_left_alone(nats_url: str, transition: Requeued | Ended, state: State) -> None:
    """A session that was put back, or ended, before the runner came is not touched."""
    async with scheduler_side(nats_url) as ledger:
        entry, claim = await leased(ledger)
        await ledger.advance(entry, transition)
        async with cold_runner(nats_url, claim) as it:
            assert await it.outcome() == "claim_gone"
            assert not it.supervisor.available
        assert (await now(ledger, entry)).state is state


async def test_a_late_runner_finds_a_newer_lease(nats_url: str) -> None:
    """The runner of the first lease leaves when there is a second; the runner of the second claims."""
    async with scheduler_side(nats_url) as ledger:
        entry, old = await leased(ledger, body={"finish_after_s": 0})
        back = await ledger.advance(entry, Requeued(epoch=1, reason="lease-expired"))
        again = await lease_cold(ledger, back)
        async with cold_runner(nats_url, old) as late:
            assert await late.outcome() == "claim_gone"
        assert (await now(ledger, entry)).state is State.LEASED
        async with cold_runner(nats_url, f"default/{again.session.id}/2") as it:
            assert await it.outcome() == "claim_served"
        assert (await now(ledger, entry)).epoch == 2


async def test_two_runners_with_one_claim_run_it_once(nats_url: str) -> None:
    """The claim is made once: whoever comes second leaves, or has its process killed before anybody hears of it."""
    async with scheduler_side(nats_url) as ledger:
        entry, claim = await leased(ledger, body={"connect": True, "finish_after_s": 0.5})
        async with cold_runner(nats_url, claim) as one, cold_runner(nats_url, claim) as other:
            outcomes = [await one.outcome(), await other.outcome()]
        assert sorted(outcomes) == ["claim_gone", "claim_served"]
        assert await steps(ledger, entry) == ["Started", "Ready", "Connected", "Ending", "Ended"]


async def test_a_session_that_was_stopped_meanwhile_is_ended(nats_url: str) -> None:
    """A client's stop before the claim is heard at once, and the runner, which has the lease, writes the end."""
    async with scheduler_side(nats_url) as ledger:
        entry, claim = await leased(ledger)
        async with cold_runner(nats_url, claim) as it:
            await ledger.advance(entry, Ending(by="client", epoch=1, reason="client-stop"))
            assert await it.outcome() == "claim_gone"
        session = await now(ledger, entry)
        assert (session.state, session.reason, session.ended_by) == (State.ENDED, "client-stop", "client")
        assert session.started_at is None


@pytest.mark.parametrize(
    ("bot", "detail"), [("unheard-of", "bot-unknown: unheard-of"), ("missing", "bot-import-failed: AttributeError")]
)
async def test_a_session_whose_bot_cannot_run_here_goes_back(nats_url: str, bot: str, detail: str) -> None:
    """The lease is given back at once rather than run out, and the runner fails with the reason."""
    async with scheduler_side(nats_url) as ledger:
        entry, claim = await leased(ledger, bot)
        async with cold_runner(nats_url, claim) as it:
            with pytest.raises(ClaimFailed, match=detail):
                await it.outcome()
        session = await now(ledger, entry)
        assert (session.state, session.attempt, session.refused_by) == (State.REQUESTED, 2, ())
        last = (await ledger.history("default", entry.session.id))[-1].transition
        assert isinstance(last, Requeued)
        assert (last.by, last.reason) == ("runner", "runner-refused")


async def test_a_withdrawn_claim_goes_back(nats_url: str) -> None:
    """A runner that is stopped before it could claim gives the lease back and is done."""
    async with scheduler_side(nats_url) as ledger:
        entry, claim = await leased(ledger)
        async with cold_runner(nats_url, claim) as it:
            async with asyncio.timeout(5):
                await it.cold_start.withdraw()
            assert await it.outcome() == "claim_withdrawn"
        last = (await ledger.history("default", entry.session.id))[-1].transition
        assert isinstance(last, Requeued)
        assert last.reason == "runner-draining"


async def test_a_claim_that_is_withdrawn_too_late_is_a_call_like_any_other(nats_url: str) -> None:
    """Once the session has begun, stopping the runner doesn't take it back: it is drained like any."""
    async with scheduler_side(nats_url) as ledger:
        entry, claim = await leased(ledger, body={"connect": True, "finish_after_s": 0.5})
        async with cold_runner(nats_url, claim) as it:
            await until(lambda: it.heartbeats and it.heartbeats[-1].sessions)
            async with asyncio.timeout(5):
                await it.cold_start.withdraw()
            await it.runner.drain(10)
            assert await it.outcome() == "claim_served"
        assert (await now(ledger, entry)).reason == "goodbye"


async def test_a_draining_runner_claims_nothing(nats_url: str) -> None:
    """A runner that is told to drain before its claim gives the lease back."""
    async with scheduler_side(nats_url) as ledger:
        entry, claim = await leased(ledger)
        async with cold_runner(nats_url, claim) as it:
            await until(lambda: it.heartbeats)
            subject = subjects.RUNNER_CMD.format(pool="default", runner_id=entry.session.runner_id or "", name="drain")
            broker = await NatsBroker.connect(nats_url, name="operator")
            await broker.request(subject, encode(Drain(reason="test")), timeout_s=5)
            await broker.close()
            assert await it.outcome() == "claim_gone"
        assert (await now(ledger, entry)).state is State.REQUESTED


async def test_a_claim_without_a_lease_is_given_up(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that doesn't appear isn't waited for for ever; one that appears a moment later is claimed."""
    monkeypatch.setattr(coldstart, "_APPEARS_S", 1.0)
    async with scheduler_side(nats_url) as ledger:
        requested = await request(ledger, "plain", body={"finish_after_s": 0})
        claim = f"default/{requested.session.id}/1"
        async with cold_runner(nats_url, claim) as it:
            assert await it.outcome() == "claim_gone"
        async with cold_runner(nats_url, claim) as it:
            await asyncio.sleep(0.3)
            await lease_cold(ledger, requested)
            assert await it.outcome() == "claim_served"


async def test_a_runner_that_is_up_too_late_leaves(nats_url: str) -> None:
    """The lease holds as long as it says, counted from the start of the process; then the runner leaves it."""
    async with scheduler_side(nats_url) as ledger:
        entry, claim = await leased(ledger, lasts_s=30)
        async with cold_runner(nats_url, claim, age_s=31) as it:
            with pytest.raises(ClaimFailed, match="no process could be had in the 30 s of the lease"):
                await it.outcome()
        assert (await now(ledger, entry)).state is State.LEASED
