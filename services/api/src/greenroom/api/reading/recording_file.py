"""A sealed recording's files, for whoever packs them."""

from collections.abc import AsyncGenerator

import msgspec

from greenroom.api.decrypting import Vault
from greenroom.api.ranges import Span
from greenroom.api.shelf import Shelf, files_of
from greenroom.api.store import Recording
from greenroom.common.errors import RecordingNotFound


class PackedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a recording, as large as it is now, under the name that it has in a bundle."""

    name: str
    path: str
    size: int
    shelf: Shelf

    def chunks(self) -> AsyncGenerator[bytes]:
        """Return its bytes."""
        return self.shelf.read(self.path, Span(start=0, stop=self.size))


async def find(vault: Vault, tenant: str, recording: Recording) -> tuple[PackedFile, ...]:
    """Return the files of a recording, without those that aren't where they were kept.

    Raises:
        StorageUnavailable: that can't be told now.
        RecordingKeyMissing, RecordingTampered: one can't be read.
    """
    found: list[PackedFile] = []
    for file in files_of(recording):
        shelf = vault.place(tenant, recording.session_id, file)
        name = ".".join(filter(None, ("recording", file.track, recording.format)))
        try:
            size = await shelf.size(file.path)
        except RecordingNotFound:
            continue
        found.append(PackedFile(name=name, path=file.path, size=size, shelf=shelf))
    return tuple(found)
