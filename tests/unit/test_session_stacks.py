"""Where tasks are, as an event tells it."""

import asyncio

from greenroom.runner.session.stacks import MAX_DUMP_BYTES, bounded, task_stacks


async def waits_inside(secret: str) -> None:
    """Wait for ever, with something in a variable."""
    await asyncio.Event().wait()
    assert secret


async def waits(secret: str) -> None:
    """Wait for ever, one call deeper."""
    await waits_inside(secret)


async def test_a_stack_names_every_call_and_no_value() -> None:
    """The innermost call is there, with its file and line, tasks at one place are counted, and no value is shown."""
    tasks = [asyncio.create_task(waits("hunter2"), name="the one") for _ in range(3)]
    await asyncio.sleep(0)
    text = task_stacks()
    for task in tasks:
        task.cancel()
    assert "3 × the one" in text
    assert "unit/test_session_stacks.py:10 waits_inside" in text
    assert "test_session_stacks.py:16 waits" in text
    assert "hunter2" not in text
    assert "test_a_stack_names" not in text


def test_a_dump_is_bounded() -> None:
    """What is left out is said, and no character is cut in two."""
    text = bounded("ü" * MAX_DUMP_BYTES)
    assert text.endswith(f"… {MAX_DUMP_BYTES} more bytes")
    assert len(text.encode()) < MAX_DUMP_BYTES + 40
    assert bounded("short") == "short"
