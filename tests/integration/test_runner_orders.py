"""Orders to a live runner: drain and resume, versions that are withdrawn, processes that shall wait."""

import os
import signal

from greenroom.common import subjects
from greenroom.common.lifecycle import Outcome
from greenroom.common.messages import Done, Drain, Resume, SetStandby, StartAccepted, StartRefused, decode, encode
from tests.support.runner_rig import Rig, running_runner, until


async def order(rig: Rig, name: str, message: Drain | Resume | SetStandby) -> Done:
    """Give an order over the broker."""
    tokens = {"pool": rig.settings.pool, "runner_id": rig.settings.runner_id}
    subject = subjects.RUNNER_CMD.format(name=name, **tokens)
    reply = await rig.broker.request(subject, encode(message), timeout_s=5)
    return decode(reply.data, Done)


async def test_a_drained_runner_resumes(nats_url: str) -> None:
    """Overlapping calls go on through drain and resume to their own ends; after it new ones are taken again."""
    async with running_runner(nats_url) as rig:
        short, long = await rig.start(finish_after_s=0.5), await rig.start(finish_after_s=2.5)
        assert (await order(rig, "drain", Drain(reason="maintenance"))).done
        await until(lambda: rig.now.draining and rig.now.standby == 0)
        answer = await rig.send_start(await rig.lease())
        assert isinstance(answer, StartRefused)
        assert answer.code == "draining"
        assert (await rig.ended(short)).outcome is Outcome.COMPLETED
        assert (await order(rig, "resume", Resume())).done
        await until(lambda: not rig.now.draining and rig.now.standby == 2)
        third = await rig.start(finish_after_s=0.2)
        assert {held.session_id for held in rig.runner.heartbeat().sessions} == {long, third}
        for session_id in (third, long):
            assert (await rig.ended(session_id)).outcome is Outcome.COMPLETED


async def test_a_version_is_drained(nats_url: str) -> None:
    """Bots of a version that is drained are no longer offered; another version's order changes nothing."""
    async with running_runner(nats_url, bot_version=("plain=3", "missing=4")) as rig:
        call = await rig.start(finish_after_s=1.5)
        assert (await order(rig, "drain", Drain(agent_version=7))).done
        assert "plain" in {bot.name for bot in rig.runner.heartbeat().bots}
        assert (await order(rig, "drain", Drain(agent_version=3))).done
        await until(lambda: {bot.name for bot in rig.now.bots} == {"missing"})
        assert not rig.now.draining
        answer = await rig.send_start(await rig.lease())
        assert isinstance(answer, StartRefused)
        assert answer.code == "bot-unknown"
        await order(rig, "drain", Drain(agent_version=4))
        await until(lambda: rig.now.draining)
        assert (await rig.ended(call)).outcome is Outcome.COMPLETED
        await order(rig, "resume", Resume())
        await until(lambda: {bot.name for bot in rig.now.bots} == {"missing", "plain"})


async def test_a_runner_that_stops_does_not_resume(nats_url: str) -> None:
    """A stop is for good: whoever says otherwise is told."""
    async with running_runner(nats_url) as rig:
        await rig.runner.drain(1.0)
        done = await order(rig, "resume", Resume())
        assert (done.done, done.detail) == (False, "the runner is being stopped")
        assert rig.runner.heartbeat().draining


async def test_so_many_wait_as_are_ordered(nats_url: str) -> None:
    """More or fewer processes wait as the scheduler says, never more than there are slots, until its word runs out."""
    async with running_runner(nats_url, slots=3, standby=1) as rig:
        assert (await order(rig, "standby", SetStandby(target=9))).done
        await until(lambda: rig.now.standby == 3)
        await order(rig, "standby", SetStandby(target=0))
        await until(lambda: rig.now.standby == 0)
        await order(rig, "standby", SetStandby(target=2, for_s=0.5))
        await until(lambda: rig.now.standby == 1)
        assert not (await order(rig, "standby", SetStandby(target=-1))).done


async def test_a_waiting_process_that_hangs_gets_no_session(nats_url: str) -> None:
    """One that the kernel doesn't let run is found out while it waits, killed and replaced."""
    async with running_runner(nats_url, standby=1) as rig:
        [hung] = [process for process in rig.supervisor.processes if process.standby.is_set()]
        os.kill(hung.pid, signal.SIGSTOP)
        await until(lambda: not hung.alive)
        await until(lambda: rig.now.standby == 1)
        answer = await rig.send_start(await rig.lease(finish_after_s=0.1))
        assert isinstance(answer, StartAccepted)
        assert (await rig.ended(answer.session_id)).outcome is Outcome.COMPLETED


async def test_an_old_process_is_replaced(nats_url: str) -> None:
    """What has waited for longer than it should leaves, and its successor waits."""
    async with running_runner(nats_url, standby=1, standby_max_age_s=1.0) as rig:
        [first] = [process for process in rig.supervisor.processes if process.standby.is_set()]
        await until(lambda: not first.alive)
        await until(lambda: rig.now.standby == 1)
