"""Secrets of webhook endpoints as they lie in the database: encrypted by a key of the tenant, where it has one.

    plain:      whsec_<base64>
    encrypted:  enc1:<base64 of an envelope>         (envelope.py; bound to the tenant and to the endpoint)

Both can be read at any time, so keys may be set up later: what lies plain is encrypted by the recorder within a minute.
A key is named in what it has encrypted; a newer one takes what comes then, and the old one has to stay.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Final, Self

import msgspec
import structlog

from greenroom.common.envelope import SEGMENT_BYTES, Keys, Opened, RecordingKeyMissing, RecordingTampered, encrypt
from greenroom.common.errors import GreenroomError
from greenroom.common.settings import Env
from greenroom.common.tenant_keys import WEBHOOKS, open_keys

_log = structlog.get_logger()

ENCRYPTED: Final = "enc1:"

# Settings of all who have to know. (Plain aliases: settings are read by their types.)
WebhookKeysDir = Annotated[
    str | None,
    Env(help="Folder of keys that secrets of webhooks are encrypted with, {tenant}.{number}.key; unset: they aren't"),
]
WebhookKeys = Annotated[
    tuple[str, ...],
    Env(help="Keys for those that are in the environment, beside or instead of the folder, like acme.1=env:ACME_KEY"),
]


class WebhookKeyMissing(GreenroomError):
    """The key that a tenant's webhook secrets are encrypted with isn't there, or is no key.

    Keys are files `{tenant}.{number}.key` in GREENROOM_WEBHOOK_KEYS_DIR, or variables that GREENROOM_WEBHOOK_KEYS
    refers to, with 32 bytes in base64 (`openssl rand -base64 32`), the same for the api and the recorder. Deliveries
    wait for a day; secrets whose key is gone for good have to be rotated.
    """

    code = "webhook-key-missing"
    status = 503
    title = "A key for secrets of webhooks is missing"
    retryable = True


class WebhookSecretUnreadable(GreenroomError):
    """A stored webhook secret isn't what was encrypted, or is another endpoint's. Rotate it, or restore the row."""

    code = "webhook-secret-unreadable"
    status = 500
    title = "The secret of a webhook can't be read"


class WebhookSecrets:
    """Encrypts and decrypts secrets. What it does reads small files: a few in each call.

    Args:
        keys: of the tenants; None: nothing is encrypted.
    """

    def __init__(self, keys: Keys | None) -> None:
        self._keys = keys

    @classmethod
    def of(
        cls, keys_dir: str | None, references: Iterable[str] = (), env: Mapping[str, str] = MappingProxyType({})
    ) -> Self:
        """Return it by its settings; that there are no keys is said, once.

        Args:
            keys_dir: where files of keys are, if anywhere.
            references: keys that are in the environment.
            env: the environment.

        Raises:
            SettingsInvalid: a variable isn't there, or holds no key; its value isn't shown.
        """
        keys = open_keys(keys_dir or None, references, env, setting=WEBHOOKS)
        if keys is None:
            _log.info("webhook_secrets_not_encrypted", settings=f"{WEBHOOKS}_DIR, {WEBHOOKS}")
        return cls(keys)

    @property
    def encrypts(self) -> bool:
        """Whether there are keys at all."""
        return self._keys is not None

    def seal(self, tenant: str, endpoint_id: str, secret: str) -> str:
        """Return a secret as it is to be kept; itself where the tenant has no key, or it is encrypted already.

        Raises:
            WebhookKeyMissing: the folder isn't there, or a key in it is none.
        """
        if self._keys is None or not secret or secret.startswith(ENCRYPTED):
            return secret
        try:
            key = self._keys.newest(tenant)
        except RecordingKeyMissing as error:
            raise WebhookKeyMissing(error.detail) from error
        if key is None:
            return secret
        text = secret.encode()
        sealed = b"".join(encrypt([text], size=len(text), key=key, context=_context(tenant, endpoint_id)))
        return ENCRYPTED + base64.b64encode(sealed).decode()

    def open(self, tenant: str, endpoint_id: str, kept: str) -> str:
        """Return a secret from what is kept.

        Raises:
            WebhookKeyMissing: its key isn't there.
            WebhookSecretUnreadable: it isn't what was kept.
        """
        if not kept.startswith(ENCRYPTED):
            return kept
        if self._keys is None:
            raise WebhookKeyMissing(f"Neither {WEBHOOKS}_DIR nor {WEBHOOKS} is set.")
        try:
            sealed = base64.b64decode(kept.removeprefix(ENCRYPTED), validate=True)
            opened = Opened(sealed, self._keys, tenant=tenant, context=_context(tenant, endpoint_id))
            if opened.size > SEGMENT_BYTES:
                raise WebhookSecretUnreadable("It is too long.")
            _, start, stop = opened.segments(0, max(opened.size, 1))
            return opened.decrypt(0, sealed[start:stop]).decode()
        except RecordingKeyMissing as error:
            raise WebhookKeyMissing(error.detail) from error
        except (RecordingTampered, binascii.Error, UnicodeDecodeError) as error:
            raise WebhookSecretUnreadable(f"{type(error).__name__}.") from error


def _context(tenant: str, endpoint_id: str) -> bytes:
    """Return what a secret's key is bound to: another endpoint's doesn't open."""
    return msgspec.json.encode(["greenroom.webhook", tenant, endpoint_id])
