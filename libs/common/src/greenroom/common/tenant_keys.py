"""Where keys of tenants come from: a folder, and variables of the environment that a setting refers to.

`GREENROOM_RECORDING_KEYS=acme.1=env:ACME_KEY_1,acme.2=env:ACME_KEY_2` says that the key `acme.2` is what the variable
ACME_KEY_2 holds, 32 bytes in base64. The setting itself holds no secret, so it may be shown. What it refers to is read
once, at the start: a variable that isn't there, or holds no key, stops the service then and not at the next recording.
Keys of webhooks' secrets are referred to in the same way, by GREENROOM_WEBHOOK_KEYS.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from greenroom.common.envelope import Keys, RecordingKeyMissing, TenantKey, tenant_key
from greenroom.common.errors import SettingsInvalid

RECORDINGS: Final = "GREENROOM_RECORDING_KEYS"
WEBHOOKS: Final = "GREENROOM_WEBHOOK_KEYS"
_REFERENCE: Final = re.compile(r"(?P<name>[^.=\s]+\.[0-9]+)=env:(?P<variable>[A-Za-z_][A-Za-z0-9_]*)")


def parse_references(references: Iterable[str], setting: str = RECORDINGS) -> dict[str, str]:
    """Return the variables that keys are in, by the names of the keys.

    Raises:
        ValueError: one of them isn't `tenant.number=env:NAME`, or a key is named twice.
    """
    found: dict[str, str] = {}
    for reference in references:
        match = _REFERENCE.fullmatch(reference)
        if match is None:
            # Somebody may have put the key itself there: it isn't repeated.
            raise ValueError(f"{setting}: each is like acme.1=env:ACME_KEY, the key itself is in the variable")
        if match["name"] in found:
            raise ValueError(f"{setting}: {match['name']} is there twice")
        found[match["name"]] = match["variable"]
    return found


def open_keys(
    folder: str | None,
    references: Iterable[str],
    env: Mapping[str, str],
    *,
    required: bool = False,
    setting: str = RECORDINGS,
) -> Keys | None:
    """Return the keys that the settings say there are; None: nothing is encrypted.

    Args:
        folder: where files of keys are, if anywhere.
        references: keys that are in the environment.
        env: the environment.
        required: whether a tenant without a key is an error.
        setting: what the references are of.

    Raises:
        SettingsInvalid: a variable isn't there, or holds no key; its value isn't shown.
    """
    held: dict[str, TenantKey] = {}
    for name, variable in parse_references(references, setting).items():
        value = env.get(variable, "")
        if not value.strip():
            raise SettingsInvalid(f"{setting}: the variable {variable} of {name} isn't set")
        try:
            held[name] = tenant_key(name, value.encode())
        except RecordingKeyMissing as error:
            raise SettingsInvalid(f"{setting}: {variable} holds no key: {error.detail}") from None
    if folder is None and not held and not required:
        return None
    return Keys(Path(folder).absolute() if folder is not None else None, required=required, held=held)
