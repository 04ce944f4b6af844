"""The runner looks after the processes of its sessions: those that don't answer, and those that eat its memory."""

import asyncio

import psutil

from greenroom.common import subjects
from greenroom.common.lifecycle import Limits, Outcome, State
from greenroom.common.messages import Event, decode
from tests.support.runner_process import runner_process
from tests.support.runner_rig import gone, read_all, running_runner, until

LIMITS = Limits(start_timeout_s=5, join_timeout_s=60, end_timeout_s=4)


async def test_a_process_that_does_not_answer_is_killed(nats_url: str) -> None:
    """Its stacks are kept as an event, the session fails as unresponsive, and its slot is free; its neighbour stays."""
    async with running_runner(nats_url, unresponsive_s=2.0) as rig:
        neighbour = await rig.start(limits=LIMITS, pongs=True)
        session_id = await rig.start(limits=LIMITS, blocks=True)
        session = await rig.ended(session_id)
        assert (session.outcome, session.reason, session.ended_by) == (Outcome.FAILED, "unresponsive", "runner")
        [dump] = await rig.events(session_id, "stack_dump")
        assert dump["cause"] == "unresponsive"
        assert "session_standins.py" in dump["text"]
        assert "in block" in dump["text"]
        await until(lambda: len(rig.now.sessions) == 1)
        assert [held.session_id for held in rig.now.sessions] == [neighbour]


async def test_a_process_that_was_stopped_is_killed_without_stacks(nats_url: str) -> None:
    """What the kernel doesn't let run can't write where it is; it goes all the same."""
    async with running_runner(nats_url, unresponsive_s=2.0) as rig:
        session_id = await rig.start(limits=LIMITS, stops=True)
        session = await rig.ended(session_id)
        assert session.reason == "unresponsive"
        assert (await rig.events(session_id, "stack_dump"))[0]["text"] == ""


async def test_much_memory_is_told_of_and_too_much_ends_it(nats_url: str) -> None:
    """Over the warning there is an event, over the limit an end in order; the stacks are kept."""
    async with running_runner(nats_url, memory_warn_mb=60, memory_kill_mb=160) as rig:
        modest = await rig.start(limits=LIMITS, eats_mb=80)
        await rig.reaches(modest, State.READY)
        greedy = await rig.start(limits=LIMITS, eats_mb=170)
        session = await rig.ended(greedy)
        assert (session.outcome, session.reason) == (Outcome.FAILED, "out-of-memory")
        assert [dump["cause"] for dump in await rig.events(greedy, "stack_dump")] == ["out-of-memory"]

        async with asyncio.timeout(10):
            while not (highs := await rig.events(modest, "memory_high")):
                await asyncio.sleep(0.1)
        [high] = highs
        assert high["bytes"] > 60 * 2**20
        assert high["warn_bytes"] == 60 * 2**20


async def test_far_too_much_memory_ends_it_at_once(nats_url: str) -> None:
    """Who deafens itself and eats far more than the limit is killed at the next look."""
    async with running_runner(nats_url, memory_warn_mb=20, memory_kill_mb=50) as rig:
        session_id = await rig.start(limits=LIMITS, eats_mb=200, deaf=True)
        process = psutil.Process(rig.process_of(session_id).pid)
        session = await rig.ended(session_id)
        assert session.reason == "out-of-memory"
        assert gone(process)


async def test_too_many_processes_end_it_at_once(nats_url: str) -> None:
    """Who starts more than it may is killed at the next look, with all it has started, wherever that has gone."""
    bots = "many=tests.support.bad_bots.offenders:forks,echo=tests.support.session_bots:echo"
    async with runner_process(
        nats_url, GREENROOM_BOTS=bots, GREENROOM_SESSION_PROCESSES="100", GREENROOM_CONTROL_GROUPS="off"
    ) as runner:
        neighbour = await runner.start("echo")
        await until(lambda: runner.heartbeats[-1].standby == 2 and runner.heartbeats[-1].sessions)
        before = len(runner.family())
        session = await runner.reaches(await runner.start("many"), State.ENDED)
        assert (session.outcome, session.reason, session.ended_by) == (Outcome.FAILED, "too-many-processes", "runner")
        assert session.detail == "100 processes and threads, fewer than 100 are allowed"
        await until(lambda: [held.session_id for held in runner.heartbeats[-1].sessions] == [neighbour])
        await until(lambda: len(runner.family()) == before)


async def test_the_stacks_of_what_will_not_end_are_kept(nats_url: str) -> None:
    """A process that is told to end and doesn't is killed in the end, and its stacks say why."""
    async with running_runner(nats_url) as rig:
        session_id = await rig.start(limits=Limits(start_timeout_s=5, end_timeout_s=2), blocks=True, deaf=True)
        await rig.reaches(session_id, State.READY)
        rig.runner.end_all()
        session = await rig.ended(session_id)
        assert session.outcome is Outcome.FAILED
        [dump] = await rig.events(session_id, "stack_dump")
        assert dump["cause"] == "end-timeout"
        assert "in block" in dump["text"]


async def test_a_bot_that_blocks_its_loop(nats_url: str) -> None:
    """With the real session process: a bot that sleeps without `await` is named by the stacks that are kept."""
    async with runner_process(nats_url, GREENROOM_UNRESPONSIVE_S="2") as runner:
        session_id = await runner.start("blocking")
        session = await runner.reaches(session_id, State.ENDED)
        assert (session.outcome, session.reason) == (Outcome.FAILED, "unresponsive")
        subject = subjects.SESSION_EVENT.format(tenant="default", session_id=session_id, type="stack_dump")
        [message] = await read_all(runner.broker, subject)
        assert "block_the_loop" in decode(message.data, Event).data["text"]
