"""What Plivo and Vobiz have in common: fields of their webhooks, their documents, and the shape of their API."""

from typing import Final

from greenroom.api.carriers import xml
from greenroom.api.carriers.base import (
    AnsweredBy,
    Call,
    CallNews,
    Dial,
    Document,
    RestAnswer,
    Status,
    Transfer,
    Webhook,
)
from greenroom.api.carriers.texml import seconds

STATUSES: Final = {
    "ringing": Status.RINGING,
    "in-progress": Status.ANSWERED,
    "completed": Status.COMPLETED,
    "busy": Status.BUSY,
    "no-answer": Status.NO_ANSWER,
    "timeout": Status.NO_ANSWER,
    "failed": Status.FAILED,
    "cancel": Status.CANCELED,
    "canceled": Status.CANCELED,
}
_NOT_FOUND: Final = 404


class PlivoWebhooks:
    """Reads webhooks with Plivo's fields."""

    def call(self, webhook: Webhook) -> Call:
        """See `Carrier`."""
        fields = webhook.fields
        call_id = webhook.need("CallUUID", "RequestUUID", "ALegRequestUUID")
        return Call(call_id=call_id, caller=fields.get("From", ""), called=fields.get("To", ""))

    def news(self, webhook: Webhook) -> CallNews:
        """See `Carrier`."""
        fields, told = webhook.fields, webhook.need("CallStatus")
        return CallNews(
            call=self.call(webhook),
            status=STATUSES.get(told),
            told=told,
            cause=fields.get("HangupCauseName") or fields.get("HangupCause", ""),
            duration_s=seconds(fields.get("Duration", "")),
        )

    def answered_by(self, webhook: Webhook) -> tuple[AnsweredBy, str] | None:
        """See `Carrier`."""
        told = webhook.fields.get("Machine", "")
        if not told:
            return None
        return ("machine" if told.lower() == "true" else "human"), f"Machine={told}"

    def connect(self, stream_url: str) -> Document:
        """See `Carrier`."""
        return xml.plivo_connect(stream_url)

    def hold(self, text: str, again_url: str, pause_s: int) -> Document:
        """See `Carrier`."""
        return xml.plivo_hold(text, again_url, pause_s)

    def refuse(self, text: str) -> Document:
        """See `Carrier`."""
        return xml.plivo_refuse(text)

    def put_through(self, target: str) -> Document:
        """See `Carrier`."""
        return xml.plivo_dial(target)

    def dialled(self, answer: RestAnswer) -> str:
        """See `Carrier`."""
        return str(answer.body.get("request_uuid") or "")

    def is_over(self, answer: RestAnswer) -> bool:
        """See `Carrier`."""
        return answer.status == _NOT_FOUND


def transfer_json(transfer: Transfer) -> dict[str, str]:
    """Return what both are told of a call to be handed over: where to ask what to do with it now."""
    return {"legs": "aleg", "aleg_url": transfer.document_url, "aleg_method": "POST"}


def dial_json(dial: Dial) -> dict[str, str]:
    """Return what both are told of a call to be made."""
    wish = {
        "from": dial.caller,
        "to": dial.to,
        "answer_url": dial.answer_url,
        "answer_method": "POST",
        "ring_url": dial.status_url,
        "ring_method": "POST",
        "hangup_url": dial.status_url,
        "hangup_method": "POST",
        "ring_timeout": str(dial.ring_timeout_s),
    }
    if dial.machine_url is not None:
        wish |= {
            "machine_detection": "true",
            "machine_detection_url": dial.machine_url,
            "machine_detection_method": "POST",
        }
    return wish
