"""Where every task of this process is: files, lines and functions, never what variables hold."""

import asyncio
from collections.abc import Iterator
from typing import Any, Final

# What an event keeps of it.
MAX_DUMP_BYTES: Final = 8 * 1024
# Of one task the innermost calls: below them it is always Pipecat's own loop.
_MAX_DEPTH: Final = 8
_MAX_TASKS: Final = 200
_MAX_CHAIN: Final = 100
# Of coroutines, generators and asynchronous generators: where they stand, and what they wait for.
_FRAMES: Final = ("cr_frame", "gi_frame", "ag_frame")
_AWAITED: Final = ("cr_await", "gi_yieldfrom", "ag_await")


def task_stacks() -> str:
    """Return the stacks of the tasks on the running loop, the deepest first, but for the one that asks.

    Tasks that stand at the same place are one entry, with how many they are.
    """
    places: dict[tuple[str, ...], list[str]] = {}
    for task in list(asyncio.all_tasks() - {asyncio.current_task()})[:_MAX_TASKS]:
        stack = tuple(_stack(task.get_coro()))[-_MAX_DEPTH:]
        places.setdefault(stack, []).append(task.get_name())
    entries = [
        "\n".join([f"{len(names)} × {names[0]}" if len(names) > 1 else names[0], *stack])
        for stack, names in sorted(places.items(), key=lambda entry: -len(entry[0]))
    ]
    return bounded("\n".join(entries))


def _stack(waiting: Any) -> Iterator[str]:
    """Return the calls of a coroutine that waits, outermost first: each waits for the next."""
    for _ in range(_MAX_CHAIN):
        frame = next((found for name in _FRAMES if (found := getattr(waiting, name, None)) is not None), None)
        if frame is None:
            return
        yield f"  {_place(frame.f_code.co_filename, frame.f_lineno)} {frame.f_code.co_name}"
        waiting = next((found for name in _AWAITED if (found := getattr(waiting, name, None)) is not None), None)


def bounded(text: str, max_bytes: int = MAX_DUMP_BYTES) -> str:
    """Return the beginning of a text, with what was left out."""
    whole = text.encode()
    if len(whole) <= max_bytes:
        return text
    kept = whole[:max_bytes].decode(errors="ignore")
    return f"{kept}\n… {len(whole) - max_bytes} more bytes"


def _place(path: str, line: int) -> str:
    """Return the end of a path, which says enough, and the line."""
    return f"{'/'.join(path.rsplit('/', 3)[-3:])}:{line}"
