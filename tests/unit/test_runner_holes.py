"""Forks of a process whose memory has holes. Each test has an interpreter of its own: what is filled stays so."""

import subprocess
import sys
import textwrap

import pytest

_LOOK = """
    import ctypes, gc, os, sys
    from pathlib import Path
    from greenroom.runner import holes

    def own_kb():
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))

    # Of {least} to {most} bytes: three of four stay.
    kept = [bytes(size) for size in range({least}, {most}, 8) for _ in range({each})]
    del kept[::4]
    gc.collect()
    gc.disable()
    gc.freeze()
    if "fill" in sys.argv:
        assert holes.fill() > 1_000
    if os.fork() == 0:
        needed = [bytes(size) for size in range({least}, {most}, 8) for _ in range({few})]
        print(own_kb(), flush=True)
        os._exit(0)
    os.wait()
"""


def _own_kb(*arguments: str, **numbers: int) -> int:
    script = textwrap.dedent(_LOOK).replace("{", "%(").replace("}", ")s") % numbers
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.parametrize(
    ("least", "most", "each", "few"), [(8, 440, 3_000, 30), (600, 2_000, 200, 1)], ids=["pools", "malloc"]
)
def test_what_a_fork_allocates_lies_together(least: int, most: int, each: int, few: int) -> None:
    """A fork whose zygote has no holes copies less than half as much memory for the same allocations."""
    scattered = _own_kb(least=least, most=most, each=each, few=few)
    together = _own_kb("fill", least=least, most=most, each=each, few=few)
    assert together < scattered / 2, (together, scattered)
