"""A live call doesn't depend on the broker."""

import asyncio
from pathlib import Path

import msgspec

from greenroom.common import subjects
from greenroom.common.lifecycle import State
from greenroom.common.messages import Event, EventType, decode
from greenroom.devtools.embedded.nats import EmbeddedNats
from tests.support.outages import call_through_outage, spoken_numbers
from tests.support.runner_process import request, runner_process
from tests.support.runner_rig import LIMITS, until
from tests.support.session_rig import HostProcess


async def test_what_a_killed_runner_had_to_tell_is_told_by_the_next_one(tmp_path: Path, own_nats: EmbeddedNats) -> None:
    """The broker is away, a call ends, its runner is killed: the next runner on the host publishes what was left."""
    folder = tmp_path / "reports"
    limits = msgspec.structs.replace(LIMITS, max_duration_s=2)
    async with runner_process(own_nats.url, GREENROOM_REPORTS_DIR=str(folder)) as runner:
        session_id = await runner.begin(await request(runner.ledger, "echo", limits=limits))
        await own_nats.stop()
        completed = f"{session_id}.event.{EventType.CALL_COMPLETED.value}".encode()
        await until(lambda: any(completed in file.read_bytes() for file in folder.glob("*.spool")))
        runner.process.kill()
        await runner.exit_code()
        [left] = folder.glob("*.spool")
        assert left.stat().st_mode & 0o077 == 0
        await own_nats.start()
        await until(lambda: runner.broker.connected)
        async with runner_process(own_nats.url, GREENROOM_REPORTS_DIR=str(folder)):
            last = subjects.SESSION_EVENT.format(
                tenant="default", session_id=session_id, type=EventType.CALL_COMPLETED.value
            )
            async with asyncio.timeout(30):
                while (message := await runner.broker.last("SESSIONS", last)) is None:
                    await asyncio.sleep(0.05)
            said = decode(message.data, Event).data
            everything = subjects.SESSION_EVENT.wildcard(tenant="default", session_id=session_id)
            assert said["events"] == await runner.broker.count("SESSIONS", everything)
            await until(lambda: not left.exists() and [file.stat().st_size for file in folder.glob("*.spool")] == [0])


async def test_a_call_goes_on_without_its_broker(tmp_path: Path, own_nats: EmbeddedNats) -> None:
    """The broker is away for longer than the limits of silence: the bot talks on, and nothing is missing or doubled."""
    host = HostProcess(tmp_path)
    try:
        last, events, audio_complete = await call_through_outage(host, own_nats, 8)
    finally:
        host.close()
    assert (last.reason, last.lost) == ("silence-timeout", 0)
    assert [event.seq for event in events] == list(range(1, last.events + 1))
    assert len({event.id for event in events}) == last.events
    assert spoken_numbers(events) == [f"This is number {number}." for number in range(10)]
    assert audio_complete


async def test_a_call_that_ends_without_its_broker_is_told_of_by_its_runner(own_nats: EmbeddedNats) -> None:
    """Its process can't wait until the broker is back: what it has left to say is published by the runner, then."""
    limits = msgspec.structs.replace(LIMITS, max_duration_s=2)
    async with runner_process(own_nats.url) as runner:
        entry = await request(runner.ledger, "echo", limits=limits)
        session_id = await runner.begin(entry)
        idle = {process.pid for process in runner.family()}
        await own_nats.stop()
        # Its own process, and what stood by: the runner forks anew once the broker is back.
        await until(lambda: len(idle - {process.pid for process in runner.family()}) > 0)
        await own_nats.start()
        await until(lambda: runner.broker.connected)
        ended = await runner.reaches(session_id, State.ENDED)
        assert ended.reason == "max-duration-exceeded"
        everything = subjects.SESSION_EVENT.wildcard(tenant="default", session_id=session_id)
        last = subjects.SESSION_EVENT.format(
            tenant="default", session_id=session_id, type=EventType.CALL_COMPLETED.value
        )
        async with asyncio.timeout(20):
            while (message := await runner.broker.last("SESSIONS", last)) is None:
                await asyncio.sleep(0.05)
        # None is missing, and the runner's try after the process's made none double.
        said = decode(message.data, Event).data
        assert said["events"] == await runner.broker.count("SESSIONS", everything) == 3
        assert said["lost"] == 0
