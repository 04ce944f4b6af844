"""What `greenroom up` leaves for the other commands: where everything is, and the development key."""

import os
from pathlib import Path
from typing import Final

import msgspec

from greenroom.common.errors import GreenroomError

STATE_DIR: Final = ".greenroom"


class NotRunning(GreenroomError):
    """There is no Greenroom to talk to: start one with `greenroom up`, or name one.

    Set GREENROOM_API_URL and GREENROOM_API_KEY to talk to a Greenroom elsewhere.
    """

    code = "not-running"
    status = 503
    title = "No Greenroom is known here"
    retryable = True


class UpState(msgspec.Struct, frozen=True, kw_only=True):
    """The state file of a running `up`; it holds a key, so only its owner may read it."""

    pid: int
    api_url: str
    api_key: str
    nats_url: str
    database_url: str
    otlp_url: str
    recordings_dir: str
    traces_dir: str
    # Service → URL of its own health port.
    health: dict[str, str] = {}


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """Where the API is, and the key to it."""

    api_url: str
    api_key: str


def state_dir() -> Path:
    """Return the folder of the local state: `GREENROOM_STATE_DIR`, else `.greenroom` in the working folder."""
    return Path(os.environ.get("GREENROOM_STATE_DIR") or STATE_DIR).resolve()


def read_state(folder: Path) -> UpState | None:
    """Return what a running `up` wrote, or None when none runs there."""
    try:
        state = msgspec.json.decode((folder / "up.json").read_bytes(), type=UpState)
        os.kill(state.pid, 0)
    except (OSError, msgspec.MsgspecError):
        return None
    return state


def write_state(folder: Path, state: UpState) -> None:
    """Write the state file, readable by its owner only."""
    path = folder / "up.json"
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123 - a mode
        file.write(msgspec.json.format(msgspec.json.encode(state)))
    temporary.replace(path)


def connection(api_url: str | None = None, api_key: str | None = None) -> Connection:
    """Return where to connect: arguments before the environment before a running `up`.

    Raises:
        NotRunning: none of them says.
    """
    state = read_state(state_dir())
    url = api_url or os.environ.get("GREENROOM_API_URL") or (state.api_url if state else None)
    key = api_key or os.environ.get("GREENROOM_API_KEY") or (state.api_key if state else None)
    if not url or not key:
        raise NotRunning("start one with `greenroom up`, or set GREENROOM_API_URL and GREENROOM_API_KEY")
    return Connection(api_url=url.rstrip("/"), api_key=key)
