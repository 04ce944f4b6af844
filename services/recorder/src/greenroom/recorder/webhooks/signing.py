"""Signatures by Standard Webhooks: HMAC-SHA256 over id, time and body, one for each secret that holds."""

import base64
import binascii
import hmac
from collections.abc import Iterable
from typing import Final

_PREFIX: Final = "whsec_"


def key_of(secret: str) -> bytes:
    """Return the key in a secret, `whsec_` and base64.

    Raises:
        ValueError: it isn't one.
    """
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError("a webhook's secret isn't base64") from None
    if not key:
        raise ValueError("a webhook's secret is empty")
    return key


def headers(secrets: Iterable[str], *, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers of one attempt.

    Args:
        secrets: each of them signs.
        message_id: the same for every attempt to deliver the same thing.
        timestamp: of this attempt, in seconds since 1970.
        body: what is sent, byte by byte.
    """
    content = f"{message_id}.{timestamp}.".encode() + body
    signatures = [base64.b64encode(hmac.digest(key_of(secret), content, "sha256")).decode() for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
