"""A runner with real processes, a real broker and a real ledger."""

import asyncio
import itertools
import os
import signal
from typing import Any

import msgspec
import psutil
import pytest

from greenroom.common import subjects
from greenroom.common.ledger import Entry
from greenroom.common.lifecycle import Ended, Ending, Limits, Outcome, Requeued, State
from greenroom.common.messages import Done, Drain, StartAccepted, StartAnswer, StartRefused, decode, encode
from greenroom.devtools.embedded.nats import EmbeddedNats
from greenroom.runner import running
from tests.support.runner_rig import LIMITS, Rig, gone, running_runner, until
from tests.support.session_standins import CALL
from tests.support.spans import record_spans


async def history(rig: Rig, session_id: str) -> list[str]:
    """The transitions of a session after its lease."""
    entries: list[Entry] = await rig.ledger.history("default", session_id)
    return [type(entry.transition).__name__ for entry in entries][2:]


async def test_a_session_from_start_to_end(nats_url: str) -> None:
    """A start is answered, claimed, ready, joined and ended, each in the ledger; and a new process stands by."""
    async with running_runner(nats_url) as rig:
        session_id = await rig.start(connect=True, finish_after_s=0.2)
        ended = await rig.ended(session_id)
        assert (ended.outcome, ended.reason, ended.ended_by) == (Outcome.COMPLETED, "goodbye", "session")
        assert ended.media_connected
        assert ended.call == CALL
        assert await history(rig, session_id) == ["Started", "Ready", "Connected", "Ending", "Ended"]
        await rig.warm()
        assert rig.now.sessions == ()
        assert rig.instruments.ends.value(outcome="completed", reason="goodbye") == 1


async def test_what_a_session_takes_is_measured(nats_url: str) -> None:
    """Each histogram of sessions has what one session brings: its parts, its bot's answers, its loop, what it used."""
    async with running_runner(nats_url) as rig:
        await rig.ended(await rig.start(connect=True, pongs=True, finish_after_s=1.5))
        measured = {
            sample.name.removeprefix("greenroom_"): sample.value
            for metric in rig.metrics.registry.collect()
            for sample in metric.samples
        }
    for name in ("start", "end", "first_speech", "answer"):
        assert measured[f"session_{name}_seconds_count"] == 1
    assert measured["session_first_speech_seconds_sum"] == pytest.approx(0.15)
    assert measured["session_answer_seconds_sum"] == pytest.approx(0.35)
    assert measured["session_start_stage_seconds_count"] > 0
    assert measured["session_loop_lag_seconds_count"] > 0
    assert measured["runner_fork_seconds_count"] > 0
    assert measured["session_max_rss_bytes_sum"] > 1 << 20
    assert measured["session_cpu_seconds_total"] > 0


async def test_start_and_end_are_spans_of_the_session(nats_url: str) -> None:
    """`session.start` with its stages, and `session.end`, are children of the span that asked for the session."""
    recorder = record_spans()
    async with running_runner(nats_url, standby=1) as rig:
        traceparent = f"00-{7:032x}-{9:016x}-01"
        good = await rig.lease(traceparent=traceparent, finish_after_s=0.2)
        await rig.send_start(good)
        await rig.ended(good.session.id)
        await rig.warm()
        start, end = recorder.one("session.start"), recorder.one("session.end")
        for span in (start, end):
            assert span.parent is not None
            assert (span.parent.trace_id, span.parent.span_id) == (7, 9)
            assert span.attributes is not None
            assert span.attributes["session.id"] == good.session.id
        stages = {event.name for event in start.events}
        assert {"process", "claim", "bot", "worker", "pipeline", "assigned_to_pipeline"} <= stages
        assert start.status.is_unset
        assert end.attributes is not None
        assert end.attributes["greenroom.reason"] == "goodbye"
        recorder = record_spans()
        await rig.ended(await rig.start(die="SIGKILL"))
        assert recorder.one("session.start").status.description == "process-killed"
        entries = await rig.ledger.history("default", good.session.id)
        assert {entry.traceparent.split("-")[1] for entry in entries[2:] if entry.traceparent} == {f"{7:032x}"}


