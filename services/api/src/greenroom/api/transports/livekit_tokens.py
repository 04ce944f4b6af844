"""LiveKit's access tokens: JWTs (HS256) with a `video` grant, as its reference on tokens and grants documents them."""

import base64
import hashlib
import hmac
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

# Servers' clocks differ; LiveKit itself allows for a minute.
_SKEW: Final = timedelta(seconds=30)
_HEADER: Final = {"alg": "HS256", "typ": "JWT"}


class Signer:
    """Signs with one key of a LiveKit server.

    Args:
        api_key: its name.
        api_secret: the key.
    """

    def __init__(self, api_key: str, api_secret: str) -> None:
        self._api_key = api_key
        self._api_secret = api_secret.encode()

    def sign(self, video: dict[str, Any], *, now: datetime, until: datetime, **claims: Any) -> str:
        """Return a token.

        Args:
            video: the grant.
            now: the time.
            until: when it expires; LiveKit looks at that when somebody connects.
            claims: further ones; `sub` is the participant's identity.
        """
        body = {
            "iss": self._api_key,
            "nbf": int((now - _SKEW).timestamp()),
            "exp": int(until.timestamp()),
            "video": video,
            **claims,
        }
        signed = ".".join(_encoded(msgspec.json.encode(part)) for part in (_HEADER, body))
        return f"{signed}.{_encoded(hmac.digest(self._api_secret, signed.encode(), hashlib.sha256))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
