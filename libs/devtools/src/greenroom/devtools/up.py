"""`greenroom up`: a whole Greenroom in the foreground, for development and for a first look."""

import asyncio
import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from greenroom.common.errors import GreenroomError
from greenroom.devtools import growing
from greenroom.devtools.stack import Stack
from greenroom.devtools.state import UpState, read_state, write_state
from greenroom.runner import botfiles

COLOURS: Final = {"api": "cyan", "scheduler": "magenta", "runner": "yellow", "recorder": "blue"}
_NAME_WIDTH: Final = 9
_BOTS: Final = "GREENROOM_BOTS"
# A service that ends by itself is started again after this, and given up when it keeps ending.
_RESTART_AFTER_S: Final = 1.0
_MAX_RESTARTS: Final = 5
_RESTART_WINDOW_S: Final = 60.0


class AlreadyUp(GreenroomError):
    """Another `greenroom up` runs on the same state folder: use it, stop it, or set GREENROOM_STATE_DIR."""

    code = "already-up"
    status = 409
    title = "Not started"


@contextlib.contextmanager
def only_one(folder: Path) -> Generator[None]:
    """Hold the state folder for the time of the block.

    Raises:
        AlreadyUp: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            state = read_state(folder)
            where = f" (process {state.pid}, API at {state.api_url})" if state else ""
            raise AlreadyUp(f"Greenroom is already up in {folder}{where}") from None
        try:
            yield
        finally:
            (folder / "up.json").unlink(missing_ok=True)


def service_line(name: str, line: str) -> Text:
    """Return a line of a service's log with the service's name in its colour."""
    text = Text(f"{name:>{_NAME_WIDTH}} ", style=f"bold {COLOURS.get(name, 'white')}")
    return text.append(Text.from_ansi(line))


def table_of(state: UpState) -> Table:
    """Return where everything is, and the key."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("api", state.api_url)
    table.add_row("key", state.api_key)
    table.add_row("nats", state.nats_url)
    table.add_row("postgres", state.database_url)
    table.add_row("spans", f"{state.otlp_url} (kept in {state.traces_dir})")
    table.add_row("recordings", state.recordings_dir)
    for name, url in state.health.items():
        table.add_row(name, f"{url}/readyz  {url}/metrics", style="dim")
    return table


async def run(console: Console, folder: Path, *, api_port: int, bots: Sequence[str] = ()) -> None:
    """Run until SIGINT or SIGTERM; a second one kills.

    Args:
        console: where to show what happens.
        folder: the state folder.
        api_port: preferred port of the API.
        bots: to be offered beside those of `GREENROOM_BOTS`, in its form.

    Raises:
        AlreadyUp: another one runs here.
        GreenroomError: something didn't start.
    """
    with only_one(folder):
        offered = ",".join(filter(None, (os.environ.get(_BOTS), *bots)))
        stack = Stack(
            folder,
            env={growing.LAUNCHER: "process", **os.environ, _BOTS: offered},
            on_line=lambda name, line: console.print(service_line(name, line), soft_wrap=True, highlight=False),
            on_step=lambda step: console.print(f"[dim]{step} …[/]"),
            api_port=api_port,
        )
        stopping = _stop_on_signals(asyncio.current_task())
        began = time.monotonic()
        starting = asyncio.create_task(stack.start())
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait({starting, stop}, return_when=asyncio.FIRST_COMPLETED)
        if stopping.is_set():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return
        await starting
        write_state(folder, stack.state())
        console.print(f"\n[bold green]Greenroom is up[/] [dim]in {time.monotonic() - began:.1f} s[/]")
        console.print(table_of(stack.state()))
        agent = botfiles.parse(bots[0])[0] if bots else "frontdesk"
        console.print(
            f'\nTry [bold]greenroom call {agent} --say "what time is it"[/] in another terminal; Ctrl-C stops.\n'
        )
        try:
            await _watch(console, stack, stop)
        finally:
            began = time.monotonic()
            console.print("[dim]stopping (Ctrl-C again kills) …[/]")
            try:
                await stack.stop()
            except asyncio.CancelledError:
                await stack.kill()
                console.print("[bold red]killed[/]")
                raise
            console.print(f"[bold]stopped[/] [dim]in {time.monotonic() - began:.1f} s[/]")


async def _watch(console: Console, stack: Stack, stop: asyncio.Task[bool]) -> None:
    """Start services again that end by themselves, until it is time to stop."""
    restarts: list[float] = []
    exits = {asyncio.create_task(service.exited()): name for name, service in stack.services.items()}
    try:
        while True:
            done, _ = await asyncio.wait({stop, *exits}, return_when=asyncio.FIRST_COMPLETED)
            if stop in done:
                return
            for task in done:
                name = exits.pop(task)
                restarts = [at for at in restarts if time.monotonic() - at < _RESTART_WINDOW_S] + [time.monotonic()]
                if len(restarts) > _MAX_RESTARTS:
                    console.print(f"[bold red]{name} keeps ending:[/] giving up")
                    return
                console.print(f"[red]{name} ended with exit code {task.result()}[/]; starting it again")
                await asyncio.sleep(_RESTART_AFTER_S)
                service = await stack.start_service(name)
                write_state(stack.folder, stack.state())
                exits[asyncio.create_task(service.exited())] = name
    finally:
        for task in exits:
            task.cancel()


def _stop_on_signals(task: asyncio.Task[None] | None) -> asyncio.Event:
    stopping = asyncio.Event()

    def stop() -> None:
        if stopping.is_set() and task is not None:
            task.cancel()
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    return stopping