async def test_changes_are_told_at_once(nats_url: str) -> None:
    """A heartbeat follows a change at once, two are never closer than 50 ms, and otherwise there is one each second."""
    async with running_runner(nats_url, standby=1) as rig:
        session_id = await rig.start()
        await until(lambda: any(held.session_id == session_id for held in rig.now.sessions), 0.5)
        await rig.reaches(session_id, State.READY)
        await asyncio.sleep(0.3)
        quiet = len(rig.heartbeats)
        await asyncio.sleep(2.2)
        assert 1 <= len(rig.heartbeats) - quiet <= 4
        numbers = [heartbeat.seq for heartbeat in rig.heartbeats]
        assert numbers == sorted(set(numbers))
        gaps = [later.at - before.at for before, later in itertools.pairwise(rig.heartbeats)]
        assert min(gaps).total_seconds() >= 0.045


async def test_a_start_that_cannot_be_read_is_refused(nats_url: str) -> None:
    """A malformed command is answered and counted, not left without an answer."""
    async with running_runner(nats_url, standby=0) as rig:
        subject = subjects.RUNNER_CMD.format(pool=rig.settings.pool, runner_id=rig.settings.runner_id, name="start")
        reply = await rig.broker.request(subject, b'{"session": 1}', timeout_s=5)
        assert msgspec.json.decode(reply.data, type=StartAnswer) == StartRefused(
            code="malformed", detail="Expected `object`, got `int` - at `$.session`"
        )


async def test_the_same_start_twice_runs_once(nats_url: str) -> None:
    """A start that is sent again, even after the end, is accepted again and runs once."""
    async with running_runner(nats_url) as rig:
        entry = await rig.lease(finish_after_s=0.1)
        answers = [await rig.send_start(entry) for _ in range(3)]
        await rig.ended(entry.session.id)
        answers.append(await rig.send_start(entry))
        assert all(isinstance(answer, StartAccepted) for answer in answers)
        assert rig.instruments.starts.value() == 1
        assert (await history(rig, entry.session.id)).count("Started") == 1


async def test_starts_are_refused_with_a_code(nats_url: str) -> None:
    """A runner that is full, or can't run the bot, refuses at once and says why; each refusal is counted."""
    async with running_runner(nats_url, slots=1, standby=1) as rig:
        refused = [await rig.send_start(await rig.lease(bot=bot)) for bot in ("missing", "unheard-of")]
        await rig.start()
        refused.append(await rig.send_start(await rig.lease()))
        assert [answer.code for answer in refused if isinstance(answer, StartRefused)] == [
            "bot-import-failed",
            "bot-unknown",
            "no-slot",
        ]
        assert rig.instruments.refusals.value(code="no-slot") == 1


async def test_a_killed_session_process_is_seen(nats_url: str) -> None:
    """A session process that is killed with SIGKILL ends its session as failed within a second, and frees its slot."""
    async with running_runner(nats_url, slots=1, standby=1) as rig:
        session_id = await rig.start(connect=True)
        await rig.reaches(session_id, State.READY)
        rig.process_of(session_id).kill()
        ended = await rig.ended(session_id, patience_s=1.0)
        assert (ended.outcome, ended.reason) == (Outcome.FAILED, "process-killed")
        assert ended.detail == "SIGKILL, which the runner didn't send"
        await rig.ended(await rig.start(finish_after_s=0.0))


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"die": "SIGSEGV"}, "SIGSEGV"),
        ({"exit_code": 3, "finish_after_s": 0}, "exit code 3 without a last word"),
        ({"raise": "boom", "finish_after_s": 0}, "exit code 70 without a last word"),
    ],
)
async def test_a_process_that_leaves_without_a_word_has_failed(
    nats_url: str, body: dict[str, Any], detail: str
) -> None:
    """Whatever way a process takes out of a session, the ledger tells how it ended."""
    async with running_runner(nats_url, standby=1) as rig:
        ended = await rig.ended(await rig.start(**body))
        assert (ended.outcome, ended.reason, ended.detail) == (Outcome.FAILED, "process-killed", detail)


async def test_a_client_stops_a_session(nats_url: str) -> None:
    """What a client writes into the ledger reaches the process, which ends in order with the client's reason."""
    async with running_runner(nats_url, standby=1) as rig:
        session_id = await rig.start(connect=True)
        await rig.reaches(session_id, State.READY)
        await rig.move(session_id, Ending(by="client", epoch=1, reason="client-stop"))
        ended = await rig.ended(session_id, patience_s=2)
        assert (ended.outcome, ended.reason, ended.ended_by) == (Outcome.COMPLETED, "client-stop", "client")


