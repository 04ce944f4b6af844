"""Recordings encrypted at rest: sealed by the recorder's own code, and read over HTTP as the audio that they are."""

import base64
import os
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec
import numpy as np
import obstore
import pytest

from greenroom.common.envelope import Keys, RecordingKeyMissing
from greenroom.common.ids import uuid7
from greenroom.common.lifecycle import Session
from greenroom.common.objects import open_bucket
from greenroom.common.recordings import RecordingChoice
from greenroom.recorder.parts import Parts
from greenroom.recorder.recording import Manifest, write_recording
from greenroom.recorder.storage import Bucket, Folder, Storage
from tests.support.api_world import ApiWorld, problem_of, running_api
from tests.support.recorder_world import RATE
from tests.support.recordings import ended_session, pcm_chunk

TENANT = "default"


class Vault:
    """Keys, parts and a folder of recordings."""

    def __init__(self, folder: Path) -> None:
        self.recordings = folder / "recordings"
        self.keys_dir = folder / "keys"
        self.keys_dir.mkdir()
        self.keys = Keys(self.keys_dir, required=True)
        self.pcm = {track: os.urandom(20 * RATE) for track in ("user", "bot")}
        self._parts = Parts(folder / ".parts", max_open=8)

    def add_key(self, number: int, tenant: str = TENANT) -> None:
        """Make a key."""
        (self.keys_dir / f"{tenant}.{number}.key").write_bytes(base64.b64encode(os.urandom(32)))

    def seal(self, session: Session, storage: Storage | None = None) -> Manifest:
        """Seal ten seconds of a session as the recorder does."""
        for track, pcm in self.pcm.items():
            chunks = [
                pcm_chunk(track, seq + 1, seq * RATE, pcm[seq * 2 * RATE : (seq + 1) * 2 * RATE], session_id=session.id)
                for seq in range(10)
            ]
            self._parts.write(chunks)
        manifest = write_recording(session, self._parts, storage or Folder(self.recordings), rate=RATE, keys=self.keys)
        assert manifest is not None
        return manifest


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    """A vault with a key."""
    made = Vault(tmp_path)
    made.add_key(1)
    return made


async def stored(world: ApiWorld, seal: Callable[[Session], Manifest], **fields: object) -> tuple[str, Manifest]:
    """Return the id of a session that has ended, and its recording, which is stored."""
    session_id = (await world.make_ready((await world.request()).session.id)).session.id
    await world.end(session_id)
    await world.record()
    manifest = seal(msgspec.structs.replace(ended_session(session_id, **fields), tenant=TENANT))
    await world.execute(
        "INSERT INTO recordings (session_id, tenant, path, format, duration_s, channels, rate, bytes, sha256, gaps,"
        " manifest) VALUES ($1, 'default', $2, $3, 10.0, 2, 16000, $4, $5, '[]', $6)",
        session_id,
        manifest.path,
        manifest.format,
        manifest.bytes,
        manifest.sha256,
        msgspec.json.encode(manifest).decode(),
    )
    return session_id, manifest


async def test_ranges_of_an_encrypted_recording(nats_url: str, database: str, vault: Vault) -> None:
    """Whole and in any part it comes as it was recorded; a file that was changed is refused."""
    async with running_api(
        nats_url, database, recordings_dir=str(vault.recordings), recording_keys_dir=str(vault.keys_dir)
    ) as world:
        session_id, manifest = await stored(world, vault.seal)
        path, file = f"/v1/sessions/{session_id}/recording", vault.recordings / manifest.path
        async with world.client() as client:
            whole = await client.get(path)
            assert (whole.status_code, len(whole.content)) == (200, manifest.bytes)
            assert whole.headers["content-disposition"] == f'attachment; filename="{session_id}.wav"'
            assert np.frombuffer(whole.content[44:], "<i2")[0::2].tobytes() == vault.pcm["user"]
            size = manifest.bytes
            for start, stop in ((0, 1), (65_535, 65_537), (65_536, 131_072), (100, size), (size - 1, size)):
                response = await client.get(path, headers={"range": f"bytes={start}-{stop - 1}"})
                assert (response.status_code, response.content) == (206, whole.content[start:stop])
                assert response.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
            await _changed(client, path, file)


