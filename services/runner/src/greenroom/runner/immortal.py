"""Makes what a zygote has loaded immortal, so that its forks don't copy it by looking at it.

A fork shares its parent's memory until it writes to it, and CPython writes to whatever it touches: it counts the
references to it, in the object itself. Since 3.12 some objects are immortal (PEP 683, which names this very use): the
count of `None` stands still. There is no function yet that makes others so, but all that the interpreter looks at is
the count, and any object may have that one. Half of what a session process had of its own
was memory that it had only counted in.

What is immortal is never freed, and its finalizer never runs. In a process that lives for one session and ends by
`os._exit`, that is what happens to all that its zygote had, anyway.
"""

import gc
import itertools
import sys
import sysconfig
from collections.abc import Iterable
from ctypes import c_uint32
from types import CodeType, FrameType, ModuleType
from typing import Final

# Where the count is, and what it has to be, is known of these: nothing is done with others.
_KNOWN: Final = frozenset({(3, 12)})
# `_Py_IMMORTAL_REFCNT` of object.h.
_IMMORTAL: Final = 2**32 - 1
# Parts of a code object, which the garbage collector doesn't know of. `co_code` and the names of variables aren't
# among them: they are made when somebody asks.
_CODE_PARTS: Final = (
    "co_consts",
    "co_names",
    "co_filename",
    "co_name",
    "co_qualname",
    "co_linetable",
    "co_exceptiontable",
)
# How many objects are looked into at a time. What is found in them is held in a list: a long one would leave the
# zygote, and so all of its forks, larger than they were.
_BATCH: Final = 1_000


def supported() -> bool:
    """Whether this interpreter counts references in the way that is known here."""
    return (
        sys.implementation.name == "cpython"
        and sys.version_info[:2] in _KNOWN
        and sys.byteorder == "little"
        and sys.maxsize > 2**32
        and not sysconfig.get_config_var("Py_DEBUG")
    )


def immortalize() -> int:
    """Make everything that is alive immortal, and return how many objects that is; 0 where it isn't supported.

    Everything is what the garbage collector knows of, and what can be reached from that. To be called in the only
    thread there is, and before `gc.freeze()`, which hides objects from it.
    """
    if not supported():
        return 0
    gc.collect()  # rubbish shall not live for ever
    made = 0
    fresh = _made_immortal(gc.get_objects())
    while fresh:
        made += len(fresh)
        found: list[object] = []
        for batch in itertools.batched(fresh, _BATCH):
            found += _made_immortal(_inside(batch))
        fresh = found
    return made


# Below, types are compared and `isinstance` isn't asked: it asks objects in turn, and some load a library to answer.


def _made_immortal(items: Iterable[object]) -> list[object]:
    """Make some objects immortal, and return those that weren't yet."""
    count = sys.getrefcount
    mortal: list[object] = []
    for item in items:
        # Frames are written to while their code runs, which may be this.
        if count(item) < _IMMORTAL and type(item) is not FrameType:
            # The count is the first half of the first word.
            c_uint32.from_address(id(item)).value = _IMMORTAL
            mortal.append(item)
    return mortal


def _inside(items: Iterable[object]) -> list[object]:
    # Not into modules: some show what they keep for later use, which is dead, and would die again.
    found = gc.get_referents(*(item for item in items if type(item) is not ModuleType))
    for item in items:
        if type(item) is CodeType:
            found += [getattr(item, part) for part in _CODE_PARTS]
    return found
