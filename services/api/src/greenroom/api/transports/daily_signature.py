"""Whether a webhook is Daily's: base64(HMAC-SHA256(secret, TIMESTAMP "." BODY)), for calls and for events alike.

The secret is the `hmac` of what was set up at Daily, base64 too, and the timestamp is in seconds or milliseconds.
"""

import base64
import hashlib
import hmac
from collections.abc import Iterable
from datetime import timedelta
from typing import Final

from greenroom.api.numbers import secret_bytes
from greenroom.api.transports.base import TransportUnavailable
from greenroom.common.clock import Clock, SystemClock
from greenroom.common.errors import GreenroomError

# Clocks differ by seconds, and what Daily repeats it signs anew. Within this, ids make a repetition harmless.
REPLAY_WINDOW: Final = timedelta(minutes=5)
# Any time since 2001 has more digits in milliseconds than any before 2286 in seconds.
_MILLISECONDS: Final = 10**11
_LONGEST_TIMESTAMP: Final = 15


class WebhookRefused(GreenroomError):
    """The webhook isn't signed with a secret that is set here, or its time is more than five minutes off.

    Compare the setting (for Daily: `GREENROOM_DAILY_DIALIN_SECRETS` for calls, `GREENROOM_DAILY_WEBHOOK_SECRETS` for
    events) with what the provider signs with, and the clock of this host with the world's. If neither is the cause,
    somebody else has sent it.
    """

    code = "webhook-refused"
    status = 401
    title = "The webhook isn't genuine"


class Signatures:
    """Tells Daily's webhooks from forgeries.

    Args:
        secrets: that webhooks may be signed with, base64.
        setting: the variable they are from.
        clock: says which webhooks are old.
    """

    def __init__(self, secrets: Iterable[str], setting: str, *, clock: Clock | None = None) -> None:
        self._secrets = secret_bytes(secrets)
        self._setting = setting
        self._clock = clock or SystemClock()

    def check(self, raw: bytes, timestamp: str | None, signature: str | None) -> None:
        """Return if a webhook is genuine and of this time.

        Args:
            raw: the body, byte by byte.
            timestamp: the header of it.
            signature: the header of it.

        Raises:
            TransportUnavailable: there are no secrets to tell by.
            WebhookRefused: it isn't genuine, or is old.
        """
        if not self._secrets:
            raise TransportUnavailable(f"{self._setting} isn't set: no webhook can be told from a forgery.")
        timestamp, signature = timestamp or "", signature or ""
        if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= _LONGEST_TIMESTAMP):
            raise WebhookRefused
        signed = timestamp.encode() + b"." + raw
        given = signature.encode("utf-8", "surrogateescape")
        # All are computed, so that the time tells nothing of which it was.
        matches = [
            hmac.compare_digest(base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)), given)
            for secret in self._secrets
        ]
        if not any(matches):
            raise WebhookRefused
        at_s = int(timestamp) / 1000 if int(timestamp) >= _MILLISECONDS else int(timestamp)
        if abs(self._clock.now().timestamp() - at_s) > REPLAY_WINDOW.total_seconds():
            raise WebhookRefused
