"""Memory that forks share because nobody counts in it. Each test has an interpreter of its own: nothing is undone."""

import subprocess
import sys
import textwrap

import pytest

from greenroom.runner import immortal

_LOOK = """
    import gc, os, sys
    from pathlib import Path
    from greenroom.runner.immortal import immortalize

    class Thing:
        def __init__(self, number):
            self.name = f"thing {number}"

    things = [Thing(number) for number in range(50_000)]
    gc.disable()
    if "immortal" in sys.argv:
        assert immortalize() > 100_000
    gc.freeze()

    def own_kb():
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))

    if os.fork() == 0:
        own_kb()
        before = own_kb()
        for thing in things:
            held = thing, thing.name
        print(own_kb() - before, flush=True)
        os._exit(0)
    os.wait()
"""
_WORK = """
    import asyncio, collections, enum, gc, json, re, weakref
    from greenroom.runner.immortal import immortalize

    class Lazy:
        @property
        def __class__(self):
            loaded.append(self)
            return dict

    loaded, lazy, cache = [], Lazy(), {}

    async def talk():
        queue = asyncio.Queue()
        async with asyncio.TaskGroup() as tasks:
            for number in range(100):
                tasks.create_task(queue.put(number))
        return sum([await queue.get() for _ in range(100)])

    def work():
        cache["new"] = [json.loads(json.dumps({"a": [1, 2.5, None]})), re.sub("(b)", r"\\1\\1", "abc")]
        collections.namedtuple("Made", "x y")(1, 2)
        return asyncio.run(talk()), cache["new"]

    first = work()
    made = immortalize()
    assert made and not loaded, (made, loaded)
    assert immortalize() < made / 100
    gc.freeze()
    for _ in range(50):
        assert work() == first
    gc.collect()

    class Late:
        pass

    late = Late()
    seen = weakref.ref(late)
    cache["late"] = late
    del late
    assert seen() is not None
    del cache["late"]
    assert seen() is None
    print("done")
"""


def _run(script: str, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_fork_that_only_looks_copies_nothing() -> None:
    """Objects that are handed about in a fork are its parent's still; without immortality each has become its own."""
    assert int(_run(_LOOK)) > 4_000
    assert int(_run(_LOOK, "immortal")) < 1_000


def test_everything_goes_on() -> None:
    """What was immortal works as before, no lazy object was asked what it is, and what comes later is freed."""
    assert _run(_WORK) == "done\n"


def test_another_interpreter_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it isn't known how references are counted, nothing is done."""
    monkeypatch.setattr(immortal, "_KNOWN", frozenset[tuple[int, int]]())
    assert not immortal.supported()
    assert immortal.immortalize() == 0