async def test_a_process_that_ignores_everything_is_killed_within_its_deadline(nats_url: str) -> None:
    """A bot that ignores Stop, Cancel and SIGTERM is killed when `end_timeout_s` is over; the session has failed."""
    async with running_runner(nats_url, standby=1) as rig:
        session_id = await rig.start(deaf=True)
        await rig.reaches(session_id, State.READY)
        began = asyncio.get_running_loop().time()
        await rig.move(session_id, Ending(by="client", epoch=1, reason="client-stop"))
        ended = await rig.ended(session_id)
        took_s = asyncio.get_running_loop().time() - began
        assert (ended.outcome, ended.reason) == (Outcome.FAILED, "end-timeout")
        assert LIMITS.end_timeout_s <= took_s < LIMITS.end_timeout_s + 1.0
        for step in ("stop", "cancel", "terminate", "kill"):
            assert rig.instruments.steps.value(step=step) == 1


async def test_a_process_that_lingers_after_its_goodbye_is_killed(nats_url: str) -> None:
    """A session that ends itself has the same deadline for being gone."""
    async with running_runner(nats_url, standby=1) as rig:
        ended = await rig.ended(await rig.start(finish_after_s=0, linger=True, outcome="failed", reason="bot-failed"))
        assert (ended.outcome, ended.reason) == (Outcome.FAILED, "bot-failed")


async def test_a_start_that_hangs_is_ended(nats_url: str) -> None:
    """Without a running pipeline in `start_timeout_s` the session fails with `start-timeout`."""
    async with running_runner(nats_url, standby=1) as rig:
        limits = Limits(start_timeout_s=0.3, end_timeout_s=0.5)
        ended = await rig.ended(await rig.start(hang=True, limits=limits))
        assert (ended.outcome, ended.reason) == (Outcome.FAILED, "start-timeout")


async def test_a_session_nobody_joins_expires(nats_url: str) -> None:
    """Without a client in `join_timeout_s` the session expires with `nobody-joined`."""
    async with running_runner(nats_url, standby=1) as rig:
        ended = await rig.ended(await rig.start(limits=Limits(join_timeout_s=0.2)))
        assert (ended.outcome, ended.reason) == (Outcome.EXPIRED, "nobody-joined")


async def test_a_session_ends_at_its_longest_duration(nats_url: str) -> None:
    """After `max_duration_s` the session is ended in order."""
    async with running_runner(nats_url, standby=1) as rig:
        ended = await rig.ended(await rig.start(connect=True, limits=Limits(max_duration_s=0.2)))
        assert (ended.outcome, ended.reason) == (Outcome.COMPLETED, "max-duration-exceeded")


async def test_a_lost_claim_kills_the_process_and_nothing_is_written(nats_url: str) -> None:
    """When the lease was taken back before the claim, the process is killed and the ledger never hears of it."""
    async with running_runner(nats_url, standby=1) as rig:
        entry = await rig.lease(ready_after_s=0.1)
        back = await rig.move(entry.session.id, Requeued(epoch=1, reason="lease-expired"))
        assert isinstance(await rig.send_start(entry), StartAccepted)
        await until(lambda: rig.instruments.fenced.value() == 1)
        await until(lambda: not rig.now.sessions)
        last = await rig.ledger.last("default", entry.session.id)
        assert last is not None
        assert last.revision == back.revision


async def test_a_newer_lease_replaces_the_process_of_the_older_one(nats_url: str) -> None:
    """A session that was requeued and leased here again gets a new process once the old one is gone."""
    async with running_runner(nats_url) as rig:
        entry = await rig.lease(connect=True)
        await rig.send_start(entry)
        session_id = entry.session.id
        await rig.reaches(session_id, State.READY)
        old = rig.process_of(session_id)
        again = await rig.lease_again(await rig.move(session_id, Requeued(epoch=1, reason="runner-lost")))
        assert isinstance(await rig.send_start(again), StartAccepted)
        session = await rig.reaches(session_id, State.READY)
        assert session.epoch == 2
        assert gone(old)
        assert rig.process_of(session_id).pid != old.pid


