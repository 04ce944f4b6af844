"""The calls of Daily's REST API that sessions need, typed. Each may be repeated without harm.

Daily answers errors as `{"error": CODE, "info": TEXT}`: 400 for what can't be done (also a name that is taken, and a
missing key), 401 for a key that isn't known, 403, 404 (an expired room counts as deleted), 429 at about 20 requests a
second (2 for deletions), 5xx.
"""

from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec

from greenroom.api.transports.provider import Provider, ProviderRefused, told

NAME: Final = "Daily"
_OK: Final = 200
_BAD_REQUEST: Final = 400
_NOT_FOUND: Final = 404


class SipUri(msgspec.Struct, frozen=True):
    """Where the room can be called: `endpoint` is a SIP address without `sip:`."""

    endpoint: str = ""


class RoomConfig(msgspec.Struct, frozen=True):
    """What is set for a room, as far as it is looked at. Times are Unix seconds."""

    exp: float | None = None
    nbf: float | None = None
    max_participants: int | None = None
    sip_uri: SipUri | None = None


class Room(msgspec.Struct, frozen=True):
    """A room of the domain that the key belongs to."""

    name: str
    url: str
    privacy: str = "public"
    config: RoomConfig = RoomConfig()


class _Presence(msgspec.Struct, frozen=True):
    total_count: int


class _Problem(msgspec.Struct, frozen=True):
    error: str = ""
    info: str = ""


class _Token(msgspec.Struct, frozen=True):
    token: str


class DailyRest:
    """Daily's REST API.

    Raises (every call):
        ProviderUnavailable: no usable answer in time.
        ProviderRefused: Daily said no.

    Args:
        provider: the connection, with the key in its headers.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    async def close(self) -> None:
        """Close the connection."""
        await self._provider.close()

    async def make_room(self, name: str, properties: dict[str, Any]) -> Room:
        """Make a private room; of one that exists already, e.g. from a try whose answer was lost, return that.

        Args:
            name: letters, digits, `-` and `_`, 128 at most.
            properties: see Daily's reference.
        """
        wish = {"name": name, "privacy": "private", "properties": properties}
        response = await self._provider.call("POST", "/rooms", json=wish)
        if response.status_code == _BAD_REQUEST and (existing := await self.room(name)) is not None:
            return existing
        return _decoded(response, Room)

    async def room(self, name: str) -> Room | None:
        """Return a room, or None if there is none of this name, or it has expired."""
        response = await self._provider.call("GET", _path(name))
        return None if response.status_code == _NOT_FOUND else _decoded(response, Room)

    async def present(self, name: str) -> int:
        """Return how many are in a room, as of 15 s ago at most; none are in one that is gone."""
        response = await self._provider.call("GET", _path(name) + "/presence")
        return 0 if response.status_code == _NOT_FOUND else _decoded(response, _Presence).total_count

    async def delete_room(self, name: str) -> None:
        """Delete a room; whoever is in it is put out. Nothing happens if it is gone."""
        response = await self._provider.call("DELETE", _path(name))
        if response.status_code != _NOT_FOUND:
            _decoded(response, dict[str, Any])

    async def make_token(self, properties: dict[str, Any]) -> str:
        """Return a meeting token with `properties`; see Daily's reference."""
        response = await self._provider.call("POST", "/meeting-tokens", json={"properties": properties})
        return _decoded(response, _Token).token


def _path(name: str) -> str:
    return "/rooms/" + quote(name, safe="")


def _decoded[T](response: httpx.Response, kind: type[T]) -> T:
    if response.status_code != _OK:
        raise ProviderRefused(f"{NAME}: {_problem(response)}")
    try:
        return msgspec.json.decode(response.content, type=kind)
    except msgspec.MsgspecError as error:
        raise ProviderRefused(f"{NAME}: the answer isn't what its reference says.") from error


def _problem(response: httpx.Response) -> str:
    try:
        problem = msgspec.json.decode(response.content, type=_Problem)
    except msgspec.MsgspecError:
        problem = _Problem()
    return f"HTTP {response.status_code} {told(f'{problem.error} {problem.info}')}".strip()
