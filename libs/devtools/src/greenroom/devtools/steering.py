"""`greenroom say`, `cmd` and `listen`: steer a live session, and listen in."""

import asyncio
import contextlib
import wave
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from greenroom.common.errors import GreenroomError, MalformedJson
from greenroom.common.ids import uuid7
from greenroom.devtools.client import ApiClient
from greenroom.devtools.state import connection

_WIDTH: Final = 2


class ListeningFailed(GreenroomError):
    """The WebSocket for listening in was refused. It is good once, within a minute; does the session still run?"""

    code = "listening-failed"
    status = 502
    title = "Listening in isn't possible"


async def command(console: Console, session_id: str, name: str, fields: str | None) -> None:
    """Send a command and print its result as JSON; `fields` is a JSON object.

    Raises:
        MalformedJson: `fields` isn't one.
        ApiProblem, ApiUnreachable: see `ApiClient`.
    """
    await send(console, session_id, {**_object(fields), "type": name})


async def send(console: Console, session_id: str, command: dict[str, Any]) -> None:
    """Send a command, under an id of its own, and print its result as JSON, or that it waits. Raises as `command`."""
    async with ApiClient(connection()) as client:
        answer = await client.post(f"/v1/sessions/{session_id}/commands", {"id": uuid7(), "command": command})
    console.print_json(data=answer if answer.get("status") == "queued" else answer["result"])


async def listen(console: Console, session_id: str, *, wav: Path, both: bool) -> None:
    """Write what is heard into a WAV file, until the session ends or Ctrl-C.

    Raises:
        ListeningFailed: the socket was refused.
        ApiProblem, ApiUnreachable: see `ApiClient`.
    """
    async with ApiClient(connection()) as client:
        wish = {"tracks": "both" if both else "mixed"}
        found = await client.post(f"/v1/sessions/{session_id}/listen", wish)
    try:
        socket = await connect(found["url"], compression=None, max_queue=None)
    except (OSError, InvalidHandshake, TimeoutError) as error:
        raise ListeningFailed(f"the WebSocket was refused: {error}") from error
    heard_s = 0.0
    with wave.open(str(wav), "wb") as file:
        file.setnchannels(found["channels"])
        file.setsampwidth(_WIDTH)
        file.setframerate(found["rate"])
        try:
            async with socket:
                with contextlib.suppress(ConnectionClosed):
                    while True:
                        pcm = await socket.recv()
                        if isinstance(pcm, bytes):
                            await asyncio.to_thread(file.writeframesraw, pcm)
                            heard_s += len(pcm) / _WIDTH / found["channels"] / found["rate"]
        finally:
            why = f", closed: {socket.close_reason}" if socket.close_reason else ""
            console.print(f"{heard_s:.1f} s in {wav}{why}", highlight=False)


def _object(text: str | None) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text or "{}", type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise MalformedJson("the fields of a command are a JSON object") from error
