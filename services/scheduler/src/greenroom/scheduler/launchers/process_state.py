"""The state folder of the process launcher: one small file for each process, written so that none is ever half there.

    live/{id}.json     processes that haven't been seen to end; made by the process itself (process_birth)
    ended/{id}.json    those that have: what was launched once isn't launched again
    groups/{pool}.json how large the baseline group of a pool is to be
    logs/{id}.log      what a process printed

Any number of launchers may use a folder at once. Everything here blocks, for as long as a local disk takes.
"""

import contextlib
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from greenroom.common.ids import uuid7
from greenroom.scheduler.launchers.process_birth import boot_id, start_ticks

# For as long as this an ended launch is remembered: far longer than any lease is tried again.
ENDED_KEPT: Final = timedelta(hours=1)
# Logs of ended processes that are kept, the newest.
LOGS_KEPT: Final = 100
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,200}")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One launched process.

    Attributes:
        id: the instance, and the name of its files.
        pool: it belongs to.
        launch_id: of its cold start; None: of the baseline group.
        ordinal: its place in the baseline group.
        generation: the how-manieth in that place, from 1.
        since: when it was launched, UTC.
        pid: its id, and that of its process group and session.
        started_ticks: see `process_birth.start_ticks`.
        boot_id: of the boot that these belong to.
        stopping_at: when it was told to end.
        kill_at: when it is ended by force if it still lives.
        ended_at: when it was seen to have ended.
        exit_code: negative: the signal that ended it; None: nobody was there to see.
    """

    id: str
    pool: str
    launch_id: str | None = None
    ordinal: int | None = None
    generation: int = 1
    since: datetime
    pid: int = 0
    started_ticks: int = 0
    boot_id: str = ""
    stopping_at: datetime | None = None
    kill_at: datetime | None = None
    ended_at: datetime | None = None
    exit_code: int | None = None

    def lives(self) -> bool:
        """Tell whether the process is there: this one, not a later one with its id."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
            state = stat.rpartition(")")[2].split()[0]
            return state not in "ZX" and start_ticks(self.pid) == self.started_ticks and boot_id() == self.boot_id
        except OSError:
            return False


class _Group(msgspec.Struct, frozen=True, kw_only=True):
    count: int


class StateFolder:
    """The folder; its parts are made when they are first needed."""

    def __init__(self, path: Path) -> None:
        path = path.absolute()  # processes that are launched later may work elsewhere
        self.path: Final = path
        self.live: Final = path / "live"
        self.ended: Final = path / "ended"
        self.groups: Final = path / "groups"
        self.logs: Final = path / "logs"

    def make(self) -> None:
        """Make the folders, readable by their owner only: logs may hold what was said."""
        for folder in (self.path, self.live, self.ended, self.groups, self.logs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def records(self) -> list[Record]:
        """Return the processes that haven't been seen to end, by id."""
        return list(_read_all(self.live))

    def ended_records(self) -> list[Record]:
        """Return the processes that have ended, as far as they are remembered."""
        return list(_read_all(self.ended))

    def knows(self, id_: str) -> bool:
        """Tell whether something was launched under an id before."""
        return any((folder / f"{id_}.json").exists() for folder in (self.live, self.ended))

    def write(self, record: Record) -> None:
        """Replace what is known of a live process."""
        _write(self.live / f"{record.id}.json", record)

    def end(self, record: Record) -> None:
        """Move a process to those that have ended."""
        # First there, then not here: at no moment unknown.
        _write(self.ended / f"{record.id}.json", record)
        (self.live / f"{record.id}.json").unlink(missing_ok=True)

    def count(self, pool: str) -> int | None:
        """Return how large the group of a pool is to be; None: nobody said."""
        group = _read(self.groups / f"{pool}.json", _Group)
        return group.count if group else None

    def counts(self) -> dict[str, int]:
        """Return how large each group is to be, by pool."""
        found = ((path.stem, self.count(path.stem)) for path in sorted(self.groups.glob("*.json")))
        return {pool: count for pool, count in found if count is not None}

    def set_count(self, pool: str, count: int) -> None:
        """Note how large the group of a pool is to be."""
        _write(self.groups / f"{pool}.json", _Group(count=count))

    def forget_groups(self) -> None:
        """Want no group any more."""
        for path in self.groups.glob("*.json"):
            path.unlink(missing_ok=True)

    def log_path(self, id_: str) -> Path:
        """Return where a process's output goes."""
        return self.logs / f"{id_}.log"

    def prune(self, now: datetime) -> None:
        """Forget what ended long ago, and drop the oldest logs. The last process of each place stays known."""
        ended = self.ended_records()
        newest = {(each.pool, each.ordinal): each for each in sorted(ended, key=lambda each: each.generation)}
        for each in ended:
            old = each.ended_at is None or now - each.ended_at > ENDED_KEPT
            if old and (each.ordinal is None or newest[each.pool, each.ordinal] is not each):
                (self.ended / f"{each.id}.json").unlink(missing_ok=True)
        live = {each.id for each in self.records()}
        logs = [path for path in self.logs.glob("*.log") if path.stem not in live]
        for path in sorted(logs, key=_modified)[:-LOGS_KEPT]:
            path.unlink(missing_ok=True)


def usable_name(name: str) -> bool:
    """Tell whether an id or a pool can be the name of a file."""
    return _NAME.fullmatch(name) is not None


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _read_all(folder: Path) -> Iterator[Record]:
    for path in sorted(folder.glob("*.json")):
        record = _read(path, Record)
        if record is not None:
            yield record


def _read[T](path: Path, kind: type[T]) -> T | None:
    """Return what a file holds; None when it is gone by now or isn't one of ours."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def _write(path: Path, value: msgspec.Struct) -> None:
    # A name of its own: two threads of one process may write the same file at once.
    draft = path.with_name(f".{path.name}.{uuid7()}")
    try:
        draft.write_bytes(msgspec.json.encode(value))
        draft.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