async def test_a_session_that_was_declared_lost_is_killed(nats_url: str) -> None:
    """A runner that was thought lost and lives kills the process of a session that was ended meanwhile."""
    async with running_runner(nats_url, standby=1) as rig:
        session_id = await rig.start(connect=True)
        await rig.reaches(session_id, State.READY)
        process = rig.process_of(session_id)
        await rig.move(session_id, Ended(by="scheduler", epoch=1, outcome=Outcome.LOST, reason="runner-lost"))
        await until(lambda: gone(process), 1.0)
        await until(lambda: not rig.now.sessions)


async def test_grandchildren_go_with_the_session(nats_url: str) -> None:
    """What a bot has started is killed when its process is gone."""
    async with running_runner(nats_url, standby=1) as rig:
        session_id = await rig.start(grandchild="plain")
        await rig.reaches(session_id, State.READY)
        [grandchild] = rig.process_of(session_id).children()
        rig.process_of(session_id).kill()
        await rig.ended(session_id)
        await until(lambda: gone(grandchild), 1.0)


async def test_sessions_outlive_their_zygote(nats_url: str) -> None:
    """When the zygote is killed live sessions go on, a new one takes its place, and exits are seen as before."""
    async with running_runner(nats_url) as rig:
        session_id, other_id = await rig.start(connect=True), await rig.start(connect=True, exit_code=5)
        for each in (session_id, other_id):
            await rig.reaches(each, State.READY)
        first = rig.supervisor.zygote_pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: rig.supervisor.available and rig.supervisor.zygote_pid != first)
        assert len(rig.now.sessions) == 2
        rig.process_of(other_id).terminate()
        assert (await rig.ended(other_id)).detail == "SIGTERM"
        await rig.move(session_id, Ending(by="client", epoch=1, reason="client-stop"))
        assert (await rig.ended(session_id)).outcome is Outcome.COMPLETED
        await rig.warm()
        await rig.ended(await rig.start(finish_after_s=0))


async def test_a_runner_without_a_zygote_has_no_free_slots(nats_url: str) -> None:
    """While no process can be had the heartbeat offers none, and starts are refused rather than kept waiting."""
    async with running_runner(nats_url, standby=0) as rig:
        session_id = await rig.start()
        await rig.reaches(session_id, State.READY)
        assert rig.supervisor.zygote_pid is not None
        os.kill(rig.supervisor.zygote_pid, signal.SIGSTOP)
        os.kill(rig.supervisor.zygote_pid, signal.SIGKILL)
        await until(lambda: not rig.supervisor.available, 2.0)
        refused = await rig.send_start(await rig.lease())
        assert isinstance(refused, StartRefused)
        assert refused.code == "no-slot"
        await until(lambda: rig.now.slots == 1, 2.0)
        await until(lambda: rig.now.slots == 3)


async def test_a_dead_standby_is_passed_over(nats_url: str) -> None:
    """A start gets a process that lives, even if one that stood by has just been killed."""
    async with running_runner(nats_url) as rig:
        victims = [process.pid for process in rig.supervisor.processes]
        assert len(victims) == 2
        entry = await rig.lease(connect=True)
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        await rig.send_start(entry)
        await rig.reaches(entry.session.id, State.READY)


async def test_a_standby_that_hangs_is_passed_over(nats_url: str) -> None:
    """One that was stopped a moment ago is given the session, doesn't read it, and goes; another begins it, once."""
    async with running_runner(nats_url, standby=1) as rig:
        [stopped] = [psutil.Process(process.pid) for process in rig.supervisor.processes]
        entry = await rig.lease(connect=True)
        stopped.suspend()
        await rig.send_start(entry)
        await rig.reaches(entry.session.id, State.READY, patience_s=4.0)
        assert gone(stopped)
        assert rig.process_of(entry.session.id).pid != stopped.pid
        assert (await history(rig, entry.session.id)).count("Started") == 1
        assert rig.instruments.starts.value() == 1


async def test_a_process_that_is_slow_to_begin_is_left_alone(nats_url: str) -> None:
    """One that has read its orders may be silent for as long as a start may take."""
    async with running_runner(nats_url, standby=1) as rig:
        [process] = rig.supervisor.processes
        session_id = await rig.start(ready_after_s=1.5)
        await rig.reaches(session_id, State.READY)
        assert rig.process_of(session_id).pid == process.pid


