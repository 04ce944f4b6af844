"""The state file of a running `up`."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from greenroom.devtools.state import Connection, NotRunning, UpState, connection, read_state, state_dir, write_state

STATE = UpState(
    pid=os.getpid(),
    api_url="http://127.0.0.1:8080/",
    api_key="gr_secret",
    nats_url="nats://127.0.0.1:4222",
    database_url="postgresql://127.0.0.1/greenroom",
    otlp_url="http://127.0.0.1:4318",
    recordings_dir="/r",
    traces_dir="/t",
    health={"api": "http://127.0.0.1:9000"},
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder, with nothing in the environment that says otherwise."""
    for name in ("GREENROOM_API_URL", "GREENROOM_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GREENROOM_STATE_DIR", str(tmp_path))
    return tmp_path


def test_what_is_written_is_read(folder: Path) -> None:
    """All of it, by whoever looks into the same folder."""
    write_state(folder, STATE)
    assert read_state(folder) == STATE
    assert state_dir() == folder


def test_only_its_owner_may_read_it(folder: Path) -> None:
    """There is a key in it: mode 0600, whatever the umask, also over a file that was there; nothing else is left."""
    for umask in (0o000, 0o077):
        before = os.umask(umask)
        try:
            (folder / "up.tmp").write_text("left behind by a crash")
            write_state(folder, STATE)
        finally:
            os.umask(before)
        assert stat.S_IMODE((folder / "up.json").stat().st_mode) == 0o600
        assert [path.name for path in folder.iterdir()] == ["up.json"]


def test_the_state_of_a_dead_process_is_none(folder: Path) -> None:
    """A crash leaves the file behind: what it says is no longer true."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(timeout=10)
    write_state(folder, msgspec.structs.replace(STATE, pid=ended.pid))
    assert read_state(folder) is None


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"pid": 1}'])
def test_no_file_or_another_one_is_none(folder: Path, content: bytes | None) -> None:
    """Whatever is there, the commands say that nothing is known, and don't fail."""
    if content is not None:
        (folder / "up.json").write_bytes(content)
    assert read_state(folder) is None


def test_arguments_come_before_the_environment_before_a_running_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of address and key by itself; the address without a slash at its end."""
    write_state(folder, STATE)
    assert connection() == Connection(api_url="http://127.0.0.1:8080", api_key="gr_secret")
    monkeypatch.setenv("GREENROOM_API_URL", "https://greenroom.example/")
    assert connection() == Connection(api_url="https://greenroom.example", api_key="gr_secret")
    monkeypatch.setenv("GREENROOM_API_KEY", "gr_other")
    assert connection().api_key == "gr_other"
    assert connection("http://given", "gr_given") == Connection(api_url="http://given", api_key="gr_given")


def test_without_any_of_them_the_advice_is_to_start_one() -> None:
    """And an address without a key isn't enough."""
    with pytest.raises(NotRunning, match="greenroom up"):
        connection()
    with pytest.raises(NotRunning):
        connection("http://given")


def test_the_folder_is_in_the_checkout_when_nothing_else_is_said(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """`.greenroom` where the command was started."""
    monkeypatch.delenv("GREENROOM_STATE_DIR")
    monkeypatch.chdir(folder)
    assert state_dir() == folder / ".greenroom"
