"""Encrypted recordings: what goes in comes out, in any part; and whatever is done to a file is seen."""

import base64
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenroom.common.envelope import (
    HEAD_BYTES,
    SEGMENT_BYTES,
    TAG_BYTES,
    Keys,
    Opened,
    RecordingKeyMissing,
    RecordingTampered,
    TenantKey,
    context_of,
    encrypt,
)

KEY = TenantKey(name="t.1", secret=bytes(range(32)))
CONTEXT = context_of("t", "s", None)


@pytest.fixture(scope="module")
def keys() -> Keys:
    """A folder with the key."""
    folder = Path(tempfile.mkdtemp())
    (folder / "t.1.key").write_bytes(base64.b64encode(KEY.secret) + b"\n")
    return Keys(folder)


def sealed(audio: bytes, block: int = 100_000) -> bytes:
    """Return an encrypted file."""
    blocks = (audio[start : start + block] for start in range(0, len(audio), block))
    return b"".join(encrypt(blocks, size=len(audio), key=KEY, context=CONTEXT))


def opened(file: bytes, keys: Keys, *, tenant: str = "t", context: bytes = CONTEXT) -> Opened:
    """Open a file."""
    return Opened(file[:HEAD_BYTES], keys, tenant=tenant, context=context)


def part(file: bytes, keys: Keys, start: int, stop: int) -> bytes:
    """Return a part of the audio, reading nothing of the file but what is asked for."""
    whole = opened(file, keys)
    segments, low, high = whole.segments(start, stop)
    text, stride = file[low:high], SEGMENT_BYTES + TAG_BYTES
    plain = b"".join(whole.decrypt(index, text[at * stride : (at + 1) * stride]) for at, index in enumerate(segments))
    skipped = start - segments.start * SEGMENT_BYTES
    return plain[skipped : skipped + stop - start]


sizes = st.one_of(
    st.integers(1, 200),
    st.integers(1, 3).flatmap(lambda count: st.integers(-2, 2).map(lambda off: count * SEGMENT_BYTES + off)),
    st.integers(1, 4 * SEGMENT_BYTES),
)


@settings(max_examples=60, deadline=None)
@given(size=sizes, block=st.integers(1000, 200_000), data=st.data())
def test_any_part_comes_out(keys: Keys, size: int, block: int, data: st.DataObject) -> None:
    """Each range of an audio of any length, written in blocks of any length, is that range."""
    audio = os.urandom(size)
    file = sealed(audio, block)
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start + 1, size))
    assert opened(file, keys).size == size
    assert part(file, keys, start, stop) == audio[start:stop]
    assert part(file, keys, 0, size) == audio
    assert audio[:64] not in file or size < 16


def moved(file: bytes) -> bytes:
    """Swap the first two segments."""
    begin, stride = len(file) - (3 * SEGMENT_BYTES + 100 + 4 * TAG_BYTES), SEGMENT_BYTES + TAG_BYTES
    one, two = file[begin : begin + stride], file[begin + stride : begin + 2 * stride]
    return file[:begin] + two + one + file[begin + 2 * stride :]


@pytest.mark.parametrize(
    "change",
    [
        moved,
        lambda file: file[: -(100 + TAG_BYTES)],
        lambda file: file[:-1],
        lambda file: file[:-200] + bytes([file[-200] ^ 1]) + file[-199:],
        lambda file: file.replace(b'"size":196708', b'"size":196608'),
        lambda file: b"x" + file[1:],
        lambda file: file[:0],
        lambda file: file[:20],
    ],
    ids=["moved", "left out", "cut", "changed", "another length", "another kind", "empty", "no head"],
)
def test_whatever_is_done_to_a_file_is_seen(keys: Keys, change: Callable[[bytes], bytes]) -> None:
    """Segments moved, left out, cut or changed, and a length that isn't true: nothing of it passes for the audio."""
    size = 3 * SEGMENT_BYTES + 100
    file = sealed(os.urandom(size))
    changed = change(file)
    assert changed != file
    with pytest.raises(RecordingTampered):
        part(changed, keys, 0, size)


def test_a_file_in_the_place_of_another_does_not_open(keys: Keys) -> None:
    """A file is one session's, one track's and one tenant's."""
    file = sealed(b"audio")
    for context in (context_of("t", "other", None), context_of("t", "s", "user"), context_of("u", "s", None)):
        with pytest.raises(RecordingTampered):
            opened(file, keys, context=context)
    with pytest.raises(RecordingKeyMissing, match="no key of tenant u"):
        opened(file, keys, tenant="u")


def test_no_two_files_are_alike() -> None:
    """The same audio twice is two different files: each has a key of its own."""
    assert sealed(b"audio")[-21:] != sealed(b"audio")[-21:]


def test_a_wrong_length_is_no_file() -> None:
    """Audio that isn't as long as was said makes no whole file."""
    for size in (4, 6, SEGMENT_BYTES + 5):
        with pytest.raises(ValueError, match="5 bytes came"):
            list(encrypt([b"audio"], size=size, key=KEY, context=CONTEXT))


def test_the_newest_key_of_a_tenant(tmp_path: Path) -> None:
    """New files take the highest number, old ones keep theirs; tenants don't see each other's; nothing shows a key."""
    folder = tmp_path / "keys"
    with pytest.raises(RecordingKeyMissing):
        Keys(folder).newest("t")
    folder.mkdir()
    for name in ("t.2", "t.10", "t-b.99", "tt.11", "t.x"):
        (folder / f"{name}.key").write_bytes(base64.b64encode(os.urandom(32)))
    keys = Keys(folder)
    newest = keys.newest("t")
    assert newest is not None
    assert newest.name == "t.10"
    assert keys.named("t", "t.2").name == "t.2"
    assert base64.b64encode(newest.secret).decode() not in repr(newest)
    assert str(newest.secret) not in repr(newest)
    assert keys.newest("nobody") is None
    with pytest.raises(RecordingKeyMissing):
        Keys(folder, required=True).newest("nobody")


@pytest.mark.parametrize("name", ["t.3", "t-b.99", "t.../etc/x", "../t.2", "t.", "t.²", ""])
def test_what_is_no_key_of_the_tenant(tmp_path: Path, name: str) -> None:
    """A name from a file's head leads to that tenant's keys and nowhere else, and what is there must be a key."""
    (tmp_path / "t-b.99.key").write_bytes(base64.b64encode(os.urandom(32)))
    (tmp_path / "t.3.key").write_bytes(b"short")
    with pytest.raises(RecordingKeyMissing):
        Keys(tmp_path).named("t", name)
