"""The session process as it is: forked, standing by, one call over the broker, and its end."""

import asyncio
import os
import signal
import time
from collections.abc import Sequence

import numpy as np
import pytest

from greenroom.common.lifecycle import Limits, OnLoss, Outcome
from greenroom.common.media_messages import MediaKind, MediaRefused
from greenroom.common.messages import Event
from greenroom.devtools.embedded.nats import EmbeddedNats
from greenroom.runner.control import Answered, EndingNotice, Finished, MediaConnected, PipelineReady
from tests.support.otlp_stub import otlp_stub
from tests.support.session_bots import GREETING, HEARD, WORD_S, tone
from tests.support.session_rig import RATE, HostProcess, SessionRun, Sessions, StoredChunk

TRACE_ID, ROOT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{ROOT_ID}-03"


def types_of(events: Sequence[Event]) -> list[str]:
    """Return the types of events, in order."""
    return [event.type for event in events]


def one(events: Sequence[Event], kind: str) -> Event:
    """Return the only event of a type."""
    (found,) = [event for event in events if event.type == kind]
    return found


def timeline(chunks: Sequence[StoredChunk]) -> np.ndarray:
    """Return a track as the recorder would write it."""
    end = max((chunk.position + chunk.samples for chunk in chunks), default=0)
    samples = np.zeros(end, dtype=np.int16)
    for chunk in chunks:
        samples[chunk.position : chunk.position + chunk.samples] = np.frombuffer(chunk.pcm, dtype=np.int16)
    return samples


