"""Which session a webhook is about, in its path: `{tenant}.{session}.{proof}`, where nobody else can make the proof.

Not all carriers sign the path, and not all tell the id of a call when it is made.
"""

import base64
import hmac
from typing import Final

from greenroom.common.ids import is_uuid

_PURPOSE: Final = "greenroom-call-reference"


def reference(secret: bytes, tenant: str, session_id: str) -> str:
    """Return the reference to a session."""
    digest = hmac.digest(secret, f"{_PURPOSE}:{tenant}.{session_id}".encode(), "sha256")
    proof = base64.urlsafe_b64encode(digest[:24]).decode()
    return f"{tenant}.{session_id}.{proof}"


def dereference(secret: bytes, text: str) -> tuple[str, str] | None:
    """Return tenant and session of a reference; None: it isn't one of ours."""
    tenant, _, rest = text.partition(".")
    session_id = rest.partition(".")[0]
    if not is_uuid(session_id) or not hmac.compare_digest(
        reference(secret, tenant, session_id).encode(), text.encode()
    ):
        return None
    return tenant, session_id
