"""Who a server runs as. PostgreSQL refuses to run as root; everybody else it takes as they are."""

import functools
import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# `nobody`: the id that no file of anybody's belongs to. It needs no entry in /etc/passwd.
NOBODY: Final = 65534


@dataclass(frozen=True, kw_only=True)
class Identity:
    """How a program is started as somebody.

    Attributes:
        prefix: command that changes who the program takes itself to be, before the program's own.
        user: uid to switch to for real, with no other groups than `group`; its files have to belong to it.
        group: gid to switch to.
    """

    prefix: tuple[str, ...] = ()
    user: int | None = None
    group: int | None = None

    @property
    def owner(self) -> int:
        """The uid that files of the program belong to, as seen from here."""
        return os.geteuid() if self.user is None else self.user

    def own(self, path: Path) -> None:
        """Give `path` to the program where it runs as somebody else."""
        if self.user is not None:
            os.chown(path, self.user, self.user if self.group is None else self.group)

    def obstacle(self, *paths: Path) -> Path | None:
        """Return the first folder on the way to `paths` that the program can't pass, if there is one."""
        if self.user is None:
            return None
        for path in paths:
            for folder in reversed(path.resolve().parents):
                if not folder.stat().st_mode & stat.S_IXOTH:
                    return folder
        return None


# A user of its own: every uid it could be is somebody else to whoever asks, `nobody` by name.
AS_NOBODY: Final = Identity(user=NOBODY, group=NOBODY)


def not_root() -> Identity:
    """Return an identity that isn't root.

    Root gets a user namespace in which it is seen as `nobody`: to the kernel the process is root without its
    privileges, so it may use root's folders, and no mode or owner has to be changed. Where namespaces are refused
    (in some containers) it becomes `nobody` for real.
    """
    if os.geteuid() != 0:
        return Identity()
    return _in_user_namespace() or AS_NOBODY


@functools.cache
def _in_user_namespace() -> Identity | None:
    unshare = shutil.which("unshare")
    if unshare is None:
        return None
    prefix = (unshare, "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}", "--")
    probe = subprocess.run([*prefix, unshare, "--version"], capture_output=True, check=False)
    return Identity(prefix=prefix) if probe.returncode == 0 else None
