"""The commands that read what was kept: `greenroom transcript`, `bundle` and `search`."""

import asyncio
from pathlib import Path

import rich_click as click

from greenroom.devtools.terminal import console

_console = console()


@click.command()
@click.argument("session", required=False)
@click.option(
    "--format", "form", type=click.Choice(["text", "vtt", "json"]), default="text", show_default=True, help="As what."
)
def transcript(session: str | None, *, form: str) -> None:
    """Print what was said in SESSION, or in the newest one; of one that goes on, what was said so far."""
    from greenroom.devtools import reading  # noqa: PLC0415 - as in `cli`: `--help` must load nothing

    asyncio.run(reading.transcript(session, form))


@click.command()
@click.argument("session")
@click.option(
    "-o",
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write it; default: SESSION.zip here.",
)
def bundle(session: str, *, out: Path | None) -> None:
    """Write everything of SESSION into one zip: events, transcript, timeline, recording."""
    from greenroom.devtools import reading  # noqa: PLC0415

    asyncio.run(reading.bundle(_console, session, out or Path(f"{session}.zip")))


@click.command()
@click.argument("words", nargs=-1, required=True)
@click.option("--agent", help="Only sessions of this agent.")
@click.option("--from", "since", metavar="TIME", help="Requested at or after, e.g. 2026-03-02T00:00:00Z.")
@click.option("--to", "until", metavar="TIME", help="Requested before.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 100))
def search(words: tuple[str, ...], *, agent: str | None, since: str | None, until: str | None, limit: int) -> None:
    """Find the sessions in which all WORDS were said, the newest first.

    Words are joined as they are: `greenroom search '"a table" or booking'` looks for a phrase, or for a word.
    """
    from greenroom.devtools import reading  # noqa: PLC0415

    asyncio.run(reading.search(_console, " ".join(words), agent=agent, since=since, until=until, limit=limit))


COMMANDS = (transcript, bundle, search)
