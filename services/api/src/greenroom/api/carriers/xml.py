"""Documents that carriers are answered with, in the two dialects that there are.

Twilio's (Telnyx' TeXML is the same) and Plivo's (Vobiz' is the same).
"""

from typing import Final
from xml.etree.ElementTree import Element, SubElement, tostring

from greenroom.api.carriers.base import Document

_DECLARATION: Final = b'<?xml version="1.0" encoding="UTF-8"?>'


def twilio_connect(stream_url: str, **attributes: str) -> Document:
    """Connect the call with a media socket, both ways; when that closes, the call ends."""
    response = Element("Response")
    SubElement(SubElement(response, "Connect"), "Stream", {"url": stream_url, **attributes})
    return _document(response)


def twilio_hold(text: str, again_url: str, pause_s: int) -> Document:
    """Say a text, wait, and ask again."""
    response = Element("Response")
    if text:
        SubElement(response, "Say").text = text
    SubElement(response, "Pause", {"length": str(pause_s)})
    SubElement(response, "Redirect", {"method": "POST"}).text = again_url
    return _document(response)


def twilio_refuse(text: str) -> Document:
    """Say a text and hang up; without one, let the caller hear that the line is busy."""
    response = Element("Response")
    if text:
        SubElement(response, "Say").text = text
        SubElement(response, "Hangup")
    else:
        SubElement(response, "Reject", {"reason": "busy"})
    return _document(response)


def twilio_dial(target: str) -> Document:
    """Connect the call with a phone number or a SIP URI; when that hangs up, the call ends."""
    return _dial(target, "Sip")


def plivo_dial(target: str) -> Document:
    """Connect the call with a phone number or a SIP URI; when that hangs up, the call ends."""
    return _dial(target, "User")


def plivo_connect(stream_url: str) -> Document:
    """Connect the call with a media socket, both ways; when that closes, the call ends."""
    response = Element("Response")
    attributes = {"bidirectional": "true", "keepCallAlive": "true", "contentType": "audio/x-mulaw;rate=8000"}
    SubElement(response, "Stream", attributes).text = stream_url
    return _document(response)


def plivo_hold(text: str, again_url: str, pause_s: int) -> Document:
    """Say a text, wait, and ask again."""
    response = Element("Response")
    if text:
        SubElement(response, "Speak").text = text
    SubElement(response, "Wait", {"length": str(pause_s)})
    SubElement(response, "Redirect", {"method": "POST"}).text = again_url
    return _document(response)


def plivo_refuse(text: str) -> Document:
    """Say a text and hang up; without one, let the caller hear that the line is busy."""
    response = Element("Response")
    if text:
        SubElement(response, "Speak").text = text
        SubElement(response, "Hangup")
    else:
        SubElement(response, "Hangup", {"reason": "busy"})
    return _document(response)


def nothing() -> Document:
    """Say nothing: the answer to what only tells us something."""
    return _document(Element("Response"))


def _dial(target: str, sip: str) -> Document:
    response = Element("Response")
    SubElement(SubElement(response, "Dial"), "Number" if target.startswith("+") else sip).text = target
    return _document(response)


def _document(response: Element) -> Document:
    return Document(body=_DECLARATION + tostring(response, encoding="utf-8", xml_declaration=False))
