"""The commands about messages that couldn't be processed: `greenroom parked list`, `show` and `replay`."""

import asyncio

import rich_click as click

from greenroom.devtools.terminal import console

_console = console()


@click.group(invoke_without_command=True)
@click.pass_context
def parked(context: click.Context) -> None:
    """Messages that could not be processed, on the NATS server (NATS_URL)."""
    if context.invoked_subcommand is None:
        context.invoke(parked_list)


@parked.command("list")
@click.option("--stream", help="Only what came from this stream, for example SESSIONS.")
@click.option("--all", "everything", is_flag=True, help="Also what was put back.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 100_000), help="The newest so many.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
def parked_list(
    *, stream: str | None = None, everything: bool = False, limit: int = 100, as_json: bool = False
) -> None:
    """List parked messages with their reasons."""
    from greenroom.devtools import parked  # noqa: PLC0415 - as in `cli`: `--help` must load nothing

    asyncio.run(parked.show_list(_console, stream=stream, everything=everything, limit=limit, as_json=as_json))


@parked.command("show")
@click.argument("number", type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def parked_show(number: int, *, as_json: bool) -> None:
    """Show the parked message NUMBER as a whole, body included: it may be a part of a conversation."""
    from greenroom.devtools import parked  # noqa: PLC0415

    asyncio.run(parked.show(_console, number, as_json=as_json))


@parked.command("replay")
@click.argument("numbers", nargs=-1, type=click.IntRange(1), metavar="[NUMBER]...")
@click.option("--all", "everything", is_flag=True, help="All that weren't put back yet.")
@click.option("--stream", help="With `--all`: only what came from this stream.")
def parked_replay(numbers: tuple[int, ...], *, everything: bool, stream: str | None) -> int:
    """Put the parked messages NUMBER… back where they came from, each once; exit code 1 if one can't be."""
    from greenroom.devtools import parked  # noqa: PLC0415

    if bool(numbers) == everything:
        raise click.UsageError("Name the numbers, or say --all.")
    return 1 if asyncio.run(parked.replay(_console, numbers, stream=stream, everything=everything)) else 0


COMMANDS = (parked,)
