"""`greenroom pins`: what is kept running, and how each session of it stands; set and delete pins."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from greenroom.devtools.client import ApiClient
from greenroom.devtools.state import connection

_STYLES = {"running": "green", "backing_off": "yellow", "given_up": "red"}


async def show(console: Console) -> None:
    """Print the pins, a line for each session that isn't simply running."""
    async with ApiClient(connection()) as client:
        answer = await client.get("/v1/pins")
    if not answer["pins"]:
        console.print("no pins: sessions run when somebody asks for them")
        return
    console.print(table(answer["pins"]))
    if answer["problem"]:
        console.print("[red]no scheduler leads[/]: nobody keeps them running")
    elif answer["applied_revision"] != answer["revision"]:
        console.print("[yellow]the scheduler goes by an older policy than the stored one[/]; ask again in two seconds")


async def put(console: Console, pin_id: str, wish: dict[str, Any]) -> None:
    """Make a pin, or replace it as a whole; fields that are None are left out."""
    async with ApiClient(connection()) as client:
        body = {name: value for name, value in wish.items() if value is not None}
        pin = await client.put(f"/v1/pins/{pin_id}", body)
    console.print(table([pin]))


async def delete(console: Console, pin_id: str) -> None:
    """Delete a pin."""
    async with ApiClient(connection()) as client:
        await client.delete(f"/v1/pins/{pin_id}")
    console.print(f"{pin_id} is kept running no longer; its sessions are being stopped", highlight=False)


def table(pins: list[dict[str, Any]]) -> Table:
    """Return pins for a terminal."""
    shown = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("pin", "tenant", "agent", "pool", "running", "slot", "state"):
        shown.add_column(column, no_wrap=True)
    shown.add_column("session, or why there is none", overflow="fold")
    for pin in pins:
        running = "?" if pin["running"] is None else str(pin["running"])
        names = (escape(pin["id"]), escape(pin["tenant"]), escape(pin["agent"]), escape(pin["pool"]))
        shown.add_row(*names, f"{running}/{pin['count']}", "", "", "")
        for slot in pin["slots"] or ():
            style = _STYLES.get(slot["state"], "")
            state = f"[{style}]{slot['state']}[/]" if style else slot["state"]
            shown.add_row("", "", "", "", "", str(slot["slot"]), state, escape(slot["session_id"] or slot["text"]))
    return shown
