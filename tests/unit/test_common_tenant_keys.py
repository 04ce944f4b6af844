"""Keys of tenants that the environment holds, by reference: for recordings and for secrets of webhooks."""

import base64
import os
from pathlib import Path

import pytest

from greenroom.api.settings import ApiSettings
from greenroom.common.envelope import SEGMENT_BYTES, TAG_BYTES, Keys, Opened, RecordingKeyMissing, context_of, encrypt
from greenroom.common.errors import SettingsInvalid
from greenroom.common.settings import load, redacted
from greenroom.common.tenant_keys import open_keys
from greenroom.recorder.settings import RecorderSettings

# The same in all workers: they are in names of tests.
OLD, NEW = bytes(range(32)), bytes(range(32, 64))
ENV = {"ACME_1": base64.b64encode(OLD).decode(), "ACME_2": base64.b64encode(NEW).decode() + "\n", "SHORT": "YWJj"}
SERVICES = (ApiSettings, RecorderSettings)
SETTINGS = ("GREENROOM_RECORDING_KEYS", "GREENROOM_WEBHOOK_KEYS")


def keys(*references: str, folder: Path | None = None, required: bool = False) -> Keys:
    """Return the keys that there are; there must be some."""
    found = open_keys(str(folder) if folder else None, references, ENV, required=required)
    assert found is not None
    return found


def test_the_newest_is_taken_and_older_ones_still_open() -> None:
    """What one key has encrypted is read with it after a newer one has come; another tenant has none of them."""
    context, audio = context_of("acme", "s", None), os.urandom(100_000)
    newest = keys("acme.1=env:ACME_1").newest("acme")
    assert newest is not None
    assert (newest.name, newest.secret) == ("acme.1", OLD)
    file = b"".join(encrypt([audio], size=len(audio), key=newest, context=context))
    both = keys("acme.1=env:ACME_1", "acme.2=env:ACME_2")
    later = both.newest("acme")
    assert later is not None
    assert (later.name, later.secret) == ("acme.2", NEW)
    opened = Opened(file, both, tenant="acme", context=context)
    _, start, stop = opened.segments(0, len(audio))
    first, second = file[start : start + SEGMENT_BYTES + TAG_BYTES], file[start + SEGMENT_BYTES + TAG_BYTES : stop]
    assert opened.decrypt(0, first) + opened.decrypt(1, second) == audio
    assert both.newest("other") is None
    with pytest.raises(RecordingKeyMissing):
        keys("acme.2=env:ACME_2").named("acme", "acme.1")


def test_beside_a_folder(tmp_path: Path) -> None:
    """The highest number of both is the newest; of two of a name the environment's is taken."""
    (tmp_path / "acme.1.key").write_bytes(base64.b64encode(NEW))
    (tmp_path / "acme.3.key").write_bytes(base64.b64encode(NEW))
    both = keys("acme.1=env:ACME_1", "acme.2=env:ACME_2", folder=tmp_path)
    assert both.named("acme", "acme.1").secret == OLD
    assert (both.newest("acme") or both.named("acme", "acme.1")).name == "acme.3"


def test_nothing_said_is_no_encryption_unless_it_is_required() -> None:
    """Without folder and references nothing is encrypted; where keys are required, recordings wait for one."""
    assert open_keys(None, (), ENV) is None
    with pytest.raises(RecordingKeyMissing):
        keys(required=True).newest("acme")


@pytest.mark.parametrize(
    ("reference", "says"),
    [("acme.1=env:NOT_THERE", "NOT_THERE of acme.1 isn't set"), ("acme.1=env:SHORT", "SHORT holds no key")],
)
def test_a_variable_without_a_key_stops_the_start(reference: str, says: str) -> None:
    """It is said which variable, and never what it holds."""
    with pytest.raises(SettingsInvalid, match=says) as caught:
        open_keys(None, [reference], ENV)
    assert "YWJj" not in str(caught.value)


@pytest.mark.parametrize("settings", SERVICES)
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(
    "value", [ENV["ACME_1"], f"acme.1={ENV['ACME_1']}", "acme=env:A", "acme.x=env:A", "a.1=env:A,a.1=env:B"]
)
def test_what_is_no_reference_is_refused(settings: type[RecorderSettings | ApiSettings], name: str, value: str) -> None:
    """A key in the place of a reference isn't repeated in the error."""
    env = {"DATABASE_URL": "postgresql://localhost/x", name: value}
    with pytest.raises(SettingsInvalid, match=name) as caught:
        load(settings, env)
    assert ENV["ACME_1"].rstrip("=") not in str(caught.value)


@pytest.mark.parametrize("settings", SERVICES)
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_show_the_reference_alone(settings: type[RecorderSettings | ApiSettings], name: str) -> None:
    """The setting may be shown: it says where the key is, not what it is."""
    env = {"DATABASE_URL": "postgresql://localhost/x", name: "acme.1=env:ACME_1", **ENV}
    shown = redacted(load(settings, env))
    assert shown[name.removeprefix("GREENROOM_").lower()] == ("acme.1=env:ACME_1",)
    assert ENV["ACME_1"] not in repr(shown)
