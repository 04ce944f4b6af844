"""What a session takes is what docs/sizing.md says: real calls through a real Greenroom, and its table beside them.

The table is under the heading "What CI measures again": of each figure what was measured when the page was written, and
from where to where it may be. Processor time is told in yardsticks (`tests/support/yardstick.py`), laid while the calls
run, so that neither another machine nor its neighbours make the difference. What was found is in the summary at the end
of the tests' output.
"""

import asyncio
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from tests.bench.density import Ours, environment
from tests.bench.memory import of
from tests.bench.processors import Meter, roles_of
from tests.bench.programs import program
from tests.support import yardstick
from tests.support.stack import running_stack

PAGE: Final = Path(__file__).parents[2] / "docs" / "sizing.md"
HEADING: Final = "## What CI measures again"
SESSIONS: Final = 4
# The first answers are dearer than later ones.
SETTLE_S: Final = 6.0
# One turn of each caller, and no more: they are spread over it.
MEASURE_S: Final = 10.0


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the table."""

    figure: float
    least: float
    most: float


def table() -> dict[str, Row]:
    """Return the lines of the page's table."""
    _, _, rest = PAGE.read_text().partition(f"{HEADING}\n")
    lines = [line for line in rest.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    # The first has the words above the columns.
    cells = [line.strip("| ").split(" | ") for line in lines[1:]]
    rows = {name: [float(number) for number in numbers] for name, *numbers in cells}
    return {name: Row(figure=figure, least=least, most=most) for name, (figure, least, most) in rows.items()}


async def measured(folder: Path) -> dict[str, float]:
    """Return what each of some calls takes."""
    async with program("tests.bench.openai_server") as stub:
        env = environment((await stub.line()).strip())
        settings = {"GREENROOM_SLOTS": str(SESSIONS), "GREENROOM_STANDBY": "0", "GREENROOM_BRAKE": "false"}
        async with (
            running_stack(folder, **settings, **env) as stack,
            program("tests.bench.density_load") as load,
        ):
            await load.ask({"call": await Ours(stack).add(SESSIONS)})
            await asyncio.sleep(SETTLE_S)
            meter = Meter(lambda: roles_of(stack))
            heard, marks = await asyncio.gather(load.ask({"measure": MEASURE_S}), _yardsticks(MEASURE_S))
            spent = meter.spent()
            sizes = [of(pid) for pid in roles_of(stack)["session"]]
    assert len(sizes) == SESSIONS
    assert heard["silent"] == 0, "a bot has given no answer"
    ms, kb = 1000 / SESSIONS / MEASURE_S, 1 / 1000 / SESSIONS / MEASURE_S
    mark = statistics.median(marks)
    return {
        "processor of a session's process, yardsticks/s": spent["session"] * ms / mark,
        "processor of all of Greenroom, yardsticks/s": sum(spent.values()) * ms / mark,
        "memory of its own (USS), MB": statistics.median(size.uss for size in sizes),
        "memory with its part of what is shared (PSS), MB": statistics.median(size.pss for size in sizes),
        "network from the client, kB/s": heard["sent_bytes"] * kb,
        "network to the client, kB/s": heard["received_bytes"] * kb,
        "a yardstick, processor ms": mark,
    }


async def _yardsticks(seconds: float) -> list[float]:
    marks: list[float] = []
    async with asyncio.timeout(seconds * 3):
        for _ in range(round(seconds * 2)):
            await asyncio.sleep(0.45)
            marks.append(yardstick.lay())
    return marks


async def test_a_session_takes_what_the_page_says(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Processor, memory and network of each of four calls are within the bounds of the table; the table is printed."""
    said, found = table(), await measured(tmp_path)
    lines = [f"{'what one of four calls takes':50} {'here':>9} {'docs':>9} {'from':>9} {'to':>9}"]
    for name, value in found.items():
        row = said.get(name)
        words = f" {row.figure:9.2f} {row.least:9.2f} {row.most:9.2f}" if row else ""
        lines.append(f"{name:50} {value:9.2f}{words}")
    record_property("measured", "\n".join(lines))
    assert said.keys() == found.keys() - {"a yardstick, processor ms"}
    outside = [name for name, row in said.items() if not row.least <= found[name] <= row.most]
    assert outside == [], "\n".join(lines)


def test_the_bounds_catch_a_doubling() -> None:
    """Of nothing twice as much as the page says is within its bounds, and the page's own figures are."""
    for name, row in table().items():
        assert row.least < row.figure < row.most < 2 * row.figure, name
