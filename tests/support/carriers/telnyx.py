"""Telnyx: TeXML, media streaming, TeXML and Call Control APIs."""

import base64
import time
from collections.abc import Mapping
from typing import Any, Final, override
from urllib.parse import urlencode

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.carriers.dialect import (
    Answered,
    Dialect,
    Dialled,
    Heard,
    Leg,
    Request,
    Transferred,
    b64,
    read_dial,
    read_xml,
)

ACCOUNT: Final = "f5586561-8ff0-4291-a51b-c7dfe4139ff9"
APPLICATION: Final = "1773070540731319841"
KEY: Final = "telnyx-api-key"
_SIGNER: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
_PUBLIC: Final = b64(_SIGNER.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))


class TelnyxDialect(Dialect):
    """See the module."""

    name = "telnyx"
    mulaw = True
    frame_s = 0.02
    marks_after_clear = True

    @override
    def settings(self, api_url: str) -> dict[str, str]:
        return {
            "telnyx_api_key": KEY,
            "telnyx_public_key": _PUBLIC,
            "telnyx_account_sid": ACCOUNT,
            "telnyx_application_id": APPLICATION,
            "telnyx_api_url": api_url,
        }

    @override
    def sign(self, method: str, url: str, form: Mapping[str, str], *, at: float | None = None) -> dict[str, str]:
        timestamp = str(int(time.time() if at is None else at))
        signature = _SIGNER.sign(f"{timestamp}|{urlencode(form)}".encode())
        return {"telnyx-timestamp": timestamp, "telnyx-signature-ed25519": b64(signature)}

    @override
    def target(self, url: str) -> str:
        return url

    @override
    def asks(self, leg: Leg) -> dict[str, str]:
        return {
            "AccountSid": ACCOUNT,
            "CallSid": leg.call_id,
            "CallSidLegacy": leg.call_id,
            "CallStatus": "in-progress" if leg.outbound else "ringing",
            "ConnectionId": APPLICATION,
            "Direction": "outbound" if leg.outbound else "inbound",
            "From": leg.caller,
            "To": leg.called,
        }

    @override
    def tells(self, leg: Leg, status: str) -> dict[str, str]:
        more = {"CallDuration": "7"} if status == "completed" else {}
        return {**self.asks(leg), "CallStatus": status, "CallbackSource": "call-progress-events", **more}

    @override
    def reads(self, status: int, body: bytes) -> Answered:
        assert status == 200
        answered = read_xml(body, "Say", "Pause")
        if answered.kind == "connect":
            # Without it the stream takes audio files instead of audio.
            assert b'bidirectionalMode="rtp"' in body
        return answered

    @override
    def reads_dial(self, document: str | bytes) -> str:
        return read_dial(document, "Sip")

    @override
    def opening(self, leg: Leg) -> list[dict[str, Any]]:
        return [
            {"event": "connected", "version": "1.0.0"},
            {
                "event": "start",
                "sequence_number": "1",
                "start": {
                    "user_id": "3E6F995F-85F7-4705-9741-53B116D28237",
                    "call_control_id": leg.call_id,
                    "call_session_id": "ff55a038-6f5d-11ef-9692-02420aeffb1f",
                    "from": leg.caller,
                    "to": leg.called,
                    "client_state": None,
                    "media_format": {"encoding": "PCMU", "sample_rate": 8000, "channels": 1},
                },
                "stream_id": leg.stream_id,
            },
        ]

    @override
    def media(self, leg: Leg, number: int, payload: bytes) -> dict[str, Any]:
        return {
            "event": "media",
            "sequence_number": str(number + 2),
            "media": {
                "track": "inbound",
                "chunk": str(number + 1),
                "timestamp": str(number * 20),
                "payload": b64(payload),
            },
            "stream_id": leg.stream_id,
        }

    @override
    def dtmf(self, leg: Leg, digit: str) -> dict[str, Any]:
        return {
            "event": "dtmf",
            "stream_id": leg.stream_id,
            "occurred_at": "2026-05-14T10:00:00.000000Z",
            "sequence_number": "5",
            "dtmf": {"digit": digit},
        }

    @override
    def mark(self, leg: Leg, name: str) -> dict[str, Any]:
        return {"event": "mark", "sequence_number": "4", "stream_id": leg.stream_id, "mark": {"name": name}}

    @override
    def stop(self, leg: Leg) -> dict[str, Any] | None:
        return {
            "event": "stop",
            "sequence_number": "5",
            "stop": {"user_id": "3E6F995F-85F7-4705-9741-53B116D28237", "call_control_id": leg.call_id},
            "stream_id": leg.stream_id,
        }

    @override
    def hears(self, leg: Leg, message: dict[str, Any]) -> Heard:
        match message["event"]:
            case "media":
                return "audio", base64.b64decode(message["media"]["payload"])
            case "clear":
                return "clear", None
            case "mark":
                return "mark", message["mark"]["name"]
            case _:
                return "other", None

    @override
    def dials(self, request: Request) -> Dialled | None:
        if request.method != "POST" or request.path != f"/v2/texml/Accounts/{ACCOUNT}/Calls":
            return None
        fields = request.fields
        assert fields["ApplicationSid"] == APPLICATION
        return Dialled(
            to=fields["To"],
            caller=fields["From"],
            answer_url=fields["Url"],
            status_url=fields["StatusCallback"],
            machine_url=fields.get("AsyncAmdStatusCallback", ""),
        )

    @override
    def dialled(self, leg: Leg) -> tuple[int, dict[str, Any]]:
        # The documentation shows no id here.
        return 200, {"from": leg.caller, "to": leg.called, "status": "queued"}

    @override
    def hangs_up(self, request: Request) -> str | None:
        if request.method != "POST" or not request.path.endswith("/actions/hangup"):
            return None
        return request.path.removeprefix("/v2/calls/").removesuffix("/actions/hangup")

    @override
    def hung_up(self, *, known: bool) -> tuple[int, dict[str, Any]]:
        if known:
            return 200, {"data": {"result": "ok"}}
        return 422, {"errors": [{"code": "90018", "title": "Call has already ended", "detail": "…"}]}

    @override
    def transfers(self, request: Request) -> Transferred | None:
        head = f"/v2/texml/Accounts/{ACCOUNT}/Calls/"
        if request.method != "POST" or not request.path.startswith(head):
            return None
        assert request.headers["content-type"] == "application/x-www-form-urlencoded"
        assert set(request.fields) == {"Texml"}
        return Transferred(call_id=request.path.removeprefix(head), document=request.fields["Texml"])

    @override
    def transferred(self, *, known: bool) -> tuple[int, dict[str, Any]]:
        if known:
            return 200, {"account_sid": ACCOUNT, "status": "in-progress"}
        return 422, {"errors": [{"code": "90018", "title": "Call has already ended", "detail": "…"}]}

    @override
    def authentic(self, request: Request) -> bool:
        return request.headers.get("authorization") == f"Bearer {KEY}"
