"""The watch over a call, in a real session process: what the bot hears of its end, and what ends a call that stalls."""

from collections.abc import Sequence

import pytest

from greenroom.common.lifecycle import Limits, Outcome
from greenroom.common.media_messages import MediaKind
from greenroom.common.messages import Event
from greenroom.runner.control import EndingNotice, Finished, PipelineReady
from tests.support.session_bots import tone
from tests.support.session_rig import RATE, HostProcess, SessionRun, Sessions
from tests.support.watched_bots import FAREWELL


def data_of(events: Sequence[Event], kind: str) -> list[dict[str, object]]:
    """Return the data of all events of a type."""
    return [event.data for event in events if event.type == kind]


async def ended(run: SessionRun) -> tuple[EndingNotice, list[Event]]:
    """Wait until a session has ended of itself; return why, and its events."""
    notice = await run.expect(EndingNotice)
    await run.expect(Finished)
    assert await run.exit_status() == 0
    return notice, await run.events()


async def test_a_bot_says_goodbye_before_its_time_is_up(host: HostProcess, nats_url: str) -> None:
    """An unmodified bot hears by RTVI that the call ends soon, speaks its farewell and ends the call itself."""
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.assign("polite", limits=Limits(max_duration_s=6, ending_soon_s=4, end_timeout_s=5))
        await run.expect(PipelineReady)
        caller = await run.call()
        await caller.be_silent(3.5)
        notice, events = await ended(run)
        assert (notice.outcome, notice.reason) == (Outcome.COMPLETED, "time-is-up")
        [soon] = data_of(events, "call_ending_soon")
        # Half of the call at most, whatever was asked for.
        assert soon["seconds_left"] == pytest.approx(3.0, abs=0.3)
        assert [said["text"] for said in data_of(events, "agent_spoke")] == ["Hello.", FAREWELL]


async def test_a_bot_without_rtvi_hears_it_too(host: HostProcess, nats_url: str) -> None:
    """A processor of the bot's own sees the message as it sees those of its client."""
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.assign("reading", limits=Limits(max_duration_s=2, end_timeout_s=5))
        await run.expect(PipelineReady)
        await (await run.call()).be_silent(0.2)
        notice, events = await ended(run)
        assert (notice.outcome, notice.reason) == (Outcome.COMPLETED, "read-it")
        assert len(data_of(events, "call_ending_soon")) == 1


async def test_a_bot_that_does_not_listen_goes_on(host: HostProcess, nats_url: str) -> None:
    """A bot that knows nothing of such messages isn't disturbed, and neither is its client."""
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.assign("echo", limits=Limits(max_duration_s=2, end_timeout_s=5))
        await run.expect(PipelineReady)
        caller = await run.call()
        await caller.speak(tone(2 * RATE))
        await caller.until_heard(1.9)
        run.stop(reason="max-duration-exceeded")
        await run.expect(Finished)
        events = await run.events()
        assert len(data_of(events, "call_ending_soon")) == 1
        assert not data_of(events, "error")
        assert await caller.until_closed() == (1000, "max-duration-exceeded")


async def test_a_bot_that_never_speaks_is_ended(host: HostProcess, nats_url: str) -> None:
    """A bot that makes no sound is told of, and the session fails with the reason, although its pipeline is well."""
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.assign("mute", limits=Limits(first_audio_timeout_s=1, end_timeout_s=5))
        await run.expect(PipelineReady)
        caller = await run.call()
        await caller.be_silent(1.6)
        notice, events = await ended(run)
        assert (notice.outcome, notice.reason) == (Outcome.FAILED, "no-first-audio")
        assert [stall["kind"] for stall in data_of(events, "call_stalled")] == ["first-audio"]


async def test_a_pipeline_that_stands_still_is_ended(host: HostProcess, nats_url: str) -> None:
    """Audio comes in and nothing comes through: the session fails, and its tasks' stacks name the processor."""
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.assign("stuck", limits=Limits(no_progress_timeout_s=3, end_timeout_s=5))
        await run.expect(PipelineReady)
        caller = await run.call()
        await caller.be_silent(4.5)
        notice, events = await ended(run)
        assert (notice.outcome, notice.reason) == (Outcome.FAILED, "no-progress")
        [dump] = data_of(events, "stack_dump")
        text = str(dump["text"])
        assert "support/watched_bots.py" in text
        assert len(text.encode()) < 9000


async def test_silence_of_both_sides_ends_a_call(host: HostProcess, nats_url: str) -> None:
    """When neither side has said a word for the agent's limit, the call is over in order."""
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.assign("polite", limits=Limits(silence_timeout_s=1.5, end_timeout_s=5))
        await run.expect(PipelineReady)
        caller = await run.call()
        await caller.be_silent(3.0)
        notice, events = await ended(run)
        assert (notice.outcome, notice.reason) == (Outcome.COMPLETED, "silence-timeout")
        assert len(data_of(events, "agent_spoke")) == 1


@pytest.mark.parametrize(
    ("kind", "payload"),
    [(MediaKind.TEXT, b""), (MediaKind.TEXT, b"hello"), (MediaKind.BINARY, b"\xff\xff"), (MediaKind.BINARY, b"")],
)
async def test_a_message_that_the_bot_cannot_read_is_harmless(
    host: HostProcess, nats_url: str, kind: MediaKind, payload: bytes
) -> None:
    """Text, an empty message or bytes that are no frame are left out and counted, and what follows is heard."""
    async with Sessions(host, nats_url) as sessions:
        run = await sessions.assign("echo")
        await run.expect(PipelineReady)
        caller = await run.call()
        await caller.speak(tone(RATE // 4))
        await caller.send(kind, payload)
        await caller.speak(tone(RATE // 2))
        await caller.until_heard(0.7)
        assert caller.closed is None
        run.stop()
        await run.expect(Finished)
        [completed] = data_of(await run.events(), "call_completed")
        media = completed["media"]
        assert isinstance(media, dict)
        # An empty Protobuf message can be read: there is nothing in it.
        assert media["unreadable"] == (0 if (kind, payload) == (MediaKind.BINARY, b"") else 1)
