"""What browsers are told of STUN and TURN."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.api.ice import IceServers
from greenroom.api.schemas import IceServer
from greenroom.api.settings import ApiSettings
from greenroom.common.errors import SettingsInvalid
from greenroom.common.settings import load

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
STUN = ("stun:stun.example.org:3478",)
TURN = ("turn:turn.example.org:3478?transport=udp", "turns:turn.example.org:5349?transport=tcp")


def test_a_relay_takes_whom_it_can_recompute() -> None:
    """The password is what coturn computes with its static-auth-secret from the user name, which says until when."""
    stun, turn = IceServers(STUN, TURN, "north", HOUR).for_user("a-session", NOW)
    assert stun == IceServer(urls=STUN)
    # echo -n 1772447400:a-session | openssl dgst -sha1 -hmac north -binary | base64
    assert turn == IceServer(urls=TURN, username="1772447400:a-session", credential="Nqao2ARiRQqoW57dqO34aoKbhhc=")


@given(
    user=st.from_regex(r"[a-f0-9-]{1,36}", fullmatch=True),
    secret=st.text(min_size=1),
    lifetime_s=st.integers(60, 86_400),
)
def test_credentials_fit_their_user_and_expire(user: str, secret: str, lifetime_s: int) -> None:
    """Whoever has the secret finds the password right, and the time in the name is when the lifetime is over."""
    (server,) = IceServers((), TURN, secret, timedelta(seconds=lifetime_s)).for_user(user, NOW)
    assert server.username is not None
    assert server.credential is not None
    until, _, named = server.username.partition(":")
    assert (int(until), named) == (NOW.timestamp() + lifetime_s, user)
    expected = hmac.new(secret.encode(), server.username.encode(), hashlib.sha1).digest()
    assert base64.b64decode(server.credential) == expected


def test_without_servers_there_are_none() -> None:
    """Nothing is set, nothing is told: browsers use their own addresses alone."""
    assert IceServers((), (), "", HOUR).for_user("a-session", NOW) == ()


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("GREENROOM_ICE_SERVERS", "http://stun.example.org", "GREENROOM_ICE_SERVERS has"),
        ("GREENROOM_ICE_SERVERS", "turn:turn.example.org", "GREENROOM_TURN_URLS"),
        ("GREENROOM_TURN_URLS", "turn:turn.example.org?transport=sctp", "GREENROOM_TURN_URLS has"),
        ("GREENROOM_TURN_URLS", "turn:turn.example.org", "needs GREENROOM_TURN_SECRET"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_the_start(variable: str, value: str, told: str) -> None:
    """A URL that browsers would refuse, and a relay without a secret, end the service with the variable's name."""
    with pytest.raises(SettingsInvalid, match=told):
        load(ApiSettings, {"DATABASE_URL": "postgresql://x", variable: value})


def test_the_secret_of_the_relays_is_not_shown() -> None:
    """Logs and messages show the settings without it."""
    env = {"DATABASE_URL": "postgresql://x", "GREENROOM_TURN_URLS": TURN[0], "GREENROOM_TURN_SECRET": "north-by-west"}
    assert "north-by-west" not in repr(load(ApiSettings, env))
