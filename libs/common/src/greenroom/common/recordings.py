"""How a session is recorded, and what the files of a recording are called: what the recorder and the api both know.

A recording has one file, or one a track. Its names are relative to where recordings are kept (a folder or a bucket):

    {tenant}/{yyyy}/{mm}/{dd}/{session_id}.{format}            by the day of the request, in UTC
    {tenant}/{yyyy}/{mm}/{dd}/{session_id}.{track}.{format}    where each track has a file of its own
    {tenant}/{yyyy}/{mm}/{dd}/{session_id}.json                the manifest

In a bucket the name of an audio file has its digest in it, before the suffix: see greenroom.common.objects.
"""

from typing import Final, Literal, get_args

import msgspec

type Format = Literal["wav", "flac", "opus"]
# `stereo`: the caller on the left, the bot on the right; `mixed`: both on one channel; `tracks`: a file each.
type Layout = Literal["stereo", "mixed", "tracks"]

FORMATS: Final[tuple[Format, ...]] = get_args(Format.__value__)
LAYOUTS: Final[tuple[Layout, ...]] = get_args(Layout.__value__)
MEDIA_TYPES: Final[dict[str, str]] = {"wav": "audio/wav", "flac": "audio/flac", "opus": "audio/ogg; codecs=opus"}


class RecordingChoice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How an agent's sessions are recorded; None: as the recorder's settings say."""

    format: Format | None = None
    layout: Layout | None = None
    # Nothing is recorded: the audio isn't published.
    off: bool = False


class RecordingFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a recording.

    Attributes:
        path: where it is, relative to where recordings are kept.
        channels: the tracks that are heard on each channel, from the left.
        bytes: its size.
        sha256: its digest, in hex.
        key: the key of the tenant that it is encrypted with (greenroom.common.envelope); None: it isn't. Size and
            digest are those of the audio in it.
    """

    path: str
    channels: tuple[tuple[str, ...], ...]
    bytes: int
    sha256: str
    key: str | None = None

    @property
    def track(self) -> str | None:
        """The one track that it has; None: it has several."""
        heard = {track for channel in self.channels for track in channel}
        return heard.pop() if len(heard) == 1 else None
