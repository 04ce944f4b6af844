"""Daily's webhooks of events: which are genuine, what they say, and which rooms an agent goes to."""

import base64
import json
import re
import time
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.api.body import decode
from greenroom.api.daily_rooms import DailyRooms, DailyRoomsWish, going
from greenroom.api.transports import daily_options
from greenroom.api.transports.base import TransportUnavailable
from greenroom.api.transports.daily_events import DailyEvent, Joined, MeetingEnded, read
from greenroom.api.transports.daily_signature import Signatures, WebhookRefused
from greenroom.common.clock import utcnow
from greenroom.common.errors import InvalidBody
from tests.support.daily_webhooks import SECRET, ended, joined, signature, started

OTHER: Final = base64.b64encode(b"another secret").decode()


def _event(body: dict[str, Any]) -> DailyEvent:
    return decode(json.dumps(body).encode(), DailyEvent)


# ---------------------------------------------------------------------------- signatures


@pytest.mark.parametrize("unit", [1, 1000])
def test_what_daily_has_signed_is_taken(unit: int) -> None:
    """By any of the secrets, in seconds or milliseconds."""
    raw, timestamp = json.dumps(joined("sales-1")), str(int(time.time() * unit))
    for secret in (SECRET, OTHER):
        Signatures((SECRET, OTHER), "X").check(raw.encode(), timestamp, signature(secret, timestamp, raw))


@pytest.mark.parametrize("change", ["secret", "body", "time", "none", "old", "ahead"])
def test_what_it_hasnt_is_refused(change: str) -> None:
    """Nor is what was caught and is sent again later."""
    offset_s = {"old": -310, "ahead": 310}.get(change, 0)
    raw, timestamp = json.dumps(joined("sales-1")), str(int((time.time() + offset_s) * 1000))
    signed = signature(OTHER if change == "secret" else SECRET, timestamp, raw)
    raw = raw.replace("sales-1", "sales-2") if change == "body" else raw
    timestamp = str(int(timestamp) + 1) if change == "time" else timestamp
    with pytest.raises(WebhookRefused):
        Signatures((SECRET,), "X").check(raw.encode(), timestamp, None if change == "none" else signed)


def test_without_secrets_nothing_is_taken() -> None:
    """And the setting is named."""
    with pytest.raises(TransportUnavailable, match="GREENROOM_DAILY_WEBHOOK_SECRETS"):
        Signatures((), "GREENROOM_DAILY_WEBHOOK_SECRETS").check(b"{}", "1", "x")


# ---------------------------------------------------------------------------- what they say


def test_who_comes_where() -> None:
    """As Daily's reference has it; fields that aren't known change nothing."""
    said = read(_event({**joined("sales-1", at=12.5), "new": 1}))
    assert isinstance(said, Joined)
    assert (said.room, said.joined_at, said.ours) == ("sales-1", 12.5, False)


def test_a_meeting_is_over() -> None:
    """With the time of it."""
    assert read(_event(ended("sales-1", at=99.0))) == MeetingEnded(room="sales-1", end_ts=99.0)


def test_a_bot_is_told_by_its_token() -> None:
    """By the user's id that its token says, and no user's token can; a host owns a room as well."""
    token = daily_options.owner_token("sales-1", exp=1)
    said = read(_event(joined("sales-1", token)))
    assert isinstance(said, Joined)
    assert said.ours
    host = read(_event(joined("sales-1", {"is_owner": True, "user_id": "host"})))
    assert isinstance(host, Joined)
    assert not host.ours


@pytest.mark.parametrize("body", [started("a"), joined("gr-0198"), ended("gr-0198"), {"type": "recording.error"}, {}])
def test_of_no_use(body: dict[str, Any]) -> None:
    """Other events, and those of rooms that were made for a session."""
    assert read(_event(body)) is None


@pytest.mark.parametrize(
    ("name", "value"), [("room", None), ("room", "a/b"), ("room", "x" * 129), ("joined_at", "now"), ("joined_at", -1)]
)
def test_what_an_event_lacks_is_told(name: str, value: object) -> None:
    """With a pointer."""
    event = joined("sales-1")
    event["payload"][name] = value
    with pytest.raises(InvalidBody) as refused:
        read(_event(event))
    assert refused.value.errors[0].pointer == f"/payload/{name}"


# ---------------------------------------------------------------------------- patterns


def _goes(*patterns: str, tenant: str = "acme") -> DailyRooms:
    return DailyRooms(tenant=tenant, agent="desk", rooms=patterns, max_sessions=5, body={}, changed_at=utcnow())


@given(st.text("ab-*?", min_size=1, max_size=8), st.text("ab-", max_size=10))
def test_a_pattern_is_of_the_whole_name(pattern: str, room: str) -> None:
    """A star stands for any characters, a question mark for one, all else for itself."""
    right = re.fullmatch("".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in pattern), room)
    assert bool(going([_goes(pattern)], room)) == bool(right)


def test_case_counts_and_each_setting_once() -> None:
    """Several patterns of one setting are one that goes there."""
    both = [_goes("sales-*", "sales-1"), _goes("*", tenant="other")]
    assert going(both, "sales-1") == both
    assert going(both[:1], "Sales-1") == going(both[:1], "sales") == []


def test_no_pattern_takes_long() -> None:
    """One that a matcher which goes back would be at for years."""
    assert going([_goes("*a" * 63 + "*b")], "a" * 128) == []


@pytest.mark.parametrize("rooms", [[], ["a/b"], [""], ["x" * 129], ["a["], ["a\n"], ["a"] * 33])
def test_what_isnt_a_pattern_is_refused(rooms: list[str]) -> None:
    """Brackets among it, and regular expressions."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"rooms": rooms}, DailyRoomsWish)


def test_five_at_once_unless_said_otherwise() -> None:
    """And nothing given to the bot."""
    assert msgspec.convert({"rooms": ["*"]}, DailyRoomsWish) == DailyRoomsWish(rooms=("*",), max_sessions=5, body={})
