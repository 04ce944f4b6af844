"""Signatures of webhooks, as Standard Webhooks has them."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.recorder.webhooks import signing
from tests.support.webhook_world import SECRET, Hook


def test_the_known_vector() -> None:
    """The example that the specification's own libraries are tested with is signed as they sign it."""
    headers = signing.headers(
        [SECRET], message_id="msg_p5jXN8AQM9LWM0D4loKWxJek", timestamp=1614265330, body=b'{"test": 2432232314}'
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@given(keys=st.lists(st.binary(min_size=24, max_size=64), min_size=1, max_size=3, unique=True), body=st.binary())
def test_every_secret_signs(keys: list[bytes], body: bytes) -> None:
    """A receiver with any of the secrets accepts it; one with another secret, or another body, doesn't."""
    secrets = [f"whsec_{base64.b64encode(key).decode()}" for key in keys]
    hook = Hook("/", signing.headers(secrets, message_id="msg_1", timestamp=1, body=body), body)
    assert all(hook.signed_by(secret) for secret in secrets)
    assert not hook.signed_by(f"whsec_{base64.b64encode(b'other').decode()}")
    assert not any(Hook("/", hook.headers, body + b"x").signed_by(secret) for secret in secrets)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_***", "whsec_abc"])
def test_what_is_no_secret_signs_nothing(secret: str) -> None:
    """An empty key, or one that can't be read, is an error and never a signature."""
    with pytest.raises(ValueError, match="secret"):
        signing.headers([secret], message_id="msg_1", timestamp=1, body=b"")
