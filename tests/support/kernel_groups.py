"""A control group (version 2) of this machine's kernel for a test to divide, if one can be had.

`GREENROOM_TEST_CONTROL_GROUP` names one that was delegated for the purpose. Else one is made below this process's own,
or in the root of a hierarchy that this process may write to.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from greenroom.common.ids import uuid7

VARIABLE: Final = "GREENROOM_TEST_CONTROL_GROUP"


def parent_of_groups() -> Path | None:
    """Return a group below which groups can be made; None: there is none on this machine."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    own = next(
        (line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")), None
    )
    if own is None:
        return None
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    found = [Path(fields[1]) / own.strip("/") for fields in mounts if fields[2] == "cgroup2"]
    return next(
        (each for each in found if os.access(each, os.W_OK) and os.access(each / "cgroup.procs", os.W_OK)), None
    )


@contextmanager
def delegated_group(parent: Path) -> Generator[Path]:
    """Have an empty group; all that is left in it at the end is killed and removed."""
    folder = parent / f"greenroom-test-{uuid7()[-12:]}"
    folder.mkdir()
    try:
        yield folder
    finally:
        (folder / "cgroup.kill").write_text("1")
        for each in sorted(folder.rglob("*/"), reverse=True):
            each.rmdir()
        folder.rmdir()
