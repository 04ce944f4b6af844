"""Takes Pipecat's transport at Daily from one room to another: the client stays, and so does all that goes through it.

Pipecat's client joins and leaves once in its life, counted by those who own it. Here it does so once more, past the
count, with other names for room and token. What Daily's library says comes from its own threads, and Pipecat hears it
only while the bot is in a room; so what is said of the room that was left would be taken for something that happened in
the next one (above all that the call is over). It is put aside.

What is used of Pipecat's beyond its documented interface is listed in tests/unit/test_session_daily_moves.py.
"""

import asyncio
import contextlib
from typing import Any, Final

from pipecat.transports.base_transport import BaseTransport

from greenroom.runner.session.transports.base import NotMoved

# Daily lets a bot in within a second, or says why it doesn't; a signalling server that is away takes longer.
JOIN_S: Final = 15.0
LEAVE_S: Final = 5.0
# The library says that the call is over about when it says that the bot has left; after that it is not waited for.
LEFT_S: Final = 1.0
_LEFT: Final = ("left",)


def refuse(transport: BaseTransport) -> str | None:
    """Return why a transport can't go elsewhere; None: it can."""
    client = _inside(_client(transport))
    if client["_custom_audio_tracks"] or client["_custom_video_tracks"]:
        return "the bot sends on tracks of its own, which belong to its room"
    return None


async def leave(transport: BaseTransport) -> None:
    """Leave the room; nothing happens if the bot is in none. What is said of it from now on is heard by nobody."""
    client = _client(transport)
    inside = _inside(client)
    heard, aside = inside["_event_queue"], asyncio.Queue[Any]()
    inside["_event_queue"] = aside
    try:
        if client._in_call():  # noqa: SLF001
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_S):
                    await type(client).leave.__wrapped__(client)
            await _until_left(aside)
    finally:
        inside["_event_queue"] = heard
    _empty(heard)


async def join(transport: BaseTransport, room_url: str, token: str) -> None:
    """Join a room.

    Raises:
        NotMoved: it refuses the bot, or there was no answer in time.
    """
    client = _client(transport)
    _inside(client).update(_room_url=room_url, _token=token)
    try:
        async with asyncio.timeout(JOIN_S):
            await type(client).join.__wrapped__(client)
    except TimeoutError as error:
        # It may still get in.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await client._leave()  # noqa: SLF001
        await _forget(client)
        raise NotMoved(f"Daily didn't let the bot in within {JOIN_S:g} s") from error
    if not client._in_call():  # noqa: SLF001
        await _forget(client)
        raise NotMoved("the bot couldn't join the room")


async def _forget(client: Any) -> None:
    """Put aside what is said of a room that the bot didn't get into."""
    inside = _inside(client)
    heard = inside["_event_queue"]
    await _until_left(heard)
    _empty(heard)


async def _until_left(said: asyncio.Queue[Any]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LEFT_S):
            while (await said.get())[1:] != _LEFT:
                said.task_done()
            said.task_done()


def _empty(said: asyncio.Queue[Any]) -> None:
    while not said.empty():
        said.get_nowait()
        said.task_done()


def _client(transport: BaseTransport) -> Any:
    return vars(transport)["_client"]


def _inside(client: Any) -> dict[str, Any]:
    return client.__dict__
