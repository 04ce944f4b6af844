"""Encrypted recordings as their audio: only the segments that a part lies in are read, one after the other."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

import structlog

from greenroom.api.ranges import Span
from greenroom.api.shelf import Shelf
from greenroom.common.envelope import (
    HEAD_BYTES,
    SEGMENT_BYTES,
    TAG_BYTES,
    Keys,
    Opened,
    RecordingKeyMissing,
    RecordingTampered,
    context_of,
)
from greenroom.common.recordings import RecordingFile

_log = structlog.get_logger()

_STRIDE: Final = SEGMENT_BYTES + TAG_BYTES


class DecryptedShelf:
    """The place of an encrypted file, as if it weren't encrypted.

    Args:
        shelf: where it is.
        keys: what opens it.
        tenant: whose it is.
        context: which file it must be, see `greenroom.common.envelope.context_of`.
    """

    def __init__(self, shelf: Shelf, keys: Keys, *, tenant: str, context: bytes) -> None:
        self._shelf = shelf
        self._keys = keys
        self._tenant = tenant
        self._context = context

    async def link(self, path: str) -> str | None:
        """Return None: nobody but us can read it."""
        del path

    async def size(self, path: str) -> int:
        """Open the file and return how long its audio is.

        Raises:
            RecordingKeyMissing: its key isn't there.
            RecordingTampered: it isn't what was sealed.
            RecordingNotFound, StorageUnavailable: as the shelf says.
        """
        return (await self._open(path)).size

    async def read(self, path: str, span: Span) -> AsyncGenerator[bytes]:
        """Yield a part of the audio.

        What was changed since it was sealed ends the stream in the middle; what came before that is true.
        """
        opened = await self._open(path)
        segments, start, stop = opened.segments(span.start, span.stop)
        held, index = bytearray(), segments.start
        async with aclosing(self._shelf.read(path, Span(start=start, stop=stop))) as pieces:
            async for piece in pieces:
                held += piece
                while len(held) >= _STRIDE:
                    yield self._part(opened, index, bytes(held[:_STRIDE]), span)
                    del held[:_STRIDE]
                    index += 1
        # The last one is shorter; where the file was cut off it is missing, and nothing decrypts to it.
        if index < segments.stop:
            yield self._part(opened, index, bytes(held), span)

    async def _open(self, path: str) -> Opened:
        size = await self._shelf.size(path)
        head = b"".join([piece async for piece in self._shelf.read(path, Span(start=0, stop=min(size, HEAD_BYTES)))])
        try:
            return Opened(head, self._keys, tenant=self._tenant, context=self._context)
        except RecordingTampered as error:
            _log.error("recording_tampered", path=path, detail=error.detail)
            raise

    def _part(self, opened: Opened, index: int, segment: bytes, span: Span) -> bytes:
        """Return what of a segment's audio is inside `span`."""
        try:
            audio = opened.decrypt(index, segment)
        except RecordingTampered as error:
            _log.error("recording_tampered", detail=error.detail)
            raise
        begin = index * SEGMENT_BYTES
        return audio[max(span.start - begin, 0) : span.stop - begin]


class Vault:
    """All recordings, encrypted or not.

    Args:
        shelf: where their files are.
        keys: what they may be encrypted with; None: nothing.
    """

    def __init__(self, shelf: Shelf, keys: Keys | None = None) -> None:
        self._shelf = shelf
        self._keys = keys

    def place(self, tenant: str, session_id: str, file: RecordingFile) -> Shelf:
        """Return where the audio of a file is read from.

        Raises:
            RecordingKeyMissing: it is encrypted, and there are no keys.
        """
        if file.key is None:
            return self._shelf
        if self._keys is None:
            raise RecordingKeyMissing("Neither GREENROOM_RECORDING_KEYS_DIR nor GREENROOM_RECORDING_KEYS is set.")
        return DecryptedShelf(
            self._shelf, self._keys, tenant=tenant, context=context_of(tenant, session_id, file.track)
        )
