"""`make demo`: the main job once through, on this machine: a spoken call, and what was kept of it."""

import asyncio
import os
import time
from pathlib import Path
from typing import Final

from rich.console import Console

from greenroom.devtools import call, growing, summary, transcript
from greenroom.devtools.client import ApiClient, ServerEvent
from greenroom.devtools.stack import Stack
from greenroom.devtools.state import Connection, write_state
from greenroom.devtools.up import only_one, service_line

AGENT: Final = "frontdesk"
# A leading `!` barges in: it is said into the bot's turn.
SCRIPT: Final = (
    "what are your opening hours",
    "!i would like to book a table",
    "for four people",
    "on friday",
    "at seven pm",
    "yes please",
    "please transfer me to a person",
    "goodbye",
)
EXPECTED: Final = summary.Expected(caller_sentences=len(SCRIPT), tool_calls=4, barge_ins=1, reason="goodbye")
# Spans are exported twice a second, and the recorder's last one comes after the recording is sealed.
_SPANS_SETTLE_S: Final = 1.5


async def run(console: Console, folder: Path) -> bool:
    """Start everything, hold the scripted call, show what was kept, stop; return whether all of it is true.

    Raises:
        AlreadyUp: another one runs on the same state folder.
        GreenroomError: something didn't start, or the call could not be placed.
    """
    log_path = folder / "demo.log"
    with only_one(folder), log_path.open("w") as log:
        stack = Stack(
            folder,
            env={growing.LAUNCHER: "process", **os.environ},
            on_line=lambda name, line: print(service_line(name, line).plain, file=log, flush=True),
            on_step=lambda step: console.print(f"[dim]{step} …[/]"),
        )
        began = time.monotonic()
        await stack.start()
        try:
            state = stack.state()
            write_state(folder, state)
            console.print(
                f"[bold green]Greenroom is up[/] [dim]in {time.monotonic() - began:.1f} s; log in {log_path}[/]\n"
            )
            async with ApiClient(Connection(api_url=state.api_url, api_key=state.api_key)) as client:
                lines = await asyncio.to_thread(call.spoken, SCRIPT)
                report = await call.place(client, AGENT, lines, on_event=lambda event: _show(console, event))
            call.save(report, folder / "heard.wav")
            await asyncio.sleep(_SPANS_SETTLE_S)
            kept = await summary.examine(report, state, EXPECTED)
        finally:
            console.print("[dim]stopping …[/]")
            await stack.stop()
    summary.show(console, kept)
    if kept.problems:
        console.print(f"\n[bold red]Not everything is true.[/] The services' log is in {log_path}.")
    return not kept.problems


def _show(console: Console, event: ServerEvent) -> None:
    line = transcript.conversation_line(event)
    if line is not None:
        console.print(line, soft_wrap=True, highlight=False)
