"""Recordings encrypted at rest: any part can be read alone, and nothing can be changed, moved or cut off unseen.

Each file has a data key of its own, at random, which is wrapped by a key of the tenant (AES-256-GCM both times):

    magic (8 bytes) | length of the head (4 bytes, big-endian) | head (JSON) | segment | segment | …

A segment is 64 KiB of audio (the last one less, maybe nothing) and 16 bytes of tag. Its nonce is its number, and a
mark on the last one: a segment that was moved, left out, cut off or added doesn't decrypt. The wrapped key is bound
to whose file it is and how long: a file in another one's place doesn't open. The head names the tenant's key, so that
keys can be changed: new files take the newest one, old files keep theirs.

Keys are files in a folder, `{tenant}.{number}.key`, with 32 bytes in base64, or variables of the environment (see
`greenroom.common.tenant_keys`). The highest number is the newest.
"""

import base64
import binascii
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from greenroom.common.errors import GreenroomError

SEGMENT_BYTES: Final = 64 * 1024
TAG_BYTES: Final = 16
# What must be read of a file to open it.
HEAD_BYTES: Final = 4096
SUFFIX: Final = ".enc"
_MAGIC: Final = b"GRSEAL1\n"
_PREFIX: Final = struct.Struct(">8sI")
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


class RecordingKeyMissing(GreenroomError):
    """The key that a tenant's recordings are encrypted with isn't there, or is no key.

    Keys are files `{tenant}.{number}.key` in GREENROOM_RECORDING_KEYS_DIR with 32 bytes in base64 (`openssl rand
    -base64 32`), or variables that GREENROOM_RECORDING_KEYS refers to. A recording waits to be sealed until its tenant
    has one; what was encrypted with a key that is gone for good can't be read any more.
    """

    code = "recording-key-missing"
    status = 503
    title = "A key for recordings is missing"


class RecordingTampered(GreenroomError):
    """An encrypted recording isn't what was sealed: bytes were changed, moved or cut off, or it is another's file."""

    code = "recording-tampered"
    status = 500
    title = "The recording was changed"


class TenantKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key and the name by which files refer to it. Never shown."""

    name: str
    secret: bytes

    def __repr__(self) -> str:
        """Return the name alone."""
        return f"TenantKey({self.name})"


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    # The nonce it was wrapped under, and the data key.
    wrapped: bytes
    # Of the audio.
    size: int


def tenant_key(name: str, text: bytes) -> TenantKey:
    """Return the key that `text` is in base64.

    Raises:
        RecordingKeyMissing: it is none.
    """
    try:
        secret = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        # Neither the text nor what is wrong with it: it may be most of a key.
        raise RecordingKeyMissing(f"{name} isn't base64.") from None
    if len(secret) != _KEY_BYTES:
        raise RecordingKeyMissing(f"{name} has {len(secret)} bytes, not {_KEY_BYTES}.")
    return TenantKey(name=name, secret=secret)


class Keys:
    """The keys in a folder, and others that are held. Looked for each time: new files need no restart.

    Args:
        folder: where they are; None: nowhere but in `held`.
        required: whether a tenant without a key is an error; else its recordings aren't encrypted.
        held: keys by their names; where a file has the same name, these are taken.
    """

    def __init__(
        self, folder: Path | None, *, required: bool = False, held: Mapping[str, TenantKey] | None = None
    ) -> None:
        self._folder = folder
        self._required = required
        self._held = dict(held or {})

    def newest(self, tenant: str) -> TenantKey | None:
        """Return the key that a tenant's new recordings take; None: they aren't encrypted.

        Raises:
            RecordingKeyMissing: there is none although there must be, or it is no key.
        """
        names = {path.name.removesuffix(".key") for path in self._folder.glob("*.key")} if self._folder else set[str]()
        numbers = [
            int(number)
            for name in names | self._held.keys()
            if name.startswith(f"{tenant}.")
            and (number := name.removeprefix(f"{tenant}.")).isdecimal()
            and number.isascii()
        ]
        if numbers:
            return self.named(tenant, f"{tenant}.{max(numbers)}")
        if self._required or (self._folder is not None and not self._folder.is_dir()):
            raise RecordingKeyMissing(f"Tenant {tenant} has none.")
        return None

    def named(self, tenant: str, name: str) -> TenantKey:
        """Return a tenant's key by its name.

        Raises:
            RecordingKeyMissing: it isn't there, or is no key.
        """
        number = name.removeprefix(f"{tenant}.")
        if not (name.startswith(f"{tenant}.") and number.isascii() and number.isdecimal()):
            raise RecordingKeyMissing(f"{name!r} is no key of tenant {tenant}.")
        if (held := self._held.get(name)) is not None:
            return held
        if self._folder is None:
            raise RecordingKeyMissing(f"{name} isn't there.")
        try:
            text = (self._folder / f"{name}.key").read_bytes()
        except OSError as error:
            raise RecordingKeyMissing(f"{name}: {type(error).__name__}.") from error
        return tenant_key(name, text)


def context_of(tenant: str, session_id: str, track: str | None) -> bytes:
    """Return what a file's key is bound to: whose it is, and which of a recording's files."""
    return msgspec.json.encode(["greenroom.recording", tenant, session_id, track])


def encrypt(blocks: Iterable[bytes], *, size: int, key: TenantKey, context: bytes) -> Iterator[bytes]:
    """Yield an encrypted file.

    Args:
        blocks: the audio, `size` bytes in all, in blocks of any length.
        size: the length.
        key: of the tenant.
        context: see `context_of`.

    Raises:
        ValueError: the blocks have another length.
    """
    data_key, nonce = os.urandom(_KEY_BYTES), os.urandom(_NONCE_BYTES)
    wrapped = nonce + AESGCM(key.secret).encrypt(nonce, data_key, _bound(context, size))
    head = msgspec.json.encode(_Head(key=key.name, wrapped=wrapped, size=size))
    yield _PREFIX.pack(_MAGIC, len(head)) + head
    cipher, last, index, seen = AESGCM(data_key), _segments(size) - 1, 0, 0
    held = bytearray()
    for block in blocks:
        held += block
        seen += len(block)
        while len(held) > SEGMENT_BYTES and index < last:
            yield cipher.encrypt(_nonce(index, last=False), bytes(held[:SEGMENT_BYTES]), None)
            del held[:SEGMENT_BYTES]
            index += 1
    if seen != size:
        raise ValueError(f"{seen} bytes came instead of {size}")
    yield cipher.encrypt(_nonce(last, last=True), bytes(held), None)


class Opened:
    """An encrypted file whose key was unwrapped: says what to read for a part of the audio, and decrypts that.

    Attributes:
        size: of the audio.
    """

    def __init__(self, head: bytes, keys: Keys, *, tenant: str, context: bytes) -> None:
        """Open a file by its first `HEAD_BYTES` bytes.

        Raises:
            RecordingKeyMissing: its key isn't there.
            RecordingTampered: it isn't what was sealed.
        """
        try:
            magic, length = _PREFIX.unpack_from(head)
            fields = msgspec.json.decode(head[_PREFIX.size : _PREFIX.size + length], type=_Head)
        except (struct.error, msgspec.MsgspecError) as error:
            raise RecordingTampered("It has no head.") from error
        if magic != _MAGIC or fields.size < 0:
            raise RecordingTampered("It has no head.")
        key = keys.named(tenant, fields.key)
        nonce, wrapped = fields.wrapped[:_NONCE_BYTES], fields.wrapped[_NONCE_BYTES:]
        try:
            self._cipher = AESGCM(AESGCM(key.secret).decrypt(nonce, wrapped, _bound(context, fields.size)))
        except (InvalidTag, ValueError) as error:
            raise RecordingTampered("Its key doesn't open it.") from error
        self.size: Final = fields.size
        self._begin = _PREFIX.size + length
        self._last = _segments(self.size) - 1

    def segments(self, start: int, stop: int) -> tuple[range, int, int]:
        """Return which segments have bytes `start` to `stop` of the audio, and from where to where they lie."""
        first, end = start // SEGMENT_BYTES, min((stop - 1) // SEGMENT_BYTES, self._last) + 1
        stride = SEGMENT_BYTES + TAG_BYTES
        upto = self._begin + self.size + TAG_BYTES * (self._last + 1)
        return range(first, end), self._begin + first * stride, min(self._begin + end * stride, upto)

    def decrypt(self, index: int, segment: bytes) -> bytes:
        """Return the audio of a segment.

        Raises:
            RecordingTampered: it isn't what was sealed.
        """
        try:
            return self._cipher.decrypt(_nonce(index, last=index == self._last), segment, None)
        except (InvalidTag, ValueError) as error:
            raise RecordingTampered(f"Segment {index} isn't what was sealed.") from error


def _segments(size: int) -> int:
    """Return how many segments an audio of `size` bytes has: one at least, so that an empty one has its tag too."""
    return max(-(-size // SEGMENT_BYTES), 1)


def _nonce(index: int, *, last: bool) -> bytes:
    return index.to_bytes(_NONCE_BYTES - 1, "big") + bytes([last])


def _bound(context: bytes, size: int) -> bytes:
    return context + struct.pack(">QI", size, SEGMENT_BYTES)
