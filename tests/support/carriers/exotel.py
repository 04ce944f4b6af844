"""Exotel: the Voicebot applet, and calls connected with a stream.

The applet asks by GET. Whatever is told comes as it was ordered with the call: `StatusCallbackContentType`.
"""

import base64
from collections.abc import Mapping
from typing import Any, Final, override

import msgspec

from tests.support.carriers.dialect import Answered, Dialect, Dialled, Heard, Leg, Request, Transferred, b64, basic

ACCOUNT: Final = "exotel1m"
KEY, API_TOKEN, WEBHOOK_TOKEN = "exotel-key", "exotel-api-token", "exotel-webhook-token"


class ExotelDialect(Dialect):
    """See the module."""

    name = "exotel"
    mulaw = False
    frame_s = 0.1
    asks_by = "query"
    tells_by = "json"
    marks_after_clear = True

    @override
    def settings(self, api_url: str) -> dict[str, str]:
        return {
            "exotel_account_sid": ACCOUNT,
            "exotel_api_key": KEY,
            "exotel_api_token": API_TOKEN,
            "exotel_webhook_token": WEBHOOK_TOKEN,
            "exotel_api_url": api_url,
        }

    @override
    def sign(self, method: str, url: str, form: Mapping[str, str], *, at: float | None = None) -> dict[str, str]:
        # The customer has written the token into the addresses of the number; those of a call that is ordered have what
        # they were ordered with.
        return {} if "/calls/" in url else {"Authorization": basic("exotel", WEBHOOK_TOKEN)}

    @override
    def target(self, url: str) -> str:
        return url

    @override
    def asks(self, leg: Leg) -> dict[str, str]:
        return {
            "CallSid": leg.call_id,
            "CallFrom": leg.caller,
            "CallTo": leg.called,
            "Direction": "outbound-dial" if leg.outbound else "incoming",
            "CurrentTime": "2026-05-14 10:00:00",
            "flow_id": "1117620",
        }

    @override
    def tells(self, leg: Leg, status: str) -> dict[str, Any]:
        ringing = status in {"ringing", "in-progress"}
        return {
            "CallSid": leg.call_id,
            "EventType": "answered" if ringing else "terminal",
            "DateCreated": "2026-05-14 10:00:00",
            "DateUpdated": "2026-05-14 10:00:09",
            "Status": status,
            "From": leg.called if leg.outbound else leg.caller,
            "To": leg.caller if leg.outbound else leg.called,
            "PhoneNumberSid": leg.caller if leg.outbound else leg.called,
            "Direction": "outbound-api" if leg.outbound else "inbound",
            "StartTime": "2026-05-14 10:00:02",
            "EndTime": "2026-05-14 10:00:09",
            "ConversationDuration": 0 if ringing else 7,
            "RecordingUrl": None,
            "Legs": [{"OnCallDuration": 7, "Status": status, "AnsweredBy": "NA"}],
        }

    @override
    def reads(self, status: int, body: bytes) -> Answered:
        if status != 200:
            return Answered(kind="refuse")
        return Answered(kind="connect", url=msgspec.json.decode(body)["url"])

    @override
    def reads_dial(self, document: str | bytes) -> str:
        raise AssertionError("there is no such document")

    @override
    def opening(self, leg: Leg) -> list[dict[str, Any]]:
        return [
            {"event": "connected"},
            {
                "event": "start",
                "sequence_number": "1",
                "stream_sid": leg.stream_id,
                "start": {
                    "stream_sid": leg.stream_id,
                    "call_sid": leg.call_id,
                    "account_sid": ACCOUNT,
                    "from": leg.caller,
                    "to": leg.called,
                    "custom_parameters": leg.parameters,
                    "media_format": {"encoding": "audio/x-raw", "sample_rate": "8000", "bit_rate": "16"},
                },
            },
        ]

    @override
    def media(self, leg: Leg, number: int, payload: bytes) -> dict[str, Any]:
        return {
            "event": "media",
            "sequence_number": str(number + 2),
            "stream_sid": leg.stream_id,
            "media": {"chunk": str(number + 1), "timestamp": str(number * 100), "payload": b64(payload)},
        }

    @override
    def dtmf(self, leg: Leg, digit: str) -> dict[str, Any]:
        return {
            "event": "dtmf",
            "sequence_number": "7",
            "stream_sid": leg.stream_id,
            "dtmf": {"digit": digit, "duration": "100"},
        }

    @override
    def mark(self, leg: Leg, name: str) -> dict[str, Any]:
        return {"event": "mark", "sequence_number": "15", "stream_sid": leg.stream_id, "mark": {"name": name}}

    @override
    def stop(self, leg: Leg) -> dict[str, Any] | None:
        return {
            "event": "stop",
            "sequence_number": "20",
            "stream_sid": leg.stream_id,
            "stop": {"call_sid": leg.call_id, "account_sid": ACCOUNT, "reason": "callended"},
        }

    @override
    def hears(self, leg: Leg, message: dict[str, Any]) -> Heard:
        assert message["stream_sid"] == leg.stream_id, message
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
        if request.method != "POST" or request.path != f"/v1/Accounts/{ACCOUNT}/Calls/connect.json":
            return None
        fields = request.fields
        assert fields["StreamType"] == "bidirectional"
        assert fields["StatusCallbackContentType"] == "application/json"
        return Dialled(
            to=fields["From"],
            caller=fields["CallerId"],
            status_url=fields["StatusCallback"],
            stream_url=fields["StreamUrl"],
        )

    @override
    def dialled(self, leg: Leg) -> tuple[int, dict[str, Any]]:
        return 200, {"Call": {"Sid": leg.call_id, "Status": "in-progress", "Direction": "outbound-api"}}

    @override
    def hangs_up(self, request: Request) -> str | None:
        return None

    @override
    def hung_up(self, *, known: bool) -> tuple[int, dict[str, Any]]:
        raise AssertionError("there is no such request")

    @override
    def transfers(self, request: Request) -> Transferred | None:
        return None

    @override
    def transferred(self, *, known: bool) -> tuple[int, dict[str, Any]]:
        raise AssertionError("there is no such request")

    @override
    def authentic(self, request: Request) -> bool:
        return request.headers.get("authorization") == basic(KEY, API_TOKEN)
