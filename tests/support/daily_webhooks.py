"""Daily's webhooks as its reference documents them, sent to an api.

https://docs.daily.co/reference/rest-api/webhooks: before a webhook is made its address has to answer a test with 200;
events have an id, a type, a version, a payload and the time they are sent at, and are signed with base64 of
HMAC-SHA256 over `TIMESTAMP.BODY`, whose key is the webhook's `hmac`, base64-decoded.
"""

import base64
import hashlib
import hmac
import json
import time
import uuid
from typing import Any, Final

import httpx

PATH: Final = "/v1/webhooks/daily/events"
SECRET: Final = base64.b64encode(b"the hmac of the webhook").decode()
VERSION: Final = "1.1.0"


class DailyWebhooks:
    """A webhook at Daily.

    Args:
        url: of the api.
        secret: its `hmac`.
    """

    def __init__(self, url: str, secret: str = SECRET) -> None:
        self.url = url
        self.secret = secret

    async def make(self) -> bool:
        """Make the webhook; False: Daily answers `POST /webhooks` with 400."""
        async with httpx.AsyncClient(base_url=self.url, timeout=30) as http:
            return (await http.post(PATH, json={"test": "test"})).status_code == 200

    async def send(self, event: dict[str, Any], *, sent_at: float | None = None) -> httpx.Response:
        """Send an event, perhaps again; Daily signs each time anew."""
        raw = json.dumps(event, separators=(",", ":"))
        timestamp = str(int((time.time() if sent_at is None else sent_at) * 1000))
        headers = {
            "content-type": "application/json",
            "x-webhook-timestamp": timestamp,
            "x-webhook-signature": signature(self.secret, timestamp, raw),
        }
        async with httpx.AsyncClient(base_url=self.url, timeout=30) as http:
            return await http.post(PATH, content=raw, headers=headers)


def signature(secret: str, timestamp: str, raw: str) -> str:
    """Return what Daily signs a webhook with."""
    key = base64.b64decode(secret)
    return base64.b64encode(hmac.new(key, f"{timestamp}.{raw}".encode(), hashlib.sha256).digest()).decode()


def joined(room: str, token: dict[str, Any] | None = None, *, at: float | None = None) -> dict[str, Any]:
    """Return the event of somebody's coming into a room, with a meeting token of these properties or without one."""
    token = token or {}
    session_id, at = str(uuid.uuid4()), time.time() if at is None else at
    payload = {
        "room": room,
        "user_id": token.get("user_id", session_id),
        "user_name": token.get("user_name", "A guest"),
        "session_id": session_id,
        "joined_at": at,
        "will_eject_at": token.get("exp", at + 3600),
        "owner": token.get("is_owner", False),
        "permissions": {"hasPresence": True, "canSend": True, "canReceive": {"base": True}, "canAdmin": False},
    }
    return _event("participant.joined", f"ptcpt-join-{session_id}-{int(at * 1000)}", payload)


def ended(room: str, *, at: float | None = None) -> dict[str, Any]:
    """Return the event of a meeting's end."""
    meeting_id, at = str(uuid.uuid4()), time.time() if at is None else at
    payload = {"start_ts": at - 60, "end_ts": at, "meeting_id": meeting_id, "room": room}
    return _event("meeting.ended", f"met-end-{meeting_id}-{int(at * 1000)}", payload)


def started(room: str) -> dict[str, Any]:
    """Return the event of a meeting's beginning."""
    meeting_id = str(uuid.uuid4())
    payload = {"start_ts": time.time(), "meeting_id": meeting_id, "room": room}
    return _event("meeting.started", f"met-sta-{meeting_id}", payload)


def _event(kind: str, event_id: str, payload: dict[str, Any]) -> dict[str, Any]:
    return {"version": VERSION, "type": kind, "id": event_id, "payload": payload, "event_ts": time.time()}
