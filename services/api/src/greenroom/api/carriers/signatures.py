"""How carriers sign webhooks. All of it is pure; comparisons take the same time whatever is compared.

twilio    HMAC-SHA1 over URL and sorted form, by the auth token
telnyx    Ed25519 over timestamp and body, by the account's key; good for five minutes
plivo     HMAC-SHA256 over URL, sorted query, sorted form and nonce, by the auth token
vobiz     HMAC-SHA256 over URL without query, and nonce, by the auth token
exotel    none: a token of ours comes as a password or in the query
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from typing import Final
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from greenroom.api.carriers.base import Webhook, WebhookReplayed, WebhookUnsigned

# How old a webhook may be, and how far the carrier's clock may be ahead of ours.
WINDOW_S: Final = 300.0


def twilio(token: str, url: str, form: Mapping[str, str]) -> str:
    """Return the signature of `X-Twilio-Signature`."""
    signed = url + "".join(name + form[name] for name in sorted(form))
    return _base64(hmac.digest(token.encode(), signed.encode(), hashlib.sha1))


def plivo(token: str, method: str, url: str, form: Mapping[str, str], nonce: str) -> str:
    """Return the signature of `X-Plivo-Signature-V3`."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    posted: Mapping[str, str] = form if method == "POST" else {}
    if method == "GET":
        query |= form
    signed = urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
    if query or posted:
        signed += "?" + "&".join(f"{name}={query[name]}" for name in sorted(query))
    if query and posted:
        signed += "."
    signed += "".join(name + posted[name] for name in sorted(posted))
    return _base64(hmac.digest(token.encode(), f"{signed}.{nonce}".encode(), hashlib.sha256))


def vobiz(token: str, url: str, nonce: str) -> str:
    """Return the signature of `X-Vobiz-Signature-V3`."""
    parts = urlsplit(url)
    signed = urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
    return _base64(hmac.digest(token.encode(), f"{signed}.{nonce}".encode(), hashlib.sha256))


def check_twilio(token: str, webhook: Webhook) -> None:
    """Raise `WebhookUnsigned` unless Twilio has signed it."""
    given = webhook.headers.get("x-twilio-signature", "")
    _same(given, twilio(token, webhook.url, webhook.form))


def check_telnyx(public_key: str, webhook: Webhook, now: datetime) -> None:
    """Raise `WebhookUnsigned` unless Telnyx has signed it, and `WebhookReplayed` if that was too long ago.

    Args:
        public_key: base64, as the carrier's portal shows it.
        webhook: what came.
        now: the time.
    """
    given = webhook.headers.get("telnyx-signature-ed25519", "")
    timestamp = webhook.headers.get("telnyx-timestamp", "")
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key, validate=True))
        key.verify(base64.b64decode(given, validate=True), timestamp.encode() + b"|" + webhook.body)
    except (InvalidSignature, ValueError, binascii.Error) as error:
        raise WebhookUnsigned from error
    if not timestamp.isdecimal() or abs(now.timestamp() - int(timestamp)) > WINDOW_S:
        raise WebhookReplayed("It is older than five minutes, or from the future.")


def check_plivo(token: str, webhook: Webhook) -> str:
    """Return the nonce of what Plivo has signed; raise `WebhookUnsigned` for anything else."""
    nonce = webhook.headers.get("x-plivo-signature-v3-nonce", "")
    right = plivo(token, webhook.method, webhook.url, webhook.form, nonce)
    _one_of(webhook.headers.get("x-plivo-signature-v3", ""), nonce, right)
    return nonce


def check_vobiz(token: str, webhook: Webhook) -> str:
    """Return the nonce of what Vobiz has signed; raise `WebhookUnsigned` for anything else."""
    nonce = webhook.headers.get("x-vobiz-signature-v3-nonce", "")
    _one_of(webhook.headers.get("x-vobiz-signature-v3", ""), nonce, vobiz(token, webhook.url, nonce))
    return nonce


def check_token(token: str, webhook: Webhook) -> None:
    """Raise `WebhookUnsigned` unless it has our token: as the password of basic authentication, or as `token`."""
    scheme, _, encoded = webhook.headers.get("authorization", "").partition(" ")
    given = webhook.query.get("token", "")
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(encoded, validate=True).decode().partition(":")[2]
        except ValueError as error:
            raise WebhookUnsigned from error
    _same(given, token)


def _one_of(given: str, nonce: str, right: str) -> None:
    # Several, where the account has several tokens.
    if not nonce or not any(hmac.compare_digest(one.strip().encode(), right.encode()) for one in given.split(",")):
        raise WebhookUnsigned


def _same(given: str, right: str) -> None:
    if not hmac.compare_digest(given.encode(), right.encode()):
        raise WebhookUnsigned


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
