"""LiveKit's RoomService as its documentation describes it: Twirp over JSON, tokens with grants, rooms.

Tokens are checked by LiveKit's own library. Errors are Twirp's `{"code", "msg"}`.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, override

import jwt

from tests.support.provider_stub import Asked, ProviderStub, Said

KEY: Final = "APIstubKey"
SECRET: Final = "the-secret-of-the-livekit-stub-0123456789"
_PATH: Final = "/twirp/livekit.RoomService/"
_STATUS: Final = {"unauthenticated": 401, "permission_denied": 403, "not_found": 404, "invalid_argument": 400}
# Of a request to make a room, by type.
_ROOM: Final = {"name": str, "empty_timeout": int, "departure_timeout": int, "max_participants": int}


class _Refused(Exception):
    def __init__(self, code: str, msg: str) -> None:
        super().__init__(msg)
        self.said = Said(status=_STATUS.get(code, 500), body={"code": code, "msg": msg})


class LiveKitStub(ProviderStub):
    """A LiveKit server, as far as its API goes.

    Attributes:
        rooms: by name, as they were asked for.
        now: its clock, in Unix seconds.
    """

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        super().__init__()
        self.now = now
        self.rooms: dict[str, dict[str, Any]] = {}

    @override
    def carry_out(self, asked: Asked) -> Said:
        try:
            return Said(body=self._carry_out(asked))
        except _Refused as refused:
            return refused.said

    def grants(self, headers: Mapping[str, str]) -> dict[str, Any]:
        """Return the video grant of a request, whose token is checked as a server checks it."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme != "Bearer":
            raise _Refused("unauthenticated", "no permissions to access the room")
        try:
            claims = jwt.decode(
                token, SECRET, algorithms=["HS256"], issuer=KEY, options={"verify_exp": False, "verify_nbf": False}
            )
        except jwt.InvalidTokenError as error:
            raise _Refused("unauthenticated", f"invalid token: {error}") from error
        if not claims["nbf"] - 60 <= self.now() <= claims["exp"] + 60:
            raise _Refused("unauthenticated", "invalid token: validation failed, token is expired (exp)")
        return claims.get("video", {})

    def _carry_out(self, asked: Asked) -> dict[str, Any]:
        if asked.method != "POST" or not asked.path.startswith(_PATH):
            raise _Refused("bad_route", "no handler for path")
        if asked.headers.get("content-type") != "application/json":
            raise _Refused("bad_route", "unexpected Content-Type")
        grants, body = self.grants(asked.headers), asked.body
        match asked.path.removeprefix(_PATH):
            case "CreateRoom":
                self._need(grants, "roomCreate")
                if wrong := [name for name, value in body.items() if not isinstance(value, _ROOM.get(name, ()))]:
                    raise _Refused("invalid_argument", f"unknown or wrong: {wrong[0]}")
                room = self.rooms.setdefault(body["name"], body)
                return {"sid": f"RM_{len(self.rooms)}", "num_participants": 0, **room}
            case "DeleteRoom":
                self._need(grants, "roomCreate")
                if self.rooms.pop(body["room"], None) is None:
                    raise _Refused("not_found", "requested room does not exist")
                return {}
            case "ListRooms":
                self._need(grants, "roomList")
                names = body.get("names") or list(self.rooms)
                return {"rooms": [self.rooms[name] for name in names if name in self.rooms]}
            case other:
                raise _Refused("bad_route", f"no handler for {other}")

    def _need(self, grants: Mapping[str, Any], grant: str) -> None:
        if grants.get(grant) is not True:
            raise _Refused("permission_denied", "permissions denied")
