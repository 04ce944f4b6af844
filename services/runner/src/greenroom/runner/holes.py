"""Fills the holes in a zygote's memory, so that what its forks allocate lies together.

What was freed while a zygote imported and rehearsed lies between what is still there. Both allocators of a process,
malloc and CPython's own for up to 512 bytes, hand such places out first: a fork that needs a few hundred kilobytes
writes to a thousand pages that it shared until then, and gets a copy of each. With the holes taken it gets fresh
pages instead, and fills them. The holes are lost, to a process that doesn't want them: 0.9 MB, shared by all forks.
"""

import ctypes
import os
from typing import Any, Final

from greenroom.runner.immortal import supported

# Below the size from which malloc maps memory of its own (128 KiB), each larger hole is taken as a few pieces, and
# what is left of it by the next smaller size.
_LARGE: Final = (65_536, 32_768, 16_384, 8_192, 4_096, 2_048)
# malloc keeps freed pieces up to this size aside, and doesn't join them with what lies beside them.
_KEPT_ASIDE: Final = 1032
# Its sizes are 24 bytes and multiples of 16 more.
_SMALL: Final = range(_KEPT_ASIDE, 23, -16)

# CPython's allocator since 3.10: pools of 16 KiB, each for blocks of one size, which begin behind its head.
_POOL_BYTES: Final = 1 << 14
_POOL_HEAD_BYTES: Final = 48
_BLOCK_SIZES: Final = range(16, 513, 16)
# A pool that was never used hands its blocks out in their order. This many in a row from its beginning, and it is one.
_IN_ORDER: Final = 8
# Of one size; 15,000 of all sizes are usual. A bound for an allocator that isn't what it is taken for.
_MOST_BLOCKS: Final = 50_000


class _MallocInfo(ctypes.Structure):
    """`struct mallinfo2` of malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


def fill() -> int:
    """Take all holes, and return how many pieces that were; 0 where the allocators aren't known.

    To be called in the only thread there is, when nothing more is to be freed.
    """
    return _fill_malloc(ctypes.CDLL(None)) + _fill_pools()


def _fill_malloc(libc: Any) -> int:
    malloc, free = libc.malloc, libc.free
    malloc.argtypes, malloc.restype = [ctypes.c_size_t], ctypes.c_size_t
    free.argtypes, free.restype = [ctypes.c_size_t], None
    info = getattr(libc, "mallinfo2", None)  # of glibc, from 2.33
    if info is None:
        return 0
    info.restype = _MallocInfo
    libc.sbrk.argtypes, libc.sbrk.restype = [ctypes.c_ssize_t], ctypes.c_size_t
    taken = 0
    for size in (*_LARGE, *_SMALL):
        # Where the heap ends, and malloc goes on when it has no holes.
        end = libc.sbrk(0) - info().keepcost
        while (piece := malloc(size)) and piece < end:
            taken += 1
        if size > _KEPT_ASIDE:
            free(piece)
    return taken


def _fill_pools() -> int:
    if not supported() or os.environ.get("PYTHONMALLOC", "pymalloc") != "pymalloc":
        return 0
    allocate = ctypes.pythonapi.PyObject_Malloc
    allocate.argtypes, allocate.restype = [ctypes.c_size_t], ctypes.c_size_t
    return sum(_fill_pools_of(size, allocate) for size in _BLOCK_SIZES)


def _fill_pools_of(size: int, allocate: Any) -> int:
    in_order = last = 0
    for taken in range(_MOST_BLOCKS):
        block: int = allocate(size)
        if block % _POOL_BYTES == _POOL_HEAD_BYTES:
            in_order = 1
        else:
            in_order = in_order + 1 if in_order and block == last + size else 0
        if in_order == _IN_ORDER:
            return taken
        last = block
    return _MOST_BLOCKS
