"""What Twilio and Telnyx' TeXML have in common: fields of their webhooks, and the documents they are answered with."""

from typing import Final

from greenroom.api.carriers import xml
from greenroom.api.carriers.base import AnsweredBy, Call, CallNews, Dial, Document, Status, Webhook

STATUSES: Final = {
    "queued": Status.QUEUED,
    "initiated": Status.QUEUED,
    "ringing": Status.RINGING,
    "in-progress": Status.ANSWERED,
    "answered": Status.ANSWERED,
    "completed": Status.COMPLETED,
    "busy": Status.BUSY,
    "no-answer": Status.NO_ANSWER,
    "failed": Status.FAILED,
    "canceled": Status.CANCELED,
}


class TexmlWebhooks:
    """Reads webhooks with Twilio's fields."""

    def call(self, webhook: Webhook) -> Call:
        """See `Carrier`."""
        fields = webhook.fields
        return Call(call_id=webhook.need("CallSid"), caller=fields.get("From", ""), called=fields.get("To", ""))

    def news(self, webhook: Webhook) -> CallNews:
        """See `Carrier`."""
        fields, told = webhook.fields, webhook.need("CallStatus")
        causes = (fields.get(name, "") for name in ("ErrorCode", "ErrorMessage", "SipResponseCode", "HangupCause"))
        return CallNews(
            call=self.call(webhook),
            status=STATUSES.get(told),
            told=told,
            cause=" ".join(cause for cause in causes if cause),
            duration_s=seconds(fields.get("CallDuration", "")),
        )

    def answered_by(self, webhook: Webhook) -> tuple[AnsweredBy, str] | None:
        """See `Carrier`."""
        told = webhook.fields.get("AnsweredBy", "")
        if not told:
            return None
        if told.startswith("machine"):
            return "machine", told
        return ("human" if told.startswith("human") else "fax" if told == "fax" else "unknown"), told

    def hold(self, text: str, again_url: str, pause_s: int) -> Document:
        """See `Carrier`."""
        return xml.twilio_hold(text, again_url, pause_s)

    def refuse(self, text: str) -> Document:
        """See `Carrier`."""
        return xml.twilio_refuse(text)

    def put_through(self, target: str) -> Document:
        """See `Carrier`."""
        return xml.twilio_dial(target)


def dial_form(dial: Dial) -> dict[str, str | list[str]]:
    """Return what both are told of a call to be made."""
    form: dict[str, str | list[str]] = {
        "To": dial.to,
        "From": dial.caller,
        "Url": dial.answer_url,
        "StatusCallback": dial.status_url,
        "StatusCallbackMethod": "POST",
        "Timeout": str(dial.ring_timeout_s),
    }
    if dial.machine_url is not None:
        form |= {"MachineDetection": "Enable", "AsyncAmd": "true", "AsyncAmdStatusCallback": dial.machine_url}
    return form


def seconds(text: str) -> int | None:
    """Return a duration, if it is one."""
    return int(text) if text.isdecimal() else None
