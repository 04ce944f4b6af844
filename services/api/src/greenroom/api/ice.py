"""How browsers find a way through NAT: STUN servers, and TURN servers with credentials that expire.

The credentials are those of coturn's REST scheme (`use-auth-secret`): the user name is when they expire, as seconds
since 1970, and for whom they are; the password is HMAC-SHA1 of that under the secret that the TURN server has, too.
Nobody has to store them.
"""

import base64
import hmac
import re
from datetime import datetime, timedelta
from typing import Final

from greenroom.api.schemas import IceServer

_STUN: Final = re.compile(r"stuns?:[A-Za-z0-9.:\[\]-]+")
_TURN: Final = re.compile(r"turns?:[A-Za-z0-9.:\[\]-]+(\?transport=(udp|tcp))?")


class IceServers:
    """What browsers are told.

    Args:
        stun: URLs of STUN servers.
        turn: URLs of TURN servers.
        secret: which these share with us; needed if there are any.
        lifetime: for how long credentials let a browser begin to use them.

    Raises:
        ValueError: a URL isn't one, or the secret is missing.
    """

    def __init__(self, stun: tuple[str, ...], turn: tuple[str, ...], secret: str, lifetime: timedelta) -> None:
        _check("GREENROOM_ICE_SERVERS", stun, _STUN, "stun:HOST:PORT; TURN servers are in GREENROOM_TURN_URLS")
        _check("GREENROOM_TURN_URLS", turn, _TURN, "turn:HOST:PORT?transport=udp")
        if turn and not secret:
            raise ValueError("GREENROOM_TURN_URLS needs GREENROOM_TURN_SECRET, the static-auth-secret of the servers")
        self._stun = stun
        self._turn = turn
        self._secret = secret.encode()
        self._lifetime = lifetime

    def for_user(self, user: str, now: datetime) -> tuple[IceServer, ...]:
        """Return the servers, with credentials of `user` that are good from `now` on."""
        servers: list[IceServer] = []
        if self._stun:
            servers.append(IceServer(urls=self._stun))
        if self._turn:
            username = f"{round((now + self._lifetime).timestamp())}:{user}"
            digest = hmac.digest(self._secret, username.encode(), "sha1")
            credential = base64.b64encode(digest).decode()
            servers.append(IceServer(urls=self._turn, username=username, credential=credential))
        return tuple(servers)


def _check(variable: str, urls: tuple[str, ...], form: re.Pattern[str], expected: str) -> None:
    for url in urls:
        if not form.fullmatch(url):
            raise ValueError(f"{variable} has {url!r} (expected: {expected})")
