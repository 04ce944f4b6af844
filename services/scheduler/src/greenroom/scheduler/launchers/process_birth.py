"""What a launched process runs first: it enters itself into the state folder, then becomes the runner.

Run by path with a bare interpreter (`python -I -S process_birth.py`), so it needs nothing but the standard library.

Because the process enters itself, there is no moment at which it lives unknown: whoever launched it may be killed at
any time. And because an entry can be made only once, of two processes that were launched for the same thing one
remains; the other ends before it has done anything.
"""

import json
import os
import sys
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
EXIT_NOT_STARTED = 127


def start_ticks(pid: int) -> int:
    """Return when a process started, in clock ticks since boot: with the id, what tells it from a later one.

    Raises:
        OSError: there is no such process.
    """
    # The name before the last ")" may hold anything; field 22 of proc(5) is the 20th behind it.
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def boot_id() -> str:
    """Return the id of this boot of the machine: ticks of another one mean nothing."""
    return _BOOT_ID.read_text().strip()


def enter(record: str, live: Path, ended: Path) -> bool:
    """Make the entry of this process, and return whether it is the first under its id.

    Args:
        record: JSON of the entry, all but what only the process itself knows.
        live: folder of the entries.
        ended: folder of those whose process has ended.
    """
    entry = json.loads(record) | {"pid": os.getpid(), "started_ticks": start_ticks(os.getpid()), "boot_id": boot_id()}
    name = entry["id"] + ".json"
    draft = live / f".{name}.{os.getpid()}"
    draft.write_text(json.dumps(entry))
    try:
        # Unlike a rename, a link never replaces what is there.
        os.link(draft, live / name)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    if (ended / name).exists():
        (live / name).unlink()
        return False
    return True


def main() -> None:
    """Enter the process, and replace the program by the one in the arguments."""
    record, live, ended, *command = sys.argv[1:]
    if not enter(record, Path(live), Path(ended)):
        return
    try:
        os.execvp(command[0], command)  # noqa: S606 - becoming the runner, without a shell, is all that this is for
    except OSError as error:
        sys.stderr.write(f"{command[0]} can't be run: {error.strerror}\n")
        sys.exit(EXIT_NOT_STARTED)


if __name__ == "__main__":
    main()
