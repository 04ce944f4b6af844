"""Vobiz: Plivo's words, with a signature, headers and paths of its own."""

import hashlib
import hmac
import itertools
from collections.abc import Mapping
from typing import Final, override
from urllib.parse import urlsplit

from tests.support.carriers.dialect import Request, b64
from tests.support.carriers.plivo import PlivoDialect

ACCOUNT: Final = "MA_VOBIZ01"
TOKEN: Final = "vobiz-auth-token"
_NONCES: Final = itertools.count(20_000_000_000_000_000_000)


class VobizDialect(PlivoDialect):
    """See the module."""

    name = "vobiz"
    calls = f"/api/v1/Account/{ACCOUNT}/Call/"

    @override
    def settings(self, api_url: str) -> dict[str, str]:
        return {"vobiz_auth_id": ACCOUNT, "vobiz_auth_token": TOKEN, "vobiz_api_url": api_url}

    @override
    def sign(self, method: str, url: str, form: Mapping[str, str], *, at: float | None = None) -> dict[str, str]:
        nonce = str(next(_NONCES))
        parts = urlsplit(url)
        text = f"{parts.scheme}://{parts.netloc}{parts.path}.{nonce}"
        signature = hmac.new(TOKEN.encode(), text.encode(), hashlib.sha256).digest()
        return {"X-Vobiz-Signature-V3": b64(signature), "X-Vobiz-Signature-V3-Nonce": nonce}

    @override
    def authentic(self, request: Request) -> bool:
        return (request.headers.get("x-auth-id"), request.headers.get("x-auth-token")) == (ACCOUNT, TOKEN)