async def _changed(client: httpx.AsyncClient, path: str, file: Path) -> None:
    sealed = file.read_bytes()
    file.write_bytes(sealed.replace(b'"size":', b'"size":1'))
    assert problem_of(await client.get(path))["code"] == "recording-tampered"
    # Behind the first megabyte the answer has begun: it ends early, and is shorter than it says.
    file.write_bytes(sealed[:-1])
    with pytest.raises(httpx.RemoteProtocolError):
        await client.get(path)


async def test_nothing_of_the_audio_is_on_the_disk(vault: Vault) -> None:
    """The file is neither the audio nor does it contain a second of it, and it says which key it needs."""
    manifest = vault.seal(msgspec.structs.replace(ended_session(str(uuid7())), tenant=TENANT))
    assert manifest.path.endswith(".wav.enc")
    assert manifest.files[0].key == f"{TENANT}.1"
    frames = np.stack([np.frombuffer(pcm, "<i2")[:4] for pcm in vault.pcm.values()], 1).tobytes()
    files = [path for path in vault.recordings.rglob("*") if path.is_file()]
    assert len(files) == 2
    for path in files:
        assert frames not in path.read_bytes()
        assert b"RIFF" not in path.read_bytes()


async def test_keys_change_and_are_missing(nats_url: str, database: str, vault: Vault) -> None:
    """New recordings take the newest key, old ones are read with theirs; without a key nothing is sealed or read."""
    async with running_api(
        nats_url, database, recordings_dir=str(vault.recordings), recording_keys_dir=str(vault.keys_dir)
    ) as world:
        tracks = RecordingChoice(layout="tracks", format="flac")
        old, _ = await stored(world, vault.seal)
        vault.add_key(2)
        new, manifest = await stored(world, vault.seal, recording=tracks)
        assert [file.key for file in manifest.files] == [f"{TENANT}.2"] * 2
        async with world.client() as client:
            for path in (f"{old}/recording", f"{new}/recording?track=user", f"{new}/recording?track=bot"):
                assert (await client.get(f"/v1/sessions/{path}")).status_code == 200
            (vault.keys_dir / f"{TENANT}.1.key").unlink()
            problem = problem_of(await client.get(f"/v1/sessions/{old}/recording"))
            assert (problem["status"], problem["code"]) == (503, "recording-key-missing")
            assert (await client.get(f"/v1/sessions/{new}/recording")).status_code == 200
    with pytest.raises(RecordingKeyMissing):
        vault.seal(ended_session("other"))
    assert not list(vault.recordings.glob("t/**/*"))


async def test_encrypted_in_a_bucket(nats_url: str, database: str, vault: Vault, bucket_url: str) -> None:
    """From a bucket it is decrypted here instead of by a link; sealed twice it is there once, and opens."""
    bucket = open_bucket(bucket_url)
    async with running_api(
        nats_url, database, recordings_url=bucket_url, recording_keys_dir=str(vault.keys_dir)
    ) as world:

        def twice(session: Session) -> Manifest:
            vault.seal(session, Bucket(bucket))
            return vault.seal(session, Bucket(bucket))

        session_id, manifest = await stored(world, twice)
        async with world.client() as client:
            whole = await client.get(f"/v1/sessions/{session_id}/recording")
            part = await client.get(f"/v1/sessions/{session_id}/recording", headers={"range": "bytes=70000-70003"})
    assert (whole.status_code, len(whole.content)) == (200, manifest.bytes)
    assert part.content == whole.content[70_000:70_004]
    names = [entry["path"] for batch in obstore.list(bucket) for entry in batch]
    assert sorted(names) == sorted([manifest.path, f"{TENANT}/2026/03/01/{session_id}.json"])
