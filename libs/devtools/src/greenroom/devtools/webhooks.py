"""`greenroom webhooks`: whom events are told to, and whether that works."""

import asyncio
import time
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from greenroom.common.errors import GreenroomError
from greenroom.common.webhook_samples import TEST
from greenroom.devtools.client import ApiClient
from greenroom.devtools.state import connection

_PATH: Final = "/v1/webhook-endpoints"
# An attempt takes 15 s at most; then there is the way to a recorder and back.
PATIENCE_S: Final = 25.0
_LOOK_S: Final = 0.2


class WebhookNotChosen(GreenroomError):
    """There is no webhook endpoint, or more than one: say which. `greenroom webhooks list` shows their ids."""

    code = "webhook-not-chosen"
    title = "Which webhook endpoint?"


class WebhookNotTried(GreenroomError):
    """No recorder has tried to deliver the test. Does one run, with `webhooks` in `GREENROOM_RECORDER_WORK`?"""

    code = "webhook-not-tried"
    title = "Nobody delivers webhooks"
    retryable = True


async def show(console: Console) -> None:
    """Print the endpoints."""
    async with ApiClient(connection()) as client:
        found = (await client.get(_PATH))["endpoints"]
    if not found:
        console.print(f"no webhook endpoints; add one: POST {_PATH}", highlight=False)
        return
    console.print(table(found))


async def try_out(
    console: Console, endpoint_id: str | None, *, kind: str = TEST, patience_s: float = PATIENCE_S
) -> bool:
    """Send a test, as if it were a `kind`, wait for how it goes and print it; return whether it was delivered.

    Raises:
        WebhookNotChosen: `endpoint_id` is None, and there isn't just one.
        WebhookNotTried: nothing became of it.
    """
    async with ApiClient(connection()) as client:
        if endpoint_id is None:
            found = (await client.get(_PATH))["endpoints"]
            if len(found) != 1:
                raise WebhookNotChosen(f"there are {len(found)}")
            endpoint_id = found[0]["id"]
        delivery = await client.post(f"{_PATH}/{endpoint_id}/test?type={kind}")
        deadline = time.monotonic() + patience_s
        while delivery["state"] == "pending":
            if time.monotonic() > deadline:
                raise WebhookNotTried(f"not within {patience_s:g} s")
            await asyncio.sleep(_LOOK_S)
            delivery = await client.get(f"{_PATH}/{endpoint_id}/deliveries/{delivery['id']}")
    delivered = delivery["state"] == "delivered"
    mark = "[green]delivered[/]" if delivered else "[red]not delivered[/]"
    why = delivery["last_error"] or f"HTTP {delivery['last_status']}"
    console.print(f"{mark}: {why}  [dim]{delivery['id']}[/]", highlight=False)
    return delivered


def table(endpoints: list[dict[str, Any]]) -> Table:
    """Return endpoints for a terminal."""
    shown = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("endpoint", "url", "events", "state"):
        shown.add_column(column, no_wrap=column == "endpoint")
    for endpoint in endpoints:
        shown.add_row(endpoint["id"], escape(endpoint["url"]), escape(", ".join(endpoint["events"])), _state(endpoint))
    return shown


def _state(endpoint: dict[str, Any]) -> str:
    if not endpoint["enabled"]:
        reason = f" ({escape(endpoint['disabled_reason'])})" if endpoint["disabled_reason"] else ""
        return f"[red]disabled[/]{reason}"
    if endpoint["failures"]:
        return f"[yellow]failing[/] ({endpoint['failures']} in a row)"
    return "[green]enabled[/]"
