"""What the broker lets a session process do, and the token by which it knows: pure.

A grant names one session. The runner puts it into a token with a digest that only those can make who have the issuer's
seed; the session process logs in with it; and whoever has the seed tells the broker what that login may do (`callout`).
A process that stands by has a grant for practice, where nobody is but its like.
"""

import base64
import binascii
import hashlib
import hmac
from typing import Any, Final

import msgspec

from greenroom.common import subjects
from greenroom.common.bodies import STREAM as BODIES
from greenroom.common.mailbox import STREAM as COMMANDS
from greenroom.common.secrets import STREAM as SECRETS

# The name a session process logs in with; its token is the password.
LOGIN: Final = "session"
PRACTICE: Final = "_INBOX.practice"
_DIGEST_BYTES: Final = 32
_MAX_TOKEN: Final = 1024
_REPLY_TTL_NS: Final = 30_000_000_000


class Grant(msgspec.Struct, frozen=True, array_like=True):
    """For one session, or with two empty strings for practice; `until` is in seconds since 1970."""

    tenant: str
    session_id: str
    until: int

    @property
    def inbox(self) -> str:
        """Where replies to it come in, and to nobody else."""
        return f"_INBOX.session.{self.session_id}" if self.session_id else PRACTICE


class Tokens:
    """Makes and reads tokens.

    Args:
        seed: of the issuer.
    """

    def __init__(self, seed: str) -> None:
        self._key = hashlib.sha256(b"greenroom session grant\0" + seed.encode()).digest()

    def make(self, grant: Grant) -> str:
        """Return the token of a grant; it can stand in a URL."""
        body = msgspec.json.encode(grant)
        return base64.urlsafe_b64encode(self._digest(body) + body).decode().rstrip("=")

    def read(self, token: str, now: float) -> Grant | None:
        """Return the grant of a token; None if it isn't ours, or has run out."""
        if len(token) > _MAX_TOKEN:
            return None
        try:
            packed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        digest, body = packed[:_DIGEST_BYTES], packed[_DIGEST_BYTES:]
        if not hmac.compare_digest(digest, self._digest(body)):
            return None
        grant = msgspec.json.decode(body, type=Grant)
        return grant if grant.until > now else None

    def _digest(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256")


def permissions(grant: Grant) -> dict[str, Any]:
    """Return what the login may do, as the claims of a NATS user have it.

    Exactly what a session process does: its own events, audio, frames and questions, its own commands, mailbox,
    secrets and body, replies. Not the ledger, which is the runner's; and nothing of other sessions.
    """
    if not grant.session_id:
        return {"pub": {"allow": [f"{PRACTICE}.>", "$JS.API.STREAM.NAMES"]}, "sub": {"allow": [f"{PRACTICE}.>"]}}
    tokens = {"tenant": grant.tenant, "session_id": grant.session_id}
    secret = subjects.SECRET.format(**tokens)
    waiting = subjects.MAILBOX.format(**tokens)
    return {
        "pub": {
            "allow": [
                subjects.SESSION_EVENT.wildcard(**tokens),
                subjects.SESSION_AUDIO.wildcard(**tokens),
                subjects.SESSION_MEDIA.format(**tokens, direction="out"),
                subjects.SESSION_TAP.format(**tokens, direction="listen"),
                subjects.SESSION_ASK.format(**tokens, name="transfer"),
                secret,
                f"$JS.API.DIRECT.GET.{SECRETS}.{secret}",
                f"$JS.API.DIRECT.GET.{BODIES}.{subjects.BODY.format(**tokens)}",
                waiting,
                f"$JS.API.DIRECT.GET.{COMMANDS}.{waiting}",
                # Whether no stream takes a subject, or only nobody answers for it now.
                "$JS.API.STREAM.NAMES",
            ],
            # These say what others have done.
            "deny": [
                subjects.SESSION_EVENT.format(**tokens, type="recording_saved"),
                subjects.SESSION_EVENT.format(**tokens, type="scheduler.decision"),
            ],
        },
        "sub": {
            "allow": [
                subjects.SESSION_CMD.wildcard(**tokens),
                subjects.MAILBOX_STORED.format(**tokens),
                subjects.SESSION_MEDIA.format(**tokens, direction="in"),
                subjects.SESSION_TAP.format(**tokens, direction="barge"),
                f"{grant.inbox}.>",
            ]
        },
        "resp": {"max": 1, "ttl": _REPLY_TTL_NS},
    }


def with_login(url: str, token: str) -> str:
    """Return the URL of the servers with the login of a session process in place of the runner's own."""
    return ",".join(_with_login(part, token) for part in url.split(","))


def _with_login(url: str, token: str) -> str:
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{LOGIN}:{token}@{rest.rpartition('@')[2]}"
