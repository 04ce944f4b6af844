"""Plivo: XML, audio streaming, Call API."""

import base64
import hashlib
import hmac
import itertools
from collections.abc import Mapping
from typing import Any, Final, override
from urllib.parse import parse_qsl, urlsplit

from tests.support.carriers.dialect import (
    Answered,
    Dialect,
    Dialled,
    Heard,
    Leg,
    Request,
    Transferred,
    b64,
    basic,
    read_dial,
    read_xml,
)

ACCOUNT: Final = "MAXXXXXXXXXXXXXXXXXX"
TOKEN: Final = "plivo-auth-token"
_NONCES: Final = itertools.count(10_000_000_000_000_000_000)


class PlivoDialect(Dialect):
    """See the module; Vobiz' is made from it."""

    name = "plivo"
    mulaw = True
    frame_s = 0.02
    marks_after_clear = False
    calls = f"/v1/Account/{ACCOUNT}/Call/"

    @override
    def settings(self, api_url: str) -> dict[str, str]:
        return {"plivo_auth_id": ACCOUNT, "plivo_auth_token": TOKEN, "plivo_api_url": api_url}

    @override
    def sign(self, method: str, url: str, form: Mapping[str, str], *, at: float | None = None) -> dict[str, str]:
        nonce = str(next(_NONCES))
        parts = urlsplit(url)
        text = f"{parts.scheme}://{parts.netloc}{parts.path}"
        query = dict(parse_qsl(parts.query)) | (dict(form) if method == "GET" else {})
        posted = form if method == "POST" else {}
        if query or posted:
            text += "?" + "&".join(f"{name}={query[name]}" for name in sorted(query))
        if query and posted:
            text += "."
        text += "".join(f"{name}{posted[name]}" for name in sorted(posted))
        signature = hmac.new(TOKEN.encode(), f"{text}.{nonce}".encode(), hashlib.sha256).digest()
        return {"X-Plivo-Signature-V3": b64(signature), "X-Plivo-Signature-V3-Nonce": nonce}

    @override
    def target(self, url: str) -> str:
        return url

    @override
    def asks(self, leg: Leg) -> dict[str, str]:
        more = {"RequestUUID": leg.call_id, "ALegRequestUUID": leg.call_id} if leg.outbound else {}
        return {
            "CallUUID": leg.call_id,
            "From": leg.caller.removeprefix("+"),
            "To": leg.called.removeprefix("+"),
            "CallStatus": "in-progress" if leg.outbound else "ringing",
            "Direction": "outbound" if leg.outbound else "inbound",
            "Event": "StartApp",
            **more,
        }

    @override
    def tells(self, leg: Leg, status: str) -> dict[str, str]:
        more = {} if status in {"ringing", "in-progress"} else {"HangupCause": "NORMAL_CLEARING", "Duration": "7"}
        event = "Ring" if status == "ringing" else "Hangup"
        return {**self.asks(leg), "CallStatus": status, "Event": event, **more}

    @override
    def reads(self, status: int, body: bytes) -> Answered:
        assert status == 200
        answered = read_xml(body, "Speak", "Wait")
        if answered.kind == "connect":
            assert b'bidirectional="true"' in body
            assert b'contentType="audio/x-mulaw;rate=8000"' in body
        return answered

    @override
    def reads_dial(self, document: str | bytes) -> str:
        return read_dial(document, "User")

    @override
    def opening(self, leg: Leg) -> list[dict[str, Any]]:
        return [
            {
                "event": "start",
                "sequenceNumber": 1,
                "start": {
                    "callId": leg.call_id,
                    "streamId": leg.stream_id,
                    "accountId": ACCOUNT,
                    "tracks": ["inbound"],
                    "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000},
                },
                "extra_headers": "",
            }
        ]

    @override
    def media(self, leg: Leg, number: int, payload: bytes) -> dict[str, Any]:
        return {
            "event": "media",
            "sequenceNumber": number + 2,
            "streamId": leg.stream_id,
            "media": {
                "track": "inbound",
                "timestamp": str(1_705_312_200_000 + number * 20),
                "chunk": number + 1,
                "payload": b64(payload),
            },
            "extra_headers": "",
        }

    @override
    def dtmf(self, leg: Leg, digit: str) -> dict[str, Any]:
        return {
            "event": "dtmf",
            "sequenceNumber": 100,
            "streamId": leg.stream_id,
            "dtmf": {"track": "inbound", "timestamp": "1705312200000", "digit": digit},
            "extra_headers": "",
        }

    @override
    def mark(self, leg: Leg, name: str) -> dict[str, Any]:
        return {"event": "playedStream", "streamId": leg.stream_id, "name": name}

    @override
    def stop(self, leg: Leg) -> dict[str, Any] | None:
        return None

    @override
    def hears(self, leg: Leg, message: dict[str, Any]) -> Heard:
        assert message["streamId"] == leg.stream_id, message
        match message["event"]:
            case "playAudio":
                media = message["media"]
                assert (media["contentType"], media["sampleRate"]) == ("audio/x-mulaw", 8000)
                return "audio", base64.b64decode(media["payload"])
            case "clearAudio":
                return "clear", None
            case "checkpoint":
                return "mark", message["name"]
            case _:
                return "other", None

    @override
    def dials(self, request: Request) -> Dialled | None:
        if request.method != "POST" or request.path != self.calls:
            return None
        fields = request.fields
        assert {fields[f"{each}_method"] for each in ("answer", "ring", "hangup")} == {"POST"}
        return Dialled(
            to=fields["to"],
            caller=fields["from"],
            answer_url=fields["answer_url"],
            status_url=fields["hangup_url"],
            ring_url=fields["ring_url"],
            machine_url=fields.get("machine_detection_url", ""),
        )

    @override
    def dialled(self, leg: Leg) -> tuple[int, dict[str, Any]]:
        return 201, {"message": "call fired", "request_uuid": leg.call_id, "api_id": "97ceeb52"}

    @override
    def hangs_up(self, request: Request) -> str | None:
        if request.method != "DELETE":
            return None
        return request.path.rstrip("/").rpartition("/")[2]

    @override
    def hung_up(self, *, known: bool) -> tuple[int, dict[str, Any]]:
        return (204, {}) if known else (404, {"error": "not found", "api_id": "45223222"})

    @override
    def transfers(self, request: Request) -> Transferred | None:
        if request.method != "POST" or not request.path.startswith(self.calls) or request.path == self.calls:
            return None
        assert request.path.endswith("/")
        assert (request.fields["legs"], request.fields["aleg_method"]) == ("aleg", "POST")
        call_id = request.path.removeprefix(self.calls).removesuffix("/")
        return Transferred(call_id=call_id, url=request.fields["aleg_url"])

    @override
    def transferred(self, *, known: bool) -> tuple[int, dict[str, Any]]:
        if known:
            return 202, {"message": "call transferred", "api_id": "08c94608"}
        return 404, {"error": "not found", "api_id": "45223222"}

    @override
    def authentic(self, request: Request) -> bool:
        return request.headers.get("authorization") == basic(ACCOUNT, TOKEN)
