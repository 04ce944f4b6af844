"""Recordings in a bucket: sealed as the recorder does it, and looked at."""

import os
from pathlib import Path
from typing import Final

import msgspec
import obstore

from greenroom.common.objects import ObjectStore
from greenroom.common.recordings import Format
from greenroom.recorder.parts import Parts
from greenroom.recorder.recording import Manifest, write_recording
from greenroom.recorder.storage import Bucket
from tests.support.recordings import ended_session, pcm_chunk

RATE: Final = 16_000
FOLDER: Final = "t/2026/03/01"
MANIFEST: Final = f"{FOLDER}/s.json"


def two_seconds(folder: Path) -> Parts:
    """Return parts with two seconds of audio; the caller shuts them down."""
    made = Parts(folder, max_open=8)
    made.write([pcm_chunk("user", 1, 0, os.urandom(2 * RATE)), pcm_chunk("bot", 1, RATE, os.urandom(2 * RATE))])
    return made


def names(store: ObjectStore) -> list[str]:
    """Return the names of all objects."""
    return sorted(entry["path"] for batch in obstore.list(store) for entry in batch)


def content(store: ObjectStore, path: str) -> bytes:
    """Return an object."""
    return bytes(obstore.get(store, path).bytes())


def standing(store: ObjectStore) -> Manifest:
    """Return the manifest that stands."""
    return msgspec.json.decode(content(store, MANIFEST), type=Manifest)


def seal(store: ObjectStore, parts: Parts, form: Format = "flac") -> Manifest:
    """Seal as the recorder does."""
    manifest = write_recording(ended_session(), parts, Bucket(store), rate=RATE, form=form)
    assert manifest is not None
    return manifest
