"""Buckets for recordings: S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage.

`s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix` says where; credentials, region and
endpoint come from the environment under the names that each provider's own tools read (`AWS_ACCESS_KEY_ID`,
`GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_ACCOUNT_NAME`, …). Whoever imports this needs the extra `recordings`.
"""

from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store, from_url

from greenroom.common.errors import GreenroomError, SettingsInvalid

type ObjectStore = S3Store | GCSStore | AzureStore

SCHEMES: Final = ("s3", "gs", "az")
# Whoever waits for an answer tries again himself, and later: a storage that is away must not hold others up for long.
_RETRIES: Final = 3
_RETRY_FOR: Final = timedelta(seconds=20)


class StorageUnavailable(GreenroomError):
    """The bucket of recordings doesn't do what it is asked, or can't be reached; nothing is lost, it is tried again.

    The audio of sessions that end meanwhile stays in the recorder's folder. The log has what the storage said: look at
    GREENROOM_RECORDINGS_URL, at the credentials in the environment and at what they may do (get, put, list, delete).
    """

    code = "storage-unavailable"
    status = 503
    title = "The storage of recordings can't be used"
    retryable = True
    default_retry_after_s = 5.0


def open_bucket(url: str) -> ObjectStore:
    """Return the bucket that `url` names; nothing is asked of it yet.

    Raises:
        SettingsInvalid: it names none.
    """
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or not parts.netloc or "@" in parts.netloc or parts.query:
        wanted = "s3://bucket/prefix, gs://bucket/prefix or az://container/prefix, without credentials"
        raise SettingsInvalid(f"GREENROOM_RECORDINGS_URL isn't one of {wanted}")
    try:
        store = from_url(url, retry_config={"max_retries": _RETRIES, "retry_timeout": _RETRY_FOR})
    except (BaseError, ValueError) as error:
        raise SettingsInvalid(f"GREENROOM_RECORDINGS_URL: {type(error).__name__}") from error
    if not isinstance(store, S3Store | GCSStore | AzureStore):
        raise SettingsInvalid(f"GREENROOM_RECORDINGS_URL: {parts.scheme} isn't supported")
    return store


async def signed_link(store: ObjectStore, path: str, *, lifetime_s: float) -> str:
    """Return a URL from which anybody may fetch `path` for `lifetime_s` seconds.

    Raises:
        StorageUnavailable: there are no credentials that could sign one.
    """
    try:
        return await obstore.sign_async(store, "GET", path, timedelta(seconds=lifetime_s))
    except BaseError as error:
        raise StorageUnavailable(f"No link: {type(error).__name__}.") from error
