"""Signatures of carriers' webhooks: by examples of theirs, and whatever is changed."""

import base64
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from greenroom.api.carriers import signatures
from greenroom.api.carriers.base import Webhook, WebhookReplayed, WebhookUnsigned
from tests.support.carriers.exchange import CARRIERS, dialect_of

NOW = datetime(2026, 5, 14, 10, tzinfo=UTC)
URL = "https://voice.example.org/v1/webhooks/any/answer?a=1"
_NAMES = st.text(alphabet="ABCdef_", min_size=1, max_size=6)
_VALUES = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=0x24F), max_size=12)
_FORMS = st.dictionaries(_NAMES, _VALUES, max_size=6)


def test_twilios_own_example() -> None:
    """What its documentation signs by hand, we sign the same."""
    form = {
        "CallSid": "CA1234567890ABCDE",
        "Caller": "+12349013030",
        "Digits": "1234",
        "From": "+12349013030",
        "To": "+18005551212",
    }
    url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    assert signatures.twilio("12345", url, form) == "0/KCTR6DLpKmkAf8muzZqo1nDgQ="


@given(form=_FORMS)
def test_what_a_carrier_signs_is_taken_and_what_is_changed_is_not(form: dict[str, str]) -> None:
    """For Twilio and Plivo, which sign the form: any field more is no longer theirs."""
    for name in ("twilio", "plivo"):
        headers = {key.lower(): value for key, value in dialect_of(name).sign("POST", URL, form).items()}
        check = {"twilio": signatures.check_twilio, "plivo": signatures.check_plivo}[name]
        token = f"{name}-auth-token"
        check(token, Webhook(method="POST", url=URL, headers=headers, form=form))
        for changed in (
            Webhook(method="POST", url=URL, headers=headers, form={**form, "zzz": "1"}),
            Webhook(method="POST", url=URL + "&b=2", headers=headers, form=form),
            Webhook(method="POST", url=URL, headers={}, form=form),
        ):
            with pytest.raises(WebhookUnsigned):
                check(token, changed)
        with pytest.raises(WebhookUnsigned):
            check("another-token", Webhook(method="POST", url=URL, headers=headers, form=form))


@given(path=st.text(alphabet="abc/-", max_size=10))
def test_vobiz_signs_the_address_without_its_query(path: str) -> None:
    """Another path is refused; the query isn't signed."""
    url = f"https://voice.example.org/{path}"
    headers = {key.lower(): value for key, value in dialect_of("vobiz").sign("POST", url, {}).items()}
    assert signatures.check_vobiz("vobiz-auth-token", Webhook(method="POST", url=f"{url}?b=2", headers=headers))
    with pytest.raises(WebhookUnsigned):
        signatures.check_vobiz("vobiz-auth-token", Webhook(method="POST", url=f"{url}x", headers=headers))


@pytest.mark.parametrize("age_s", [-301, 301, 100_000])
def test_telnyx_signatures_get_old(age_s: int) -> None:
    """What was signed more than five minutes ago, or will be, is refused although it is theirs."""
    signer = Ed25519PrivateKey.generate()
    public = base64.b64encode(signer.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
    timestamp = str(int((NOW - timedelta(seconds=age_s)).timestamp()))
    signature = base64.b64encode(signer.sign(f"{timestamp}|a=1".encode())).decode()
    headers = {"telnyx-timestamp": timestamp, "telnyx-signature-ed25519": signature}
    webhook = Webhook(method="POST", url=URL, headers=headers, body=b"a=1")
    with pytest.raises(WebhookReplayed):
        signatures.check_telnyx(public, webhook, NOW)
    signatures.check_telnyx(public, webhook, NOW - timedelta(seconds=age_s))
    with pytest.raises(WebhookUnsigned):
        signatures.check_telnyx(public, Webhook(method="POST", url=URL, headers=headers, body=b"a=2"), NOW)


def test_exotels_token_comes_either_way() -> None:
    """As a password, or in the query; a wrong one in the header isn't saved by a right one in the query."""
    right = base64.b64encode(b"anybody:t0ken").decode()
    wrong = base64.b64encode(b"anybody:other").decode()
    signatures.check_token("t0ken", Webhook(method="GET", url=URL, headers={"authorization": f"Basic {right}"}))
    signatures.check_token("t0ken", Webhook(method="GET", url=URL, headers={}, query={"token": "t0ken"}))
    for headers in ({"authorization": f"Basic {wrong}"}, {"authorization": "Basic !"}):
        with pytest.raises(WebhookUnsigned):
            signatures.check_token("t0ken", Webhook(method="GET", url=URL, headers=headers, query={"token": "t0ken"}))
    with pytest.raises(WebhookUnsigned):
        signatures.check_token("t0ken", Webhook(method="GET", url=URL, headers={}))


@pytest.mark.parametrize("name", CARRIERS)
def test_headers_of_anything_but_text_are_no_signature(name: str) -> None:
    """Whatever is sent in place of a signature is refused, and breaks nothing."""
    keys = {key.lower() for key in dialect_of(name).sign("POST", URL, {})}
    for junk in ("é", "=", "A" * 10_000, "\x00", ",,,"):
        webhook = Webhook(method="POST", url=URL, headers=dict.fromkeys(keys, junk))
        with pytest.raises(WebhookUnsigned):
            _check(name, webhook)


def _check(name: str, webhook: Webhook) -> None:
    match name:
        case "twilio":
            signatures.check_twilio("t", webhook)
        case "telnyx":
            signatures.check_telnyx("AAAA", webhook, NOW)
        case "plivo":
            signatures.check_plivo("t", webhook)
        case "vobiz":
            signatures.check_vobiz("t", webhook)
        case _:
            signatures.check_token("t", webhook)