async def test_drain_lets_calls_finish_and_takes_no_new_ones(nats_url: str) -> None:
    """After the drain command starts are refused, overlapping calls go on to their own ends, and nothing stands by."""
    async with running_runner(nats_url) as rig:
        first, second = await rig.start(finish_after_s=0.3), await rig.start(finish_after_s=0.9)
        for each in (first, second):
            await rig.reaches(each, State.READY)
        subject = subjects.RUNNER_CMD.format(pool=rig.settings.pool, runner_id=rig.settings.runner_id, name="drain")
        reply = await rig.broker.request(subject, encode(Drain(reason="maintenance")), timeout_s=5)
        assert decode(reply.data, Done).detail == "2 sessions go on"
        refused = await rig.send_start(await rig.lease())
        assert isinstance(refused, StartRefused)
        assert refused.code == "draining"
        assert (await rig.ended(first)).reason == "goodbye"
        await until(lambda: len(rig.now.sessions) == 1 and rig.now.draining and rig.now.standby == 0)
        assert (await rig.ended(second)).reason == "goodbye"


async def test_a_drained_runner_stays_and_says_so(nats_url: str) -> None:
    """Told to drain, once or again, an empty runner goes on to send heartbeats that say so, until it is stopped."""
    async with running_runner(nats_url, drain_timeout_s=0.2) as rig:
        session_id = await rig.start(finish_after_s=1.0)
        await rig.reaches(session_id, State.READY)
        subject = subjects.RUNNER_CMD.format(pool=rig.settings.pool, runner_id=rig.settings.runner_id, name="drain")
        for _ in range(3):
            reply = await rig.broker.request(subject, encode(Drain(reason="rollout")), timeout_s=5)
            assert decode(reply.data, Done).detail == "1 sessions go on"
        # Who isn't being stopped has no deadline: the call isn't cut.
        assert (await rig.ended(session_id)).reason == "goodbye"
        await until(lambda: not rig.now.sessions)
        told = len(rig.heartbeats)
        await asyncio.sleep(2.2)
        assert len(rig.heartbeats) - told >= 2
        assert all(heartbeat.draining for heartbeat in rig.heartbeats[told:])
        await rig.runner.drain(5.0)
        assert rig.runner.heartbeat().draining


