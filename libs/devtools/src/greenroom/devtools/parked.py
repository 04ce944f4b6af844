"""`greenroom parked`: what couldn't be processed, shown and put back."""

import contextlib
import getpass
import os
from collections.abc import AsyncGenerator, Sequence
from typing import Final

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from greenroom.common.errors import GreenroomError
from greenroom.common.nats_broker import NatsBroker
from greenroom.devtools import parked_messages
from greenroom.devtools.parked_messages import ParkedMessage
from greenroom.devtools.state import read_state, state_dir

# Of a body that isn't text so many bytes are shown.
_SHOWN_BYTES: Final = 256
_CONNECT_S: Final = 10.0


@contextlib.asynccontextmanager
async def _connected() -> AsyncGenerator[NatsBroker]:
    state = read_state(state_dir())
    url = os.environ.get("NATS_URL") or (state.nats_url if state else "nats://127.0.0.1:4222")
    broker = await NatsBroker.connect(url, name="greenroom parked", timeout_s=_CONNECT_S)
    try:
        yield broker
    finally:
        await broker.close()


async def show_list(console: Console, *, stream: str | None, everything: bool, limit: int, as_json: bool) -> None:
    """Print what is parked, the newest last."""
    async with _connected() as broker:
        found = await parked_messages.listed(broker, stream=stream, everything=everything)
    shown = found[-limit:]
    if as_json:
        for message in shown:
            console.out(msgspec.json.encode(parked_messages.as_builtins(message)).decode(), highlight=False)
        return
    if not found:
        console.print("nothing is parked" if everything else "nothing is parked that wasn't put back")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("number", "at", "stream", "subject", "reason", ""):
        table.add_column(column, overflow="fold")
    for message in shown:
        parked = message.parked
        at = parked.at.isoformat(timespec="seconds")
        done = "[green]put back[/]" if message.replayed else ""
        table.add_row(str(message.seq), at, parked.stream, escape(parked.subject), escape(parked.reason), done)
    console.print(table)
    if len(found) > len(shown):
        console.print(f"[dim]the newest {len(shown)} of {len(found)}[/]")


async def show(console: Console, seq: int, *, as_json: bool) -> None:
    """Print one of them as a whole."""
    async with _connected() as broker:
        message = await parked_messages.one(broker, seq)
    if as_json:
        console.out(msgspec.json.encode(parked_messages.as_builtins(message)).decode(), highlight=False)
        return
    parked = message.parked
    console.print(f"[bold]{seq}[/]  {escape(parked.subject)}", highlight=False, soft_wrap=True)
    console.print(f"[yellow]{escape(parked.reason)}[/]", highlight=False, soft_wrap=True)
    console.print(
        f"[dim]{parked.at.isoformat(timespec='seconds')} by {parked.consumer}; "
        f"it was number {parked.stream_seq} of {parked.stream}[/]",
        highlight=False,
        soft_wrap=True,
    )
    if message.replayed:
        console.print(f"[green]put back[/] {_when(message)}", highlight=False)
    for name, value in parked.headers.items():
        console.print(f"[dim]{escape(name)}:[/] {escape(value)}", highlight=False, soft_wrap=True)
    text = parked_messages.body_text(parked.payload)
    if text is None:
        more = " …" if len(parked.payload) > _SHOWN_BYTES else ""
        text = f"{len(parked.payload)} bytes: {parked.payload[:_SHOWN_BYTES].hex(' ')}{more}"
    console.print("\n" + escape(text), highlight=False, soft_wrap=True)


async def replay(console: Console, numbers: Sequence[int], *, stream: str | None, everything: bool) -> int:
    """Put messages back and say of each what became of it; returns how many couldn't be."""
    failed = 0
    async with _connected() as broker:
        if everything:
            numbers = [message.seq for message in await parked_messages.listed(broker, stream=stream)]
            if not numbers:
                console.print("nothing is parked that wasn't put back")
        for seq in numbers:
            before = await _marked(broker, seq)
            try:
                message = await parked_messages.replay(broker, seq, by=getpass.getuser())
            except GreenroomError as error:
                failed += 1
                console.print(f"{seq}  [red]{error.title}[/]: {escape(error.detail)}", highlight=False, soft_wrap=True)
                continue
            said = "[dim]was put back already[/]" if before else "[green]put back[/]"
            console.print(f"{seq}  {said} {_when(message)}", highlight=False, soft_wrap=True)
    return failed


async def _marked(broker: NatsBroker, seq: int) -> bool:
    with contextlib.suppress(GreenroomError):
        return (await parked_messages.one(broker, seq)).replayed is not None
    return False


def _when(message: ParkedMessage) -> str:
    done = message.replayed
    if done is None:
        return ""
    by = f" by {done.by}" if done.by else ""
    return escape(
        f"{done.at.isoformat(timespec='seconds')}{by}, as number {done.stream_seq} of {message.parked.stream}"
    )
