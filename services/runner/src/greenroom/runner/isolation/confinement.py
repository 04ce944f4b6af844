"""How a session process is held: made once in the zygote, inherited by every fork, sealed by each for itself.

In the zygote, before anything is imported (`confine`): umask, no core dumps, a limit for the size of files and, where
wanted, for processes of the user; no new privileges; not dumpable. After everything is imported (`seal`): the
capabilities are given up (root may need them to read what it imports) and the rules of the Landlock domains are made.

In the fork (`enter`), which is two system calls: a limit of file descriptors, and a Landlock domain of its own.

What a kernel or container refuses is left out and said so in the log; nothing here keeps a session from running.
"""

import contextlib
import os
import resource
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final

import msgspec
import structlog

from greenroom.runner.isolation import kernel

_log = structlog.get_logger()

_UMASK: Final = 0o077
_MB: Final = 1024 * 1024


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What is set for every session process, whatever else is in force; 0: no limit.

    Attributes:
        files: file descriptors.
        file_mb: size of a file that it writes.
        user_processes: processes and threads of the user that the runner runs as, all sessions together. The kernel
            counts what runs on the whole host under this user id, and exempts root.
        hidden: files that sessions can't read, and directories in which they can't.
    """

    files: int = 1024
    file_mb: int = 1024
    user_processes: int = 0
    hidden: tuple[str, ...] = ()


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """What each fork does for itself.

    Attributes:
        files: see `Bounds`.
        ruleset: file descriptor of the rules of its Landlock domain; None: no Landlock here.
    """

    files: int
    ruleset: int | None

    def enter(self) -> None:
        """Close the door behind this process. It must have one thread, and its surplus files closed already."""
        if self.files:
            _limit(resource.RLIMIT_NOFILE, self.files)
        if self.ruleset is not None:
            kernel.enter_domain(self.ruleset)
            os.close(self.ruleset)


def confine(bounds: Bounds) -> dict[str, bool | int]:
    """Confine this process and all that will be forked from it; return what is in force, by name."""
    os.umask(_UMASK)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    force: dict[str, bool | int] = {"core_dumps": False}
    if bounds.file_mb:
        force["file_mb"] = _limit(resource.RLIMIT_FSIZE, bounds.file_mb * _MB) // _MB
    if bounds.user_processes:
        _limit(resource.RLIMIT_NPROC, bounds.user_processes)
        # To root of the host it doesn't apply.
        force["user_processes"] = 0 if os.getuid() == 0 else bounds.user_processes
    force["no_new_privileges"] = _refused(kernel.no_new_privileges) is None
    force["dumpable"] = _refused(lambda: kernel.set_dumpable(False)) is not None
    return force


def seal(bounds: Bounds) -> tuple[Sealed, dict[str, bool | int]]:
    """Give up what the zygote needed only while it imported; return what its forks do, and what is in force."""
    with_capabilities = not _drop_capabilities()
    version = kernel.landlock_version()
    ruleset = _ruleset(version, bounds.hidden) if version else None
    force: dict[str, bool | int] = {
        "capabilities": with_capabilities,
        "landlock": version if ruleset is not None else 0,
        "signals_scoped": ruleset is not None and version >= kernel.SCOPES_FROM,
        "secrets_hidden": ruleset is not None and bool(bounds.hidden),
        "files": bounds.files,
    }
    return Sealed(files=bounds.files, ruleset=ruleset), force


def all_but(hidden: Collection[Path], folder: Path = Path("/")) -> Iterator[Path]:
    """Yield the paths below which everything in a directory lies except what is `hidden`.

    They are the siblings of what is hidden and of its parents as they are now: a file that is made later right beside
    one of them can't be read either, so what is hidden belongs into a directory where little else is.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            path = folder / entry.name
            # A link has no contents, and what it leads to is met on its own way.
            if path in hidden or entry.is_symlink():
                continue
            if any(each.is_relative_to(path) for each in hidden):
                yield from all_but(hidden, path)
            else:
                yield path


def _ruleset(version: int, hidden: Collection[str]) -> int | None:
    try:
        paths = frozenset(Path(each).resolve() for each in hidden)
        return kernel.make_ruleset(version, all_but(paths) if paths else None)
    except OSError as error:
        _log.warning("landlock_refused", version=version, error=error.strerror)
        return None


def _drop_capabilities() -> bool:
    try:
        return kernel.drop_capabilities()
    except OSError as error:
        _log.warning("capabilities_kept", error=error.strerror)
        return False


def _refused(call: Callable[[], None]) -> str | None:
    """Call it; return why the kernel refused it, None if it didn't."""
    try:
        call()
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


def _limit(what: int, most: int) -> int:
    """Set a limit, as far as the one that is in force allows it; return what it is now."""
    _, hard = resource.getrlimit(what)
    bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (bound, bound))
    return bound
