"""The commands that steer live sessions: `greenroom say`, `cmd` and `listen`."""

import asyncio
from pathlib import Path

import rich_click as click

from greenroom.devtools.terminal import console

_console = console()


@click.command()
@click.argument("session")
@click.argument("text")
@click.option("--interrupt", is_flag=True, help="At once, in place of what the bot is saying.")
def say(session: str, text: str, *, interrupt: bool) -> None:
    """Have the bot of SESSION say TEXT."""
    from greenroom.devtools import steering  # noqa: PLC0415 - as in `cli`: `--help` must load nothing

    asyncio.run(steering.send(_console, session, {"type": "say", "text": text, "interrupt": interrupt}))


@click.command()
@click.argument("session")
@click.argument("name")
@click.argument("fields", required=False, metavar="[JSON]")
def cmd(session: str, name: str, fields: str | None) -> None:
    """Send the command NAME with the fields JSON to SESSION, and print its result.

    For example `greenroom cmd SESSION snapshot`, or `greenroom cmd SESSION mute '{"side": "user"}'`.
    """
    from greenroom.devtools import steering  # noqa: PLC0415

    asyncio.run(steering.command(_console, session, name, fields))


@click.command()
@click.argument("session")
@click.option(
    "--wav", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Where to write what is heard."
)
@click.option("--both", is_flag=True, help="Stereo: the user left, the bot right.")
def listen(session: str, *, wav: Path, both: bool) -> None:
    """Listen in on SESSION until it ends, or Ctrl-C."""
    from greenroom.devtools import steering  # noqa: PLC0415

    asyncio.run(steering.listen(_console, session, wav=wav, both=both))


COMMANDS = (say, cmd, listen)
