"""A call in a real session process, whose broker goes away in the middle of it and comes back."""

import asyncio

from greenroom.common.lifecycle import Limits
from greenroom.common.messages import Event
from greenroom.devtools.embedded.nats import EmbeddedNats
from greenroom.runner.control import Finished, PipelineReady
from tests.support.session_rig import HostProcess, Sessions

# Seconds of the call before the outage and after it.
_BEFORE_S = 2
_AFTER_S = 6


async def call_through_outage(host: HostProcess, nats: EmbeddedNats, away_s: int) -> tuple[Finished, list[Event], bool]:
    """Hold a call in which the bot says a number each second, without a broker for `away_s` of it.

    Returns:
        The last word of the process, the events in the stream, and whether all audio that was published is there.
    """
    async with Sessions(host, nats.url) as sessions:
        # Shorter than the outage: nobody is to be blamed for the silence of it.
        limits = Limits(silence_timeout_s=4, no_progress_timeout_s=4, end_timeout_s=30)
        numbers = _BEFORE_S + away_s
        run = await sessions.assign("chatty", body={"numbers": numbers}, limits=limits)
        await run.expect(PipelineReady)
        await run.call()
        await asyncio.sleep(_BEFORE_S)
        await nats.kill()
        await asyncio.sleep(away_s)
        assert run.pid not in sessions.host.exits
        await nats.start()
        # The bot has said its last number; what ends the call is that nobody speaks any more.
        last = await run.expect(Finished, timeout_s=_AFTER_S * 5)
        assert await run.exit_status() == 0
        events = await run.events()
        published = next(event.data["chunks"] for event in events if event.type == "call_completed")
        return last, events, published == await run.stored_chunks()


def spoken_numbers(events: list[Event]) -> list[str]:
    """Return what the bot has said, in order."""
    return [event.data["text"] for event in events if event.type == "agent_spoke"]
