"""What is written about the api is true of it."""

import re

import pytest

from greenroom.api import closes
from greenroom.api.openapi import render
from greenroom.api.settings import ApiSettings
from greenroom.common.errors import SettingsInvalid
from greenroom.common.settings import describe, load
from tests.support.workspace import ROOT

DOCS = ROOT / "docs"


def test_the_openapi_document_is_up_to_date() -> None:
    """docs/openapi.json is what the routes say; `python -m greenroom.api.openapi docs/openapi.json` writes it."""
    assert (DOCS / "openapi.json").read_bytes() == render()


def test_every_close_code_is_explained() -> None:
    """docs/api.md has a row for each code that the edge closes with."""
    text = (DOCS / "api.md").read_text()
    codes = {value for name, value in vars(closes).items() if name.isupper() and isinstance(value, int)}
    assert codes <= {int(code) for code in re.findall(r"^\| (\d{4}) \|", text, re.MULTILINE)}


def test_every_setting_is_described() -> None:
    """Each setting says in a sentence what it is for."""
    assert [row.env for row in describe(ApiSettings) if not row.help] == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GREENROOM_ALLOWED_ORIGINS", "*"),
        ("GREENROOM_ALLOWED_ORIGINS", "https://*.example.org"),
        ("GREENROOM_ALLOWED_ORIGINS", "https://app.example.org/"),
        ("GREENROOM_ALLOWED_ORIGINS", "app.example.org"),
        ("GREENROOM_PUBLIC_URL", "voice.example.org"),
        ("GREENROOM_API_PORT", "70000"),
        ("GREENROOM_MEDIA_MAX_FRAME_BYTES", "1000000"),
    ],
)
def test_a_setting_that_can_not_be_meant_is_refused(name: str, value: str) -> None:
    """Above all no wildcard for origins."""
    with pytest.raises(SettingsInvalid) as refused:
        load(ApiSettings, {"DATABASE_URL": "postgresql://x", name: value})
    assert name in refused.value.detail
