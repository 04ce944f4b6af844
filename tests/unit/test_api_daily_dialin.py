"""Daily's dial-in webhooks: which are genuine, and which agent answers."""

import base64
import hashlib
import hmac
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.api.body import decode
from greenroom.api.numbers import Answering, answering, find
from greenroom.api.settings import ApiSettings
from greenroom.api.transports import daily_options
from greenroom.api.transports.base import TransportUnavailable
from greenroom.api.transports.daily_dialin import Dialin, DialinCall, DialinWebhook, NumberNotAnswered
from greenroom.api.transports.daily_signature import REPLAY_WINDOW, WebhookRefused
from greenroom.common import settings
from greenroom.common.clock import SystemClock
from greenroom.common.errors import InvalidBody, SettingsInvalid

SECRET = base64.b64encode(b"a secret of thirty-two bytes ...").decode()
OTHER = base64.b64encode(b"another secret").decode()
CALL: dict[str, Any] = {"To": "+15550100", "From": "+15550101", "callId": "c-1", "callDomain": "d-1"}
NUMBERS = ("+1 (555) 01-00=acme/desk", "*=default/frontdesk")


def _sign(secret: str, timestamp: str, raw: bytes) -> str:
    """Sign as Daily documents it, written out anew."""
    message = timestamp + "." + raw.decode()
    return base64.b64encode(hmac.new(base64.b64decode(secret), message.encode(), hashlib.sha256).digest()).decode()


def _now(offset_s: float = 0.0, *, unit: int = 1) -> str:
    return str(int((SystemClock().now().timestamp() + offset_s) * unit))


def _call(
    body: dict[str, Any],
    *,
    timestamp: str | None = None,
    signature: str | None = None,
    secrets: tuple[str, ...] = (SECRET,),
    numbers: tuple[str, ...] = NUMBERS,
) -> DialinCall | None:
    raw = msgspec.json.encode(body)
    timestamp = timestamp or _now()
    signature = _sign(SECRET, timestamp, raw) if signature is None else signature
    return Dialin(secrets, numbers).call(decode(raw, DialinWebhook), raw, timestamp, signature)


def test_a_call_is_a_request_for_a_session_of_who_answers() -> None:
    """The number decides on tenant and agent; the call's id is the request's key; numbers are in the options alone."""
    call = _call({**CALL, "sipHeaders": {"x-ref": "7"}, "aNewField": 1})
    assert call is not None
    wish = call.wish
    assert (call.tenant, wish.agent, wish.transport) == ("acme", "desk", "daily")
    assert (wish.carrier, wish.number) == ("daily", "+15550100")
    assert "c-1" in call.key
    dialin = daily_options.read(wish.transport_options).dialin
    assert dialin is not None
    assert (dialin.call_id, dialin.call_domain, dialin.to, dialin.from_) == ("c-1", "d-1", "+15550100", "+15550101")
    assert dialin.sip_headers == {"x-ref": "7"}
    assert (wish.body, wish.metadata) == ({}, {})


def test_another_number_is_answered_by_who_answers_all() -> None:
    """Also a call by SIP, which has none."""
    for body in ({**CALL, "To": "+15559999"}, {name: value for name, value in CALL.items() if name != "To"}):
        call = _call(body)
        assert call is not None
        assert (call.tenant, call.wish.agent) == ("default", "frontdesk")


def test_a_number_that_nobody_answers_is_told() -> None:
    """No session is made for it."""
    with pytest.raises(NumberNotAnswered):
        _call(CALL, numbers=("+15550199=acme/desk",))


@pytest.mark.parametrize("body", [{"Test": "test"}, {"test": "test"}, {"To": "+15550100"}, {}])
def test_daily_may_look_whether_somebody_answers(body: dict[str, Any]) -> None:
    """A body without a call is answered, with a signature or without, and nothing is done."""
    assert _call(body, signature="") is None
    assert _call(body, secrets=()) is None


@pytest.mark.parametrize("unit", [1, 1000])
@pytest.mark.parametrize("offset_s", [-290.0, 0.0, 290.0])
def test_a_genuine_webhook_is_taken_within_five_minutes(unit: int, offset_s: float) -> None:
    """Its time is in seconds or in milliseconds."""
    assert _call(CALL, timestamp=_now(offset_s, unit=unit)) is not None


