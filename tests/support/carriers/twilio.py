"""Twilio: TwiML, Media Streams, Calls API."""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, Final, override

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

ACCOUNT: Final = "AC0123456789abcdef0123456789abcdef"
TOKEN: Final = "twilio-auth-token"
_CALLS: Final = f"/2010-04-01/Accounts/{ACCOUNT}/Calls/"


class TwilioDialect(Dialect):
    """See the module."""

    name = "twilio"
    mulaw = True
    frame_s = 0.02
    marks_after_clear = True

    @override
    def settings(self, api_url: str) -> dict[str, str]:
        return {"twilio_account_sid": ACCOUNT, "twilio_auth_token": TOKEN, "twilio_api_url": api_url}

    @override
    def sign(self, method: str, url: str, form: Mapping[str, str], *, at: float | None = None) -> dict[str, str]:
        text = url + "".join(f"{name}{form[name]}" for name in sorted(form))
        return {"X-Twilio-Signature": b64(hmac.new(TOKEN.encode(), text.encode(), hashlib.sha1).digest())}

    @override
    def target(self, url: str) -> str:
        return url

    @override
    def asks(self, leg: Leg) -> dict[str, str]:
        return {
            "AccountSid": ACCOUNT,
            "ApiVersion": "2010-04-01",
            "CallSid": leg.call_id,
            "CallStatus": "in-progress" if leg.outbound else "ringing",
            "Called": leg.called,
            "Caller": leg.caller,
            "Direction": "outbound-api" if leg.outbound else "inbound",
            "From": leg.caller,
            "To": leg.called,
        }

    @override
    def tells(self, leg: Leg, status: str) -> dict[str, str]:
        more = {"CallDuration": "7", "Duration": "1"} if status == "completed" else {}
        return {**self.asks(leg), "CallStatus": status, "CallbackSource": "call-progress-events", **more}

    @override
    def reads(self, status: int, body: bytes) -> Answered:
        assert status == 200
        return read_xml(body, "Say", "Pause")

    @override
    def reads_dial(self, document: str | bytes) -> str:
        return read_dial(document, "Sip")

    @override
    def opening(self, leg: Leg) -> list[dict[str, Any]]:
        return [
            {"event": "connected", "protocol": "Call", "version": "1.0.0"},
            {
                "event": "start",
                "sequenceNumber": "1",
                "start": {
                    "accountSid": ACCOUNT,
                    "streamSid": leg.stream_id,
                    "callSid": leg.call_id,
                    "tracks": ["inbound"],
                    "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
                    "customParameters": leg.parameters,
                },
                "streamSid": leg.stream_id,
            },
        ]

    @override
    def media(self, leg: Leg, number: int, payload: bytes) -> dict[str, Any]:
        return {
            "event": "media",
            "sequenceNumber": str(number + 2),
            "media": {
                "track": "inbound",
                "chunk": str(number + 1),
                "timestamp": str(number * 20),
                "payload": b64(payload),
            },
            "streamSid": leg.stream_id,
        }

    @override
    def dtmf(self, leg: Leg, digit: str) -> dict[str, Any]:
        return {
            "event": "dtmf",
            "streamSid": leg.stream_id,
            "sequenceNumber": "5",
            "dtmf": {"track": "inbound_track", "digit": digit},
        }

    @override
    def mark(self, leg: Leg, name: str) -> dict[str, Any]:
        return {"event": "mark", "sequenceNumber": "4", "streamSid": leg.stream_id, "mark": {"name": name}}

    @override
    def stop(self, leg: Leg) -> dict[str, Any] | None:
        return {
            "event": "stop",
            "sequenceNumber": "5",
            "stop": {"accountSid": ACCOUNT, "callSid": leg.call_id},
            "streamSid": leg.stream_id,
        }

    @override
    def hears(self, leg: Leg, message: dict[str, Any]) -> Heard:
        # Messages with another stream's id are ignored, with a warning in the console.
        assert message["streamSid"] == leg.stream_id, message
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
        if request.method != "POST" or request.path != f"/2010-04-01/Accounts/{ACCOUNT}/Calls.json":
            return None
        fields = request.fields
        assert fields["StatusCallbackEvent"] == ["initiated", "ringing", "answered", "completed"]
        if "AsyncAmdStatusCallback" in fields:
            assert (fields["MachineDetection"], fields["AsyncAmd"]) == ("Enable", "true")
        return Dialled(
            to=fields["To"],
            caller=fields["From"],
            answer_url=fields["Url"],
            status_url=fields["StatusCallback"],
            machine_url=fields.get("AsyncAmdStatusCallback", ""),
        )

    @override
    def dialled(self, leg: Leg) -> tuple[int, dict[str, Any]]:
        return 201, {"sid": leg.call_id, "status": "queued", "to": leg.called, "from": leg.caller}

    @override
    def transfers(self, request: Request) -> Transferred | None:
        if request.method != "POST" or not request.path.startswith(_CALLS) or "Twiml" not in request.fields:
            return None
        assert request.path.endswith(".json")
        assert set(request.fields) == {"Twiml"}
        call_id = request.path.removeprefix(_CALLS).removesuffix(".json")
        return Transferred(call_id=call_id, document=request.fields["Twiml"])

    @override
    def transferred(self, *, known: bool) -> tuple[int, dict[str, Any]]:
        if known:
            return 200, {"status": "in-progress"}
        return 400, {"code": 21220, "message": "Call is not in-progress. Cannot redirect.", "status": 400}

    @override
    def hangs_up(self, request: Request) -> str | None:
        if request.method != "POST" or not request.path.startswith(_CALLS):
            return None
        assert request.fields == {"Status": "completed"}
        return request.path.removeprefix(_CALLS).removesuffix(".json")

    @override
    def hung_up(self, *, known: bool) -> tuple[int, dict[str, Any]]:
        if known:
            return 200, {"status": "completed"}
        return 404, {"code": 20404, "message": "The requested resource was not found", "status": 404}

    @override
    def authentic(self, request: Request) -> bool:
        return request.headers.get("authorization") == basic(ACCOUNT, TOKEN)