def loud(samples: np.ndarray, start_ms: float, end_ms: float) -> float:
    """Return which share of a stretch is louder than silence, by frames of 10 ms."""
    stretch = samples[round(start_ms * 16) : round(end_ms * 16)]
    frames = stretch[: len(stretch) // 160 * 160].reshape(-1, 160)
    return float((np.abs(frames).max(axis=1) > 500).mean()) if len(frames) else 0.0


async def finished(run: SessionRun) -> Finished:
    """Wait for the last word, and for the exit."""
    last = await run.expect(Finished)
    assert await run.exit_status() == 0
    return last


async def test_a_call_from_its_start_to_the_hang_up(host: HostProcess, nats_url: str) -> None:
    """A caller's audio is echoed, recorded on both sides and told in events; hanging up ends the session in order."""
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.assign("echo")
        ready = await run.expect(PipelineReady)
        assert list(ready.stages_ms) == ["bot", "worker", "pipeline"]
        caller = await run.call()
        await run.expect(MediaConnected)
        await caller.speak(tone(2 * RATE))
        await caller.until_heard(1.9)
        await caller.hang_up(1001, "bye")
        notice = await run.expect(EndingNotice)
        assert (notice.outcome, notice.reason) == (Outcome.COMPLETED, "client-left")
        last = await finished(run)
        events = await run.events()
        assert types_of(events) == ["call_started", "call_connected", "call_disconnected", "call_completed"]
        assert [event.seq for event in events] == [1, 2, 3, 4]
        assert {event.source for event in events} == {"session"}
        assert events[2].data["code"] == 1001
        assert events[3].data["events"] == last.events == 4
        assert events[3].data["media"]["lost"] == caller.missing == 0
        usage = events[3].data["usage"]
        assert usage["memory_bytes"] > 2**20
        assert usage["cpu_s"] > 0
        user, bot = await run.chunks("user"), await run.chunks("bot")
        assert last.chunks == len(user) + len(bot)
        assert events[3].data["chunks"] == {"user": len(user), "bot": len(bot)}
        assert [chunk.seq for chunk in user] == list(range(1, len(user) + 1))
        assert {chunk.origin_ns for chunk in user + bot} == {user[0].origin_ns}
        assert all(chunk.samples <= RATE and chunk.rate == RATE for chunk in user + bot)
        assert timeline(user)[user[0].position :].tobytes() == tone(2 * RATE)
        # What the bot said is what the caller got, shortly after the caller had said it.
        echoed = b"".join(chunk.pcm for chunk in bot)
        assert echoed == bytes(caller.audio[: len(echoed)])
        assert 0 < bot[0].position - user[0].position < RATE / 5


async def test_a_conversation(host: HostProcess, nats_url: str) -> None:
    """Turns, texts, a tool call, metrics and latency of a whole voice pipeline, with times that fit the recording."""
    lines = ["!book Your table is booked for two.", "Thank you."]
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.assign("talker", body={"lines": lines})
        await run.expect(PipelineReady)
        caller = await run.call()
        await caller.be_silent(0.8)
        await caller.speak(tone(RATE))
        await caller.be_silent(1.6)
        greeted, answered = await run.expect(Answered), await run.expect(Answered)
        assert (greeted.greeting, answered.greeting) == (True, False)
        run.stop()
        assert await caller.until_closed() == (1000, "client-stop")
        await finished(run)
        events = await run.events()
        spoke = [event.data for event in events if event.type == "agent_spoke"]
        assert [said["text"] for said in spoke] == [GREETING, "Your table is booked for two."]
        assert not any(said["interrupted"] for said in spoke)
        heard = one(events, "user_spoke").data
        assert heard["text"] == HEARD
        call = one(events, "tool_called").data
        assert (call["name"], call["arguments"], call["result"]) == ("book", {"party": 2}, {"booked": True})
        assert 15 < call["duration_ms"] < 200
        kinds = [event.data["kind"] for event in events if event.type == "metrics"]
        assert {"first_speech", "user_bot_latency", "ttfb", "tts_usage", "processing"} <= set(kinds)
        latency = next(event.data for event in events if event.data.get("kind") == "user_bot_latency")
        assert 400 < latency["user_bot_latency_ms"] < 1500
        assert answered.took_ms == pytest.approx(latency["user_bot_latency_ms"], abs=0.1)
        assert sum(part["ms"] for part in latency["parts"]) == pytest.approx(latency["user_bot_latency_ms"], abs=30)
        # Where the transcript says that somebody speaks, the recording has them, and else silence.
        user, bot = timeline(await run.chunks("user")), timeline(await run.chunks("bot"))
        assert loud(user, heard["start_ms"], heard["end_ms"]) > 0.9
        assert loud(user, 0, heard["start_ms"] - 60) < 0.05
        for said in spoke:
            assert loud(bot, said["start_ms"] + 20, said["end_ms"] - 40) > 0.9
            assert said["end_ms"] - said["start_ms"] == pytest.approx(
                len(said["text"].split()) * WORD_S * 1000, abs=120
            )
        assert loud(bot, spoke[0]["end_ms"] + 100, spoke[1]["start_ms"] - 60) == 0


async def test_a_barge_in(host: HostProcess, nats_url: str) -> None:
    """A caller who cuts in ends the bot's utterance there: in its text, in its times and in the recording."""
    line = "One two three four five six seven eight nine ten " * 5
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.assign("talker", body={"greeting": line.strip() + "."})
        await run.expect(PipelineReady)
        caller = await run.call()
        await caller.be_silent(1.0)
        await caller.speak(tone(RATE // 2))
        await caller.be_silent(1.2)
        run.stop()
        await finished(run)
        events = await run.events()
        cut, answer = (event.data for event in events if event.type == "agent_spoke")
        assert cut["interrupted"] is True
        assert cut["estimated"] is True
        assert answer["interrupted"] is False
        # 60 ms a word: what is said to have been heard was heard, and nothing of the rest.
        words = len(cut["text"].split())
        assert words == pytest.approx((cut["end_ms"] - cut["start_ms"]) / 1000 / WORD_S, abs=4)
        assert line.startswith(cut["text"])
        assert 1000 < cut["end_ms"] < 1400
        bot = timeline(await run.chunks("bot"))
        assert loud(bot, cut["end_ms"] + 100, answer["start_ms"] - 60) == 0


async def test_a_barge_in_while_the_voice_is_still_at_work(host: HostProcess, nats_url: str) -> None:
    """A sentence that is cut while it is being made is told as far as it was heard, by the pace of those before it."""
    line = ("One two three four five six seven eight nine ten " * 6).strip() + "."
    greeting = "one two three four five six seven eight nine ten"
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.assign("talker", body={"greeting": greeting, "lines": [line, "Yes."], "live": True})
        await run.expect(PipelineReady)
        caller = await run.call()
        await caller.be_silent(1.2)
        await caller.speak(tone(RATE // 2))
        await caller.be_silent(1.8)
        await caller.speak(tone(RATE // 2))
        await caller.be_silent(1.2)
        run.stop()
        await finished(run)
        whole, cut, *_ = (event.data for event in await run.events() if event.type == "agent_spoke")
        assert (whole["text"], whole["interrupted"]) == (greeting, False)
        assert (cut["interrupted"], cut["estimated"]) == (True, True)
        words = len(cut["text"].split())
        assert line.startswith(cut["text"])
        assert words == pytest.approx((cut["end_ms"] - cut["start_ms"]) / 1000 / WORD_S, abs=8)
        assert words < 45


async def test_a_bot_says_goodbye(host: HostProcess, nats_url: str) -> None:
    """`EndFrame(reason="goodbye")` ends the session with that reason, after everything was said."""
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.assign("talker", body={"hang_up": True})
        await run.expect(PipelineReady)
        caller = await run.call()
        assert await caller.until_closed() == (1000, "goodbye")
        notice = await run.expect(EndingNotice)
        assert (notice.outcome, notice.reason) == (Outcome.COMPLETED, "goodbye")
        last = await finished(run)
        assert (last.outcome, last.reason, last.lost) == (Outcome.COMPLETED, "goodbye", 0)
        events = await run.events()
        assert one(events, "agent_spoke").data["text"] == GREETING
        assert one(events, "call_completed").data["reason"] == "goodbye"
        assert types_of(events)[-1] == "call_completed"


async def test_a_bot_tidies_up_at_its_end(host: HostProcess, nats_url: str) -> None:
    """What it wants done then is done, in order, before the last event; what fails is told, and changes no outcome."""
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.assign("tidy")
        await run.expect(PipelineReady)
        run.stop()
        assert (await finished(run)).outcome is Outcome.COMPLETED
        events = await run.events()
        stayed, failed = [event.data["message"] for event in events if event.type == "error"]
        assert stayed == "ON_END: tidy.<locals>.stay: not done within 0.2 s"
        assert failed.startswith("ON_END: tidy.<locals>.fail_at_the_end: ValueError (session_bots.py:")
        assert types_of(events)[-1] == "call_completed"


async def test_a_flow_tells_its_nodes(host: HostProcess, nats_url: str) -> None:
    """Where a conversation stands in its flow is told, also when the flow begins with the client."""
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.assign("flowing")
        await run.expect(PipelineReady)
        caller = await run.call()
        await caller.until_heard(0.05)
        run.stop()
        await finished(run)
        nodes = [(event.type, event.data) for event in await run.events() if event.type.startswith("node")]
        assert nodes == [
            ("node_entered", {"node": "greeting"}),
            ("node_transition", {"from": "greeting", "to": "booking"}),
            ("node_entered", {"node": "booking"}),
        ]


@pytest.mark.parametrize(
    ("bot", "detail"),
    [
        ("raises", "ValueError (session_bots.py:"),
        ("returns", "the bot returned before its pipeline ran"),
        ("nonsense", "no bot 'nonsense' is installed on this runner"),
    ],
)
async def test_a_bot_that_fails_at_once(host: HostProcess, nats_url: str, bot: str, detail: str) -> None:
    """A bot that can't run fails its session, with a detail that says where, and without what the error says."""
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.assign(bot)
        notice = await run.expect(EndingNotice)
        assert notice.outcome is Outcome.FAILED
        assert notice.reason == ("bot-import-failed" if bot == "nonsense" else "bot-failed")
        assert (notice.detail or "").startswith(detail)
        assert (await finished(run)).outcome is Outcome.FAILED
        assert "secret" not in str([event.data for event in await run.events()])


async def test_a_bot_that_raises_in_mid_call(host: HostProcess, nats_url: str) -> None:
    """The caller's connection is closed with 1011, and the event of the error comes before the end."""
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.assign("raises_later")
        await run.expect(PipelineReady)
        caller = await run.call()
        assert await caller.until_closed() == (1011, "bot-failed")
        last = await finished(run)
        assert (last.outcome, last.reason) == (Outcome.FAILED, "bot-failed")
        events = await run.events()
        assert one(events, "error").data["exception_type"] == "KeyError"
        assert types_of(events)[-1] == "call_completed"


async def test_a_bot_that_doesnt_notice_a_hang_up(host: HostProcess, nats_url: str) -> None:
    """When the caller has left, the session ends even if the bot would go on."""
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.assign("careless")
        await run.expect(PipelineReady)
        caller = await run.call()
        await caller.be_silent(0.2)
        await caller.hang_up()
        assert (await finished(run)).reason == "client-left"


async def test_one_caller_at_a_time(host: HostProcess, nats_url: str) -> None:
    """A second client is refused while the first is connected."""
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.assign("echo")
        await run.expect(PipelineReady)
        caller = await run.call()
        assert await caller.ask("another") == MediaRefused(code="media-already-connected")
        run.stop()
        await finished(run)


async def test_lost_frames_are_counted(host: HostProcess, nats_url: str) -> None:
    """Frames that got lost on the way are told at the end of the call."""
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.assign("echo")
        await run.expect(PipelineReady)
        caller = await run.call()
        await caller.be_silent(0.1)
        await caller.send(MediaKind.BINARY, b"", skip=5)
        # A stop comes another way than frames do: what is sent after the gap and comes back has overtaken nothing.
        await caller.speak(tone(RATE // 5))
        async with asyncio.timeout(5):
            while caller.first_sound_at is None:
                await asyncio.sleep(0.01)
        run.stop()
        await finished(run)
        assert one(await run.events(), "call_completed").data["media"]["lost"] == 5


async def test_a_stop_lets_the_bot_finish_its_sentence(host: HostProcess, nats_url: str) -> None:
    """Stopped in the middle of a sentence, the bot says it to its end."""
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.assign("talker", body={"greeting": "word " * 20 + "end."})
        await run.expect(PipelineReady)
        caller = await run.call()
        await caller.until_heard(0.2)
        run.stop(deadline_s=4)
        await finished(run)
        said = one(await run.events(), "agent_spoke").data
        assert said["text"].endswith("end.")
        assert not said["interrupted"]
        # Pipecat sends some silence behind the last word.
        assert len(caller.audio.rstrip(b"\0")) / 2 / RATE == pytest.approx(21 * WORD_S, abs=0.1)


async def test_a_stop_has_a_deadline(host: HostProcess, nats_url: str) -> None:
    """A bot that speaks on beyond the deadline is cut, and everything is published nevertheless."""
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.assign("talker", body={"greeting": "word " * 200})
        await run.expect(PipelineReady)
        caller = await run.call()
        await caller.until_heard(0.2)
        began = time.monotonic()
        run.stop(deadline_s=0.5)
        last = await finished(run)
        assert time.monotonic() - began < 2
        assert (last.reason, last.lost) == ("client-stop", 0)
        said = one(await run.events(), "agent_spoke").data
        assert 0 < len(said["text"].split()) < 40


async def test_a_cancel_is_at_once(host: HostProcess, nats_url: str) -> None:
    """Canceled, the session ends without waiting for anybody, in order."""
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.assign("talker", body={"greeting": "word " * 200})
        await run.expect(PipelineReady)
        caller = await run.call()
        await caller.until_heard(0.2)
        began = time.monotonic()
        run.cancel("drain-deadline")
        last = await finished(run)
        assert time.monotonic() - began < 1.5
        assert (last.outcome, last.reason) == (Outcome.FAILED, "drain-deadline")
        assert types_of(await run.events())[-1] == "call_completed"


async def test_a_bot_that_swallows_cancellation_is_left_behind(host: HostProcess, nats_url: str) -> None:
    """Whatever the bot does, the session is finished before the runner has to kill its process."""
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.assign("stubborn")
        await run.expect(PipelineReady)
        began = time.monotonic()
        run.stop(deadline_s=0.3)
        assert (await finished(run)).reason == "client-stop"
        assert time.monotonic() - began < 4


async def test_a_terminated_process_still_has_its_last_word(host: HostProcess, nats_url: str) -> None:
    """SIGTERM ends the session within a second, with everything published."""
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.assign("stubborn")
        await run.expect(PipelineReady)
        began = time.monotonic()
        os.kill(run.pid, signal.SIGTERM)
        last = await finished(run)
        assert time.monotonic() - began < 1.5
        assert (last.outcome, last.reason) == (Outcome.FAILED, "process-killed")
        assert types_of(await run.events()) == ["call_started", "call_completed"]


async def test_a_killed_process_loses_no_more_than_a_second(host: HostProcess, nats_url: str) -> None:
    """After kill -9 the events and the audio up to the last second are in the streams."""
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.assign("echo")
        await run.expect(PipelineReady)
        caller = await run.call()
        await caller.speak(tone(3 * RATE))
        os.kill(run.pid, signal.SIGKILL)
        assert await run.exit_status() == -signal.SIGKILL
        for track in ("user", "bot"):
            assert len(timeline(await run.chunks(track))) > 2 * RATE
        assert types_of(await run.events()) == ["call_started", "call_connected"]


async def test_a_process_without_its_runner_ends(host: HostProcess, nats_url: str) -> None:
    """When the runner is gone, the bot falls silent and the process exits within a second."""
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.assign("talker", body={"greeting": "word " * 200})
        await run.expect(PipelineReady)
        caller = await run.call()
        await caller.until_heard(0.2)
        began = time.monotonic()
        run.abandon()
        assert (await caller.until_closed())[0] == 1011
        assert await run.exit_status() == 0
        assert time.monotonic() - began < 1.0
        assert one(await run.events(), "call_completed").data["outcome"] == "lost"


async def test_a_process_whose_session_goes_on_elsewhere_leaves_its_client(host: HostProcess, nats_url: str) -> None:
    """With `on_loss=always` the bot falls silent when its runner is gone, and its client's connection stays open."""
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.assign("talker", body={"greeting": "word " * 200}, on_loss=OnLoss.ALWAYS)
        await run.expect(PipelineReady)
        caller = await run.call()
        await caller.until_heard(0.2)
        run.abandon()
        assert await run.exit_status() == 0
        assert caller.closed is None
        events = await run.events()
        assert one(events, "call_completed").data["outcome"] == "lost"
        assert "call_disconnected" not in types_of(events)


async def test_a_standby_without_its_runner_leaves(host: HostProcess, nats_url: str) -> None:
    """A process that was never needed exits quietly."""
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.standby()
        run.abandon()
        assert await run.exit_status() == 0
        assert sessions.log == ""


async def test_a_process_without_a_broker_doesnt_stand_by(host: HostProcess, nats_url: str) -> None:
    """A process that can't reach the broker says so by its exit code."""
    async with Sessions(host, nats_url, NATS_URL="nats://127.0.0.1:1") as sessions:
        run = await sessions.fork()
        assert await run.exit_status(20) == 69


async def test_a_call_survives_a_restart_of_the_broker(host: HostProcess, own_nats: EmbeddedNats) -> None:
    """The broker is away for a moment: the bot talks on, and all events and audio are delivered afterwards."""
    async with Sessions(host, own_nats.url) as sessions:
        # What was under way when the broker went is known to be lost after 12 s.
        limits = Limits(end_timeout_s=20)
        run = await sessions.assign("talker", body={"greeting": "word " * 60}, limits=limits)
        await run.expect(PipelineReady)
        caller = await run.call()
        await caller.until_heard(0.3)
        await own_nats.restart()
        await asyncio.sleep(4.5)
        run.stop()
        last = await finished(run)
        assert (last.reason, last.lost) == ("client-stop", 0)
        events = await run.events()
        assert [event.seq for event in events] == list(range(1, last.events + 1))
        assert one(events, "agent_spoke").data["text"] == ("word " * 60).strip()
        chunks = await run.stored_chunks()
        assert chunks == one(events, "call_completed").data["chunks"]


async def test_the_trace_of_a_call(host: HostProcess, nats_url: str) -> None:
    """Stages and turns are children of the session's root, services of their turn, and none holds what was said."""
    with otlp_stub() as receiver:
        async with Sessions(host, nats_url, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url) as sessions:
            run = await sessions.assign("talker", traceparent=TRACEPARENT)
            await run.expect(PipelineReady)
            caller = await run.call()
            await caller.be_silent(0.6)
            await caller.speak(tone(RATE // 2))
            await caller.be_silent(1.0)
            run.stop()
            await finished(run)
        spans = receiver.spans
    assert {span.trace_id for span in spans} == {TRACE_ID}
    assert {span.attributes["session.id"] for span in spans} == {run.session.id}
    assert {span.attributes["gen_ai.conversation.id"] for span in spans} == {run.session.id}
    assert {span.service for span in spans} == {"greenroom-session"}
    top = [span for span in spans if span.parent_id == ROOT_ID]
    names = [span.name for span in top]
    assert names.count("turn") == 2
    assert {"session.start", "session.end"} <= set(names)
    assert "conversation" not in names
    turns = {span.span_id for span in top if span.name == "turn"}
    services = [span for span in spans if span.name in {"stt", "tts"}]
    assert len(services) >= 3
    assert {span.parent_id for span in services} <= turns
    assert max(span.end_ns - span.start_ns for span in spans) < 3e9
    assert HEARD not in str(spans)
    assert GREETING not in str(spans)


async def test_nothing_that_was_said_is_in_the_log(host: HostProcess, nats_url: str) -> None:
    """The log of a call has its events, and none of its words."""
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.assign("talker", body={"hang_up": True})
        await run.expect(PipelineReady)
        await run.call()
        await finished(run)
        assert '"event":"session_finished"' in sessions.log
        assert run.session.id in sessions.log
        assert "Hello" not in sessions.log
