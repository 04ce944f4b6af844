"""`greenroom transcript`, `bundle` and `search`: read what was kept."""

import html
import re
import sys
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from greenroom.common.errors import SessionNotFound
from greenroom.devtools.client import ApiClient
from greenroom.devtools.state import connection

_MARK: Final = re.compile(r"<mark>(.*?)</mark>", re.DOTALL)


async def transcript(session_id: str | None, form: str) -> None:
    """Write the transcript of a session (None: the newest one) to standard output, as the API has it.

    Raises:
        SessionNotFound: there are no sessions.
        ApiProblem, ApiUnreachable: see `ApiClient`.
    """
    async with ApiClient(connection()) as client:
        chosen = session_id or await _newest(client)
        content = await client.download(f"/v1/sessions/{chosen}/transcript?format={form}")
    sys.stdout.write(content.decode())
    if not content.endswith(b"\n"):
        sys.stdout.write("\n")


async def bundle(console: Console, session_id: str, out: Path) -> None:
    """Write the bundle of a session to `out`, which is whole or not there.

    Raises:
        ApiProblem, ApiUnreachable: see `ApiClient`.
    """
    async with ApiClient(connection()) as client:
        size = await client.save(f"/v1/sessions/{session_id}/bundle", out)
    console.print(f"{out} ({size / 1e6:.1f} MB)", highlight=False, markup=False, soft_wrap=True)


async def search(
    console: Console, words: str, *, agent: str | None, since: str | None, until: str | None, limit: int
) -> None:
    """Print in which sessions something was said. Raises as `bundle`."""
    limits: dict[str, Any] = {"agent": agent, "from": since, "to": until, "limit": limit}
    async with ApiClient(connection()) as client:
        page = await client.get("/v1/search", q=words, **limits)
    for hit in page["hits"]:
        when = str(hit["requested_at"])[:19].replace("T", " ")
        line = Text.assemble((f"{hit['session_id']}  ", "bold"), (f"{when}  {hit['agent']}", "dim"))
        if hit["start_ms"] is not None:
            minutes, seconds = divmod(hit["start_ms"] // 1000, 60)
            line.append(f"  at {minutes}:{seconds:02}", style="dim")
        console.print(line, soft_wrap=True, highlight=False)
        console.print(Text("    ").append_text(marked(hit["snippet"])), soft_wrap=True, highlight=False)
    if not page["hits"]:
        console.print("nobody has said that: sessions can be found a moment after they have ended")
    elif page["next"]:
        console.print(Text("there are more: --limit, or --to the time of the last one", style="dim"))


def marked(snippet: str) -> Text:
    """Return a snippet of the API for a terminal: what was found stands out."""
    text = Text()
    # Pieces alternate: what is between marks, and what is in them.
    for number, piece in enumerate(_MARK.split(snippet)):
        text.append(html.unescape(piece), style="bold yellow" if number % 2 else "")
    return text


async def _newest(client: ApiClient) -> str:
    page = await client.get("/v1/sessions", limit=1)
    if not page["sessions"]:
        raise SessionNotFound("there are no sessions yet")
    return str(page["sessions"][0]["id"])
