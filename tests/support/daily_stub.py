"""Daily's REST API as its reference documents it: rooms, meeting tokens, errors, rate limits.

https://docs.daily.co/reference/rest-api: errors are `{"error", "info"}`; a room's name is taken once; an expired room
counts as deleted; tokens are JWTs whose claims have short names; deletions of rooms have a rate limit of their own, and
what is over a limit is 429 `rate-limit-error`, without a word of when to come again.
"""

import base64
import hashlib
import hmac
import json
import re
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, override

from tests.support.provider_stub import Asked, ProviderStub, Said

KEY: Final = "daily-key-of-the-account"
DOMAIN: Final = "greenroom"
BASE: Final = "/v1"
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_ROOM: Final[dict[str, Any]] = {
    "exp": (int, float),
    "nbf": (int, float),
    "max_participants": int,
    "eject_at_room_exp": bool,
    "enable_prejoin_ui": bool,
    "enable_knocking": bool,
    "enable_screenshare": bool,
    "enable_chat": bool,
    "enable_emoji_reactions": bool,
    "enable_dialout": bool,
    "enable_recording": str,
    "enable_transcription_storage": bool,
    "geo": str,
    "recordings_bucket": dict,
    "transcription_bucket": dict,
    "sip": dict,
    "start_video_off": bool,
}
_SIP: Final = {"display_name", "video", "sip_mode", "num_endpoints", "codecs", "provider"}
# What a bucket has to say, and may.
_BUCKET: Final = ({"bucket_name", "bucket_region", "assume_role_arn"}, {"allow_api_access"})
# Properties of tokens, and what they are called in the JWT.
_TOKEN: Final = {
    "room_name": "r",
    "exp": "exp",
    "nbf": "nbf",
    "is_owner": "o",
    "user_name": "u",
    "user_id": "ud",
    "eject_at_token_exp": "ejt",
    "enable_screenshare": "ss",
    "enable_recording_ui": "erui",
    "permissions": "p",
    "enable_prejoin_ui": "epui",
}


class _Refused(Exception):
    def __init__(self, status: int, error: str, info: str = "", **more: Any) -> None:
        super().__init__(info)
        self.said = Said(status=status, body={"error": error, **({"info": info} if info else {}), **more})


class Bucket:
    """A rate limit: so many requests a second, and no more than that at once.

    Attributes:
        refused: how many were over it.
    """

    def __init__(self, per_s: float, now: Callable[[], float]) -> None:
        self.refused = 0
        self._per_s, self._now = per_s, now
        self._left, self._at = per_s, now()

    def take(self) -> bool:
        """Tell whether another request is within the limit."""
        now = self._now()
        self._left = min(self._left + (now - self._at) * self._per_s, self._per_s)
        self._at = now
        if self._left < 1:
            self.refused += 1
            return False
        self._left -= 1
        return True