@pytest.mark.parametrize("unit", [1, 1000])
@pytest.mark.parametrize("offset_s", [-310.0, 310.0])
def test_a_webhook_of_another_time_is_refused(unit: int, offset_s: float) -> None:
    """Whoever has caught one can't send it again later, or keep one for later."""
    assert abs(offset_s) > REPLAY_WINDOW.total_seconds()
    with pytest.raises(WebhookRefused):
        _call(CALL, timestamp=_now(offset_s, unit=unit))


@pytest.mark.parametrize("timestamp", ["", "now", "-1", "1.5", "٣", "9" * 16, "1" * 400])
def test_a_webhook_without_a_time_is_refused(timestamp: str) -> None:
    """Whatever stands in its place."""
    raw = msgspec.json.encode(CALL)
    with pytest.raises(WebhookRefused):
        Dialin((SECRET,), NUMBERS).call(decode(raw, DialinWebhook), raw, timestamp, _sign(SECRET, timestamp, raw))


def test_a_secret_may_be_changed_without_a_gap() -> None:
    """Several secrets are taken at a time, and each number may have its own."""
    raw, timestamp = msgspec.json.encode(CALL), _now()
    for secret in (SECRET, OTHER):
        assert _call(CALL, timestamp=timestamp, signature=_sign(secret, timestamp, raw), secrets=(SECRET, OTHER))
    with pytest.raises(WebhookRefused):
        _call(CALL, timestamp=timestamp, signature=_sign(OTHER, timestamp, raw))


def test_without_secrets_no_call_is_taken() -> None:
    """What can't be told from a forgery is one."""
    with pytest.raises(TransportUnavailable):
        _call(CALL, secrets=())


@given(st.text(max_size=60), st.text(max_size=20))
def test_no_other_signature_is_taken(signature: str, call_id: str) -> None:
    """Neither a wrong one, nor the right one of another body."""
    raw, timestamp = msgspec.json.encode(CALL), _now()
    right = _sign(SECRET, timestamp, raw)
    dialin = Dialin((SECRET,), NUMBERS)
    webhook = decode(raw, DialinWebhook)
    if signature != right:
        with pytest.raises(WebhookRefused):
            dialin.call(webhook, raw, timestamp, signature)
    with pytest.raises(WebhookRefused):
        dialin.call(webhook, raw + call_id.encode(errors="replace") + b" ", timestamp, right)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({**CALL, "callId": ""}, "/callId"),
        ({**CALL, "callId": "a b"}, "/callId"),
        ({**CALL, "From": "x\ny"}, "/From"),
        ({**CALL, "sipHeaders": {"a": 1}}, "/sipHeaders"),
        ({**CALL, "callDomain": None}, "/callDomain"),
    ],
)
def test_a_call_that_lacks_something_is_refused_where(body: dict[str, Any], pointer: str) -> None:
    """With a pointer to it."""
    with pytest.raises(InvalidBody) as refused:
        _call(body)
    assert refused.value.errors[0].pointer.startswith(pointer)


def test_numbers_are_compared_as_people_write_them() -> None:
    """Spaces, brackets and dashes don't matter; the exact one counts before all others."""
    numbers = answering(("+49 30 1234=a/one", "*=b/two", "sip:desk@example.org=c/three"))
    assert find(numbers, "+49 (30) 12-34") == Answering(tenant="a", agent="one")
    assert find(numbers, "sip:desk@example.org") == Answering(tenant="c", agent="three")
    assert find(numbers, "+4930999") == find(numbers, None) == Answering(tenant="b", agent="two")
    assert find({}, "+4930999") is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GREENROOM_DAILY_NUMBERS", "+15550100"),
        ("GREENROOM_DAILY_NUMBERS", "+15550100=acme"),
        ("GREENROOM_DAILY_NUMBERS", "=acme/desk"),
        ("GREENROOM_DAILY_NUMBERS", "+15550100=a/b,+1 555 0100=c/d"),
        ("GREENROOM_DAILY_DIALIN_SECRETS", "not base64!"),
        ("GREENROOM_DAILY_WEBHOOK_SECRETS", "not base64!"),
        ("LIVEKIT_URL", "wss://livekit.example"),
        ("LIVEKIT_URL", "livekit.example"),
    ],
)
def test_settings_that_cant_be_are_told_at_the_start(variable: str, value: str) -> None:
    """The service doesn't start, and names the variable."""
    with pytest.raises(SettingsInvalid, match=variable):
        settings.load(ApiSettings, {"DATABASE_URL": "postgresql://x/y", variable: value})
