"""A runner that was launched for one session, as a process of its own with the real session process."""

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import Ending, Outcome, Requeued, State
from greenroom.devtools.embedded.nats import EmbeddedNats
from tests.support.runner_process import (
    PATIENCE_S,
    RunnerProcess,
    lease_cold,
    process_of_runner,
    request,
    runner_process,
    scheduler_side,
)
from tests.support.runner_rig import gone, until


def claim_of(entry: Entry) -> str:
    """How the launcher names a lease."""
    return f"{entry.session.tenant}/{entry.session.id}/{entry.session.epoch}"


@asynccontextmanager
async def launched(nats_url: str, entry: Entry) -> AsyncGenerator[RunnerProcess]:
    """The runner that a lease was granted to."""
    async with runner_process(
        nats_url, runner_id=f"cold-{entry.session.id}-1", GREENROOM_CLAIM=claim_of(entry)
    ) as process:
        yield process


async def stop(ledger: Ledger, session_id: str) -> None:
    """Stop a session as a client."""
    await ledger.move("default", session_id, lambda _: Ending(by="client", epoch=1, reason="client-stop"))


async def test_it_runs_its_session_and_leaves(nats_url: str) -> None:
    """The runner claims the session it was launched for, runs it, writes its end, and leaves with exit code 0."""
    async with scheduler_side(nats_url) as ledger:
        entry = await lease_cold(ledger, await request(ledger, "echo"))
        session, arguments = entry.session, ("--claim", claim_of(entry))
        async with runner_process(nats_url, runner_id=f"cold-{session.id}-1", arguments=arguments) as it:
            await it.reaches(session.id, State.READY)
            family = it.family()
            await stop(ledger, session.id)
            assert await it.exit_code() == 0
            ended = await it.reaches(session.id, State.ENDED)
            assert (ended.outcome, ended.reason) == (Outcome.COMPLETED, "client-stop")
            assert {heartbeat.claim for heartbeat in it.heartbeats} == {f"{session.id}-1"}
            await until(lambda: all(gone(each) for each in family), 1.0)


async def test_a_stale_claim_ends_at_once(nats_url: str) -> None:
    """A runner whose lease has been taken back leaves with exit code 0, and writes nothing."""
    async with scheduler_side(nats_url) as ledger:
        entry = await lease_cold(ledger, await request(ledger, "echo"))
        back = await ledger.advance(entry, Requeued(epoch=1, reason="lease-expired"))
        async with launched(nats_url, entry) as it:
            assert await it.exit_code() == 0
        last = await ledger.last("default", entry.session.id)
        assert last is not None
        assert last.revision == back.revision


async def test_a_signal_before_the_claim_gives_the_lease_back(nats_url: str) -> None:
    """SIGTERM while the runner warms up puts the session back into the queue, and the exit code is 0."""
    async with scheduler_side(nats_url) as ledger:
        entry = await lease_cold(ledger, await request(ledger, "echo"))
        async with launched(nats_url, entry) as it:
            await until(lambda: it.heartbeats, PATIENCE_S)
            it.process.send_signal(signal.SIGTERM)
            assert await it.exit_code() == 0
            assert (await it.reaches(entry.session.id, State.REQUESTED)).attempt == 2


async def test_a_signal_after_the_claim_lets_the_call_finish(nats_url: str) -> None:
    """SIGTERM in the call drains the runner: the call goes on to its own end, and then the runner leaves."""
    async with scheduler_side(nats_url) as ledger:
        entry = await lease_cold(ledger, await request(ledger, "echo"))
        async with launched(nats_url, entry) as it:
            await it.reaches(entry.session.id, State.READY)
            it.process.send_signal(signal.SIGTERM)
            await until(lambda: it.heartbeats[-1].draining)
            await asyncio.sleep(0.5)
            assert len(it.heartbeats[-1].sessions) == 1
            await stop(ledger, entry.session.id)
            assert await it.exit_code() == 0
            assert (await it.reaches(entry.session.id, State.ENDED)).reason == "client-stop"


async def test_a_bot_that_cannot_be_imported_fails_the_runner(nats_url: str) -> None:
    """The session goes back at once, and exit code 1 tells the launcher that this start came to nothing."""
    async with scheduler_side(nats_url) as ledger:
        entry = await lease_cold(ledger, await request(ledger, "broken"))
        async with launched(nats_url, entry) as it:
            assert await it.exit_code() == 1
            assert (await it.reaches(entry.session.id, State.REQUESTED)).attempt == 2


async def test_it_waits_for_the_broker(own_nats: EmbeddedNats) -> None:
    """A broker that is away at the start is tried again, and the claim is made when it is back."""
    async with scheduler_side(own_nats.url) as ledger:
        entry = await lease_cold(ledger, await request(ledger, "echo"))
    await own_nats.kill()
    async with process_of_runner(own_nats.url, GREENROOM_CLAIM=claim_of(entry)) as process:
        await asyncio.sleep(1.0)
        assert process.returncode is None
        await own_nats.start()
        async with scheduler_side(own_nats.url) as ledger, asyncio.timeout(PATIENCE_S):
            while (last := await ledger.last("default", entry.session.id)) and last.session.state is not State.READY:
                await asyncio.sleep(0.02)


async def test_it_does_not_wait_for_ever() -> None:
    """Without a broker for as long as a lease may last the runner leaves with exit code 1."""
    running = process_of_runner("nats://127.0.0.1:1", GREENROOM_CLAIM="default/s/1", GREENROOM_CLAIM_TIMEOUT_S="1.5")
    async with running as process, asyncio.timeout(PATIENCE_S):
        assert await process.wait() == 1