class DailyStub(ProviderStub):
    """An account at Daily.

    Attributes:
        rooms: by name, as they are answered.
        tokens: the properties of each token that was made.
        present: who is in a room, by its name.
        key: that it knows.
        now: its clock, in Unix seconds.
        requests, deletions: its rate limits; None: it has none.
    """

    def __init__(self, key: str = KEY, *, now: Callable[[], float] = time.time) -> None:
        super().__init__()
        self.key = key
        self.now = now
        self.requests: Bucket | None = None
        self.deletions: Bucket | None = None
        self.rooms: dict[str, dict[str, Any]] = {}
        self.tokens: list[dict[str, Any]] = []
        self.present: dict[str, list[str]] = {}

    def has(self, name: str) -> bool:
        """Tell whether there is a room of this name that hasn't expired."""
        room = self.rooms.get(name)
        return room is not None and room["config"].get("exp", self.now() + 1) > self.now()

    def add_room(self, name: str, privacy: str = "private", **config: Any) -> str:
        """Make a room by hand, and return its URL."""
        self.rooms[name] = _room(name, privacy, config)
        return self.rooms[name]["url"]

    def limit(self, *, requests_per_s: float = 20, deletions_per_s: float = 2) -> None:
        """Have rate limits from now on; as its reference documents them unless said otherwise."""
        self.requests, self.deletions = Bucket(requests_per_s, self.now), Bucket(deletions_per_s, self.now)

    @override
    def carry_out(self, asked: Asked) -> Said:
        try:
            bucket = self.deletions if asked.method == "DELETE" else self.requests
            if bucket is not None and not bucket.take():
                raise _Refused(429, "rate-limit-error", "too many requests in too short a window")
            self._admit(asked.headers)
            return self._carry_out(asked.method, asked.path.removeprefix(BASE), asked.body)
        except _Refused as refused:
            return refused.said

    def _admit(self, headers: Any) -> None:
        authorization = headers.get("authorization", "")
        if not authorization.startswith("Bearer "):
            raise _Refused(400, "authorization-header-error", "bad Authorization header format")
        if authorization != f"Bearer {self.key}":
            raise _Refused(401, "authentication-error")

    def _carry_out(self, method: str, path: str, body: dict[str, Any]) -> Said:
        name = path.removeprefix("/rooms/")
        match method, path:
            case "POST", "/rooms":
                return Said(body=self._make(body))
            case "POST", "/meeting-tokens":
                return Said(body={"token": self._token(body.get("properties", {}))})
            case "GET", _ if path.endswith("/presence"):
                return Said(body=self._presence(name.removesuffix("/presence")))
            case "GET", _ if path.startswith("/rooms/"):
                if not self.has(name):
                    raise _Refused(404, "not-found", f"room {name} not found")
                return Said(body=self.rooms[name])
            case "DELETE", _ if path.startswith("/rooms/"):
                expired = name in self.rooms and not self.has(name)
                if self.rooms.pop(name, None) is None or expired:
                    raise _Refused(404, "not-found", f"room {name} not found", **({"deleted": True} if expired else {}))
                return Said(body={"deleted": True, "name": name})
            case _:
                raise _Refused(404, "not-found")

    def _make(self, body: dict[str, Any]) -> dict[str, Any]:
        name, properties = body.get("name", uuid.uuid4().hex), body.get("properties", {})
        if unknown := sorted(set(body) - {"name", "privacy", "properties"}):
            raise _Refused(400, "invalid-request-error", f"unknown parameter {unknown[0]!r}")
        if not _NAME.fullmatch(name):
            raise _Refused(400, "invalid-request-error", "property 'name' must only contain letters, digits, - and _")
        if self.has(name):
            raise _Refused(400, "invalid-request-error", f"a room named {name} already exists")
        for key, value in properties.items():
            kind = _ROOM.get(key)
            if kind is None or not isinstance(value, kind):
                raise _Refused(400, "invalid-request-error", f"property {key!r} isn't known or has the wrong type")
        if wrong := [key for key in ("recordings_bucket", "transcription_bucket", "sip") if not _fits(properties, key)]:
            raise _Refused(400, "invalid-request-error", f"property {wrong[0]!r} isn't valid")
        if properties.get("exp", self.now() + 1) < self.now():
            raise _Refused(400, "invalid-request-error", "exp was in the past")
        self.rooms[name] = _room(name, body.get("privacy", "public"), properties)
        return self.rooms[name]

    def _presence(self, name: str) -> dict[str, Any]:
        if not self.has(name):
            raise _Refused(404, "not-found", f"room {name} not found")
        people = self.present.get(name, [])
        data = [{"room": name, "id": str(uuid.uuid4()), "userId": None, "userName": who} for who in people]
        return {"total_count": len(data), "data": data}

    def _token(self, properties: dict[str, Any]) -> str:
        if unknown := sorted(set(properties) - set(_TOKEN)):
            raise _Refused(400, "invalid-request-error", f"unknown parameter {unknown[0]!r}")
        self.tokens.append(properties)
        claims = {_TOKEN[name]: value for name, value in properties.items()}
        return _jwt({**claims, "d": "domain-id", "iat": int(self.now()), "jti": len(self.tokens)}, self.key)


def _fits(properties: dict[str, Any], key: str) -> bool:
    """Tell whether a property that has parts has the right ones."""
    parts = properties.get(key)
    if parts is None:
        return True
    if key == "sip":
        return set(parts) <= _SIP and parts.get("provider", "daily") in {"daily", "signalwire"}
    needed, allowed = _BUCKET
    return needed <= set(parts) <= needed | allowed


def _room(name: str, privacy: str, config: dict[str, Any]) -> dict[str, Any]:
    told = dict(config)
    if "sip" in config:
        told["sip_uri"] = {"endpoint": f"{uuid.uuid4().int % 10**12}.0@{DOMAIN}.sip.daily.co"}
    return {
        "id": str(uuid.uuid4()),
        "name": name,
        "api_created": True,
        "privacy": privacy,
        "url": f"https://{DOMAIN}.daily.co/{name}",
        "created_at": datetime.now(tz=UTC).isoformat(),
        "config": told,
    }


def _jwt(claims: dict[str, Any], key: str) -> str:
    parts = [_encoded(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims)]
    signature = hmac.new(key.encode(), ".".join(parts).encode(), hashlib.sha256).digest()
    return ".".join([*parts, _encoded(signature)])


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
