"""The calls of LiveKit's RoomService that sessions need: Twirp, that is POST with JSON to a path for each method.

Errors are `{"code", "msg"}` with an HTTP status that fits. Every call has a token of its own, good for a minute.
"""

from datetime import timedelta
from typing import Any, Final

import httpx
import msgspec

from greenroom.api.transports.livekit_tokens import Signer
from greenroom.api.transports.provider import Provider, ProviderRefused, told
from greenroom.common.clock import Clock, SystemClock

NAME: Final = "LiveKit"
PATH: Final = "/twirp/livekit.RoomService/"
_OK: Final = 200
_NOT_FOUND: Final = 404
_TOKEN_LIFE: Final = timedelta(minutes=1)


class _Problem(msgspec.Struct, frozen=True):
    code: str = ""
    msg: str = ""


class LiveKitRest:
    """LiveKit's RoomService.

    Raises (every call):
        ProviderUnavailable: no usable answer in time.
        ProviderRefused: LiveKit said no.

    Args:
        provider: the connection.
        signer: signs the tokens of calls.
        clock: says until when.
    """

    def __init__(self, provider: Provider, signer: Signer, *, clock: Clock | None = None) -> None:
        self._provider = provider
        self._signer = signer
        self._clock = clock or SystemClock()

    async def close(self) -> None:
        """Close the connection."""
        await self._provider.close()

    async def make_room(self, name: str, *, empty_s: int, departure_s: int, max_participants: int) -> None:
        """Make a room, or find that it is there.

        Args:
            name: of the room.
            empty_s: for how long it stays if nobody comes.
            departure_s: for how long it stays after the last has left.
            max_participants: how many it takes.
        """
        wish = {
            "name": name,
            "empty_timeout": empty_s,
            "departure_timeout": departure_s,
            "max_participants": max_participants,
        }
        _checked(await self._call("CreateRoom", wish))

    async def delete_room(self, name: str) -> None:
        """Delete a room; whoever is in it is put out. Nothing happens if it is gone."""
        response = await self._call("DeleteRoom", {"room": name})
        if response.status_code != _NOT_FOUND:
            _checked(response)

    async def _call(self, method: str, body: dict[str, Any]) -> httpx.Response:
        now = self._clock.now()
        # One grant for both: LiveKit knows none for deleting alone.
        token = self._signer.sign({"roomCreate": True}, now=now, until=now + _TOKEN_LIFE)
        return await self._provider.call("POST", PATH + method, json=body, headers={"authorization": f"Bearer {token}"})


def _checked(response: httpx.Response) -> None:
    if response.status_code == _OK:
        return
    try:
        problem = msgspec.json.decode(response.content, type=_Problem)
    except msgspec.MsgspecError:
        problem = _Problem()
    raise ProviderRefused(f"{NAME}: HTTP {response.status_code} {told(f'{problem.code} {problem.msg}')}".strip())