@pytest.mark.parametrize("part", ["timeline", "writer", "slots"])
async def test_a_fault_of_the_runner_ends_its_session_and_no_other(
    nats_url: str, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """Whatever breaks in the supervision of a session, its process goes and its end is in the ledger."""
    async with running_runner(nats_url, slots=2, standby=1) as rig:
        other = await rig.start(connect=True)
        session_id = await rig.start(connect=True)
        for each in (other, session_id):
            await rig.reaches(each, State.READY)
        [broken] = [session for key, session in rig.runner._sessions.items() if key[0] == session_id]
        process = rig.process_of(session_id)

        def fail(*_: object, **__: object) -> None:
            raise KeyError(part)

        if part == "slots":
            monkeypatch.setattr(running, "judge", fail)
        else:
            faulty, name = (broken._timeline, "ended") if part == "timeline" else (broken._writer, "_write")
            monkeypatch.setattr(faulty, name, fail)
        await rig.move(session_id, Ending(by="client", epoch=1, reason="client-stop"))
        if part == "writer":
            process.kill()
        ended = await rig.ended(session_id)
        assert (ended.outcome, ended.reason, ended.ended_by) == (Outcome.FAILED, "process-killed", "runner")
        assert ended.detail == "the runner failed to supervise it (KeyError)"
        assert gone(process)
        await until(lambda: len(rig.now.sessions) == 1)
        monkeypatch.undo()
        await rig.move(other, Ending(by="client", epoch=1, reason="client-stop"))
        assert (await rig.ended(other)).reason == "client-stop"


async def test_a_fault_of_the_runner_does_not_end_what_is_not_its_own(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that was given to another runner when its supervision broke is left to that one."""
    async with running_runner(nats_url, standby=1) as rig:
        session_id = await rig.start(connect=True)
        await rig.reaches(session_id, State.READY)
        process = rig.process_of(session_id)
        [broken] = rig.runner._sessions.values()

        def fail(*_: object, **__: object) -> None:
            raise KeyError

        monkeypatch.setattr(broken._writer, "_on_fenced", fail)
        back = await rig.move(session_id, Requeued(epoch=1, reason="runner-lost"))
        await until(lambda: not rig.runner._sessions)
        assert gone(process)
        last = await rig.ledger.last("default", session_id)
        assert last is not None
        assert last.revision == back.revision


async def test_the_end_of_a_drain_ends_the_calls_that_are_left(nats_url: str) -> None:
    """Calls that outlast the drain are told to end, and killed if they don't, all within its time."""
    async with running_runner(nats_url) as rig:
        polite, deaf = await rig.start(connect=True), await rig.start(deaf=True, connect=True)
        for each in (polite, deaf):
            await rig.reaches(each, State.READY)
        began = asyncio.get_running_loop().time()
        await rig.runner.drain(4.0)
        assert asyncio.get_running_loop().time() - began < 4.0
        for each in (polite, deaf):
            ended = await rig.ended(each, patience_s=0.1)
            assert (ended.outcome, ended.reason) == (Outcome.FAILED, "drain-deadline")


async def test_a_drain_is_over_when_the_last_call_is(nats_url: str) -> None:
    """What SIGTERM begins: overlapping calls come to their own ends, and nobody waits for the rest of the time."""
    async with running_runner(nats_url) as rig:
        short, long = await rig.start(finish_after_s=0.5), await rig.start(finish_after_s=1.5)
        for each in (short, long):
            await rig.reaches(each, State.READY)
        await asyncio.wait_for(rig.runner.drain(60.0), 20.0)
        for each in (short, long):
            ended = await rig.ended(each, patience_s=0.1)
            assert (ended.outcome, ended.reason) == (Outcome.COMPLETED, "goodbye")


async def test_a_short_drain_leaves_time_for_a_goodbye(nats_url: str) -> None:
    """With less time than a session's own end needs, it is still told to end before it is killed."""
    async with running_runner(nats_url) as rig:
        session_id = await rig.start(connect=True, limits=Limits(end_timeout_s=10))
        await rig.reaches(session_id, State.READY)
        await rig.runner.drain(1.7)
        assert (await rig.ended(session_id, patience_s=0.1)).reason == "drain-deadline"
        assert rig.instruments.steps.value(step="stop") == 1
        assert rig.instruments.steps.value(step="kill") == 0


async def test_sessions_live_through_an_outage_of_the_broker(own_nats: EmbeddedNats) -> None:
    """Calls go on while NATS is away, and what happened meanwhile is in the ledger when it is back."""
    async with running_runner(own_nats.url) as rig:
        stays, leaves = await rig.start(connect=True), await rig.start(connect=True, finish_after_s=0.8)
        for each in (stays, leaves):
            await rig.reaches(each, State.READY)
        await own_nats.kill()
        await until(lambda: len(rig.runner._slots) == 1)
        await own_nats.start()
        await until(lambda: rig.broker.connected)
        assert (await rig.ended(leaves)).reason == "goodbye"
        await rig.move(stays, Ending(by="client", epoch=1, reason="client-stop"))
        assert (await rig.ended(stays)).reason == "client-stop"


async def test_nothing_is_left_after_many_sessions(nats_url: str) -> None:
    """Thirty sessions later the runner has no more files, and its zygote no more files and processes, than before."""
    async with running_runner(nats_url, slots=5) as rig:
        assert rig.supervisor.zygote_pid is not None
        runner, zygote = psutil.Process(), psutil.Process(rig.supervisor.zygote_pid)
        await rig.ended(await rig.start(finish_after_s=0))
        await rig.warm()
        tasks = len(asyncio.all_tasks())
        before = runner.num_fds(), zygote.num_fds(), len(zygote.children())
        for _ in range(6):
            started = [await rig.start(finish_after_s=0, connect=True) for _ in range(5)]
            for session_id in started:
                assert (await rig.ended(session_id)).outcome is Outcome.COMPLETED
            await until(lambda: not rig.now.sessions)
        await rig.warm()
        await until(lambda: (runner.num_fds(), zygote.num_fds(), len(zygote.children())) == before, 3.0)
        assert len(asyncio.all_tasks()) <= tasks + 1
