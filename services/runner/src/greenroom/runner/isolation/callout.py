"""Tells the broker who session processes are and what they may: NATS's authorization callout.

The server knows the logins of the services by itself (`auth_users`). For any other it asks on a subject that only
runners may listen to, and wants an answer signed by the issuer it knows. Any runner answers for any session: what
counts is the token. So a session can come back after an outage as long as one runner is there, and its own is there as
long as it is.

The issuer is an account's nkey: runners have its seed (`GREENROOM_NATS_ISSUER_SEED`), servers its public key.

    python -m greenroom.runner.isolation.callout     makes a new one: seed and public key, a line each
"""

import base64
import hashlib
import os
import sys
import time
from typing import Any, Final

import msgspec
import nkeys
import structlog

from greenroom.common.broker import Message
from greenroom.common.errors import SettingsInvalid
from greenroom.common.lifecycle import Session
from greenroom.common.nats_broker import NatsBroker, NatsSubscription
from greenroom.runner.isolation.grants import LOGIN, Grant, Tokens, permissions, with_login

_log = structlog.get_logger()

SUBJECT: Final = "$SYS.REQ.USER.AUTH"
QUEUE: Final = "greenroom-runners"
ACCOUNT: Final = "GREENROOM"
_MAX_REQUEST_BYTES: Final = 64 * 1024
_SEED_BYTES: Final = 32
# A process stands by for hours; it is given a new login with its session.
_PRACTICE_S: Final = 7 * 86_400
# What a session may take beyond its longest duration: a start, a goodbye, an outage before its last words are out.
_MARGIN_S: Final = 900
_HEADER: Final = {"typ": "JWT", "alg": "ed25519-nkey"}


class _Server(msgspec.Struct, frozen=True):
    id: str


class _Options(msgspec.Struct, frozen=True):
    user: str = ""
    password: str = msgspec.field(default="", name="pass")


class _Asked(msgspec.Struct, frozen=True):
    server_id: _Server
    user_nkey: str
    connect_opts: _Options


class _Request(msgspec.Struct, frozen=True):
    nats: _Asked


class Issuer:
    """Signs who session processes are.

    Args:
        seed: of an account's nkey (`SA…`).

    Raises:
        SettingsInvalid: it isn't one.
    """

    def __init__(self, seed: str) -> None:
        try:
            self._pair = nkeys.from_seed(bytearray(seed.encode()))
            self.public_key = bytes(self._pair.public_key).decode()
        except (nkeys.NkeysError, ValueError) as error:
            raise SettingsInvalid("GREENROOM_NATS_ISSUER_SEED isn't the seed of an nkey") from error
        if not self.public_key.startswith("A"):
            raise SettingsInvalid("GREENROOM_NATS_ISSUER_SEED isn't the seed of an account's nkey (SA…)")
        self._tokens = Tokens(seed)

    def url_for(self, url: str, session: Session) -> str:
        """Return where the process of a session connects, and as what."""
        limits = session.limits
        lasts_s = limits.start_timeout_s + limits.max_duration_s + limits.end_timeout_s + _MARGIN_S
        until = int(time.time() + lasts_s)
        grant = Grant(session.tenant, session.id, until)
        return with_login(url, self._tokens.make(grant))

    def url_for_practice(self, url: str) -> str:
        """Return where a process that stands by connects, and as what."""
        return with_login(url, self._tokens.make(Grant("", "", int(time.time() + _PRACTICE_S))))

    def answer(self, request: bytes, now: float) -> bytes:
        """Return the answer to a server's question: who it is, or that it is nobody.

        Raises:
            ValueError: that isn't a question.
        """
        if len(request) > _MAX_REQUEST_BYTES or request.count(b".") != 2:  # noqa: PLR2004 the parts of a JWT
            raise ValueError("not a JWT")
        body = request.split(b".")[1]
        asked = msgspec.json.decode(base64.urlsafe_b64decode(body + b"=" * (-len(body) % 4)), type=_Request).nats
        grant = None
        if asked.connect_opts.user == LOGIN:
            grant = self._tokens.read(asked.connect_opts.password, now)
        said: dict[str, Any] = {"type": "authorization_response", "version": 2}
        if grant is None:
            said["error"] = "no login of a service, and no token of a session"
        else:
            said["jwt"] = self._user(asked.user_nkey, grant, now)
        return self._signed(asked.user_nkey, said, now, aud=asked.server_id.id).encode()

    def _user(self, nkey: str, grant: Grant, now: float) -> str:
        # Without limits of their own, for which -1 stands.
        claims = {"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, **permissions(grant)}
        name = grant.session_id or "practice"
        return self._signed(nkey, claims, now, aud=ACCOUNT, exp=grant.until, name=name)

    def _signed(self, subject: str, claims: dict[str, Any], now: float, **more: Any) -> str:
        body: dict[str, Any] = {"iat": int(now), "iss": self.public_key, "sub": subject, "nats": claims, **more}
        digest = hashlib.sha256(msgspec.json.encode(body)).digest()
        body["jti"] = base64.b32encode(digest).decode().rstrip("=")
        text = f"{_part(msgspec.json.encode(_HEADER))}.{_part(msgspec.json.encode(body))}"
        return f"{text}.{_part(self._pair.sign(text.encode()))}"


async def serve(broker: NatsBroker, issuer: Issuer) -> NatsSubscription:
    """Answer the servers' questions until unsubscribed."""

    async def on_request(message: Message) -> None:
        try:
            answer = issuer.answer(message.data, time.time())
        except (ValueError, msgspec.MsgspecError) as error:
            _log.warning("login_not_understood", error=type(error).__name__)
            return
        if message.reply:
            await broker.publish(message.reply, answer)

    return await broker.subscribe(SUBJECT, on_request, queue=QUEUE)


def new_seed() -> str:
    """Return the seed of a new issuer."""
    return nkeys.encode_seed(os.urandom(_SEED_BYTES), nkeys.PREFIX_BYTE_ACCOUNT).decode()


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


if __name__ == "__main__":
    made = new_seed()
    sys.stdout.write(f"{made}\n{Issuer(made).public_key}\n")
