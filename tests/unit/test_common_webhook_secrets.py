"""Secrets of webhooks as they are kept."""

import base64
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from greenroom.common.errors import SettingsInvalid
from greenroom.common.webhook_secrets import ENCRYPTED, WebhookKeyMissing, WebhookSecrets, WebhookSecretUnreadable

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def add_key(folder: Path, name: str) -> None:
    """Make a key."""
    (folder / f"{name}.key").write_bytes(base64.b64encode(os.urandom(32)))


@pytest.fixture
def secrets(tmp_path: Path) -> WebhookSecrets:
    """Secrets of a tenant that has a key, and of others that have none."""
    add_key(tmp_path, "t.1")
    return WebhookSecrets.of(str(tmp_path))


@given(secret=st.text(min_size=1, max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
def test_what_is_sealed_opens(secrets: WebhookSecrets, secret: str) -> None:
    """To the same, whatever it is; each time it is kept otherwise, and nothing of it can be read there."""
    if secret.startswith(ENCRYPTED):
        return
    one, other = (secrets.seal("t", "e", secret) for _ in range(2))
    assert one != other
    assert one.startswith(ENCRYPTED)
    assert secrets.open("t", "e", one) == secrets.open("t", "e", other) == secret
    assert secrets.seal("t", "e", one) == one


def test_without_a_key_it_stays_as_it_is(secrets: WebhookSecrets) -> None:
    """Where there are none at all, and of a tenant that has none; what lies plain is read with keys too."""
    assert WebhookSecrets.of(None).seal("t", "e", SECRET) == SECRET
    assert secrets.seal("u", "e", SECRET) == SECRET
    assert secrets.open("t", "e", SECRET) == SECRET


def test_it_opens_where_it_belongs_only(secrets: WebhookSecrets, tmp_path: Path) -> None:
    """Not for another endpoint, not for another tenant, and not when a byte was changed or is missing."""
    add_key(tmp_path, "u.1")
    kept = secrets.seal("t", "e", SECRET)
    changed = base64.b64decode(kept.removeprefix(ENCRYPTED))
    for broken in (changed[:-1], changed[:-1] + bytes([changed[-1] ^ 1]), changed[:4], b""):
        with pytest.raises(WebhookSecretUnreadable):
            secrets.open("t", "e", ENCRYPTED + base64.b64encode(broken).decode())
    with pytest.raises(WebhookSecretUnreadable):
        secrets.open("t", "f", kept)
    with pytest.raises(WebhookKeyMissing):
        secrets.open("u", "e", kept)
    with pytest.raises(WebhookSecretUnreadable):
        secrets.open("t", "e", f"{ENCRYPTED}no base64")


def test_keys_may_be_in_the_environment(secrets: WebhookSecrets, tmp_path: Path) -> None:
    """By references, beside the folder or instead of it; a variable that isn't set stops the start."""
    env = {"T_2": base64.b64encode(os.urandom(32)).decode()}
    old = secrets.seal("t", "e", SECRET)
    both = WebhookSecrets.of(str(tmp_path), ["t.2=env:T_2"], env)
    new = both.seal("t", "e", SECRET)
    assert both.open("t", "e", old) == SECRET
    alone = WebhookSecrets.of(None, ["t.2=env:T_2"], env)
    assert alone.encrypts
    assert alone.open("t", "e", new) == SECRET
    with pytest.raises(WebhookKeyMissing):
        alone.open("t", "e", old)
    with pytest.raises(SettingsInvalid, match="GREENROOM_WEBHOOK_KEYS: the variable T_3 "):
        WebhookSecrets.of(None, ["t.3=env:T_3"], env)


def test_keys_change(secrets: WebhookSecrets, tmp_path: Path) -> None:
    """A newer key takes what comes then; what an older one has encrypted opens as long as that is there."""
    old = secrets.seal("t", "e", SECRET)
    add_key(tmp_path, "t.2")
    new = secrets.seal("t", "e", SECRET)
    (tmp_path / "t.1.key").unlink()
    assert secrets.open("t", "e", new) == SECRET
    with pytest.raises(WebhookKeyMissing):
        secrets.open("t", "e", old)
    with pytest.raises(WebhookKeyMissing):
        WebhookSecrets.of(None).open("t", "e", new)
    with pytest.raises(WebhookKeyMissing):
        WebhookSecrets.of(str(tmp_path / "nowhere")).seal("t", "e", SECRET)
