"""Where the commands print: as wide as the terminal, and wide enough for every table where there is none."""

import os
import sys
from typing import Final

from rich.console import Console

# What is piped into a file or another program isn't to be cut to the 80 columns that rich takes for granted.
_NO_TERMINAL_COLUMNS: Final = 200


def console(*, stderr: bool = False) -> Console:
    """Return a console."""
    stream = sys.stderr if stderr else sys.stdout
    narrow = stream.isatty() or "COLUMNS" in os.environ
    return Console(stderr=stderr, width=None if narrow else _NO_TERMINAL_COLUMNS)
