"""The `greenroom` command."""

import asyncio
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypedDict, Unpack, cast

import rich_click as click
from rich.table import Table

from greenroom.common.errors import GreenroomError
from greenroom.common.log import configure_logging
from greenroom.devtools import (
    parked_cli,
    reading_cli,
    retention_cli,
    scheduling_cli,
    steering_cli,
    tenants_cli,
    usage_cli,
    webhooks_cli,
)
from greenroom.devtools.sim.command import sim
from greenroom.devtools.terminal import console

_console = console()
_errors = console(stderr=True)

click.rich_click.TEXT_MARKUP = "rich"
click.rich_click.COMMAND_GROUPS = {
    "greenroom": [
        {"name": "Run", "commands": ["up", "demo", "call"]},
        {"name": "Look", "commands": ["fleet", "queue", "sessions", "why", "tail", "trace", "doctor", "error"]},
        {
            "name": "Look",
            "commands": ["fleet", "queue", "sessions", "why", "tail", "trace", "usage", "doctor", "error"],
        },
        {"name": "Read", "commands": ["transcript", "bundle", "search"]},
        {"name": "Steer", "commands": ["say", "cmd", "listen", "limits", "pins", "parked", "webhooks"]},
        {"name": "Keep", "commands": ["retention", "erase"]},
        {"name": "Foresee", "commands": ["sim"]},
        {"name": "Set up", "commands": ["migrate", "topology", "keys", "tenants"]},
    ]
}


def main() -> NoReturn:
    """Run the command; an error of ours is one line and exit code 1, Ctrl-C is 130."""
    # What a command has to say it prints; of its parts only what is wrong is worth a line.
    configure_logging("greenroom", level="warning", form="console", instance_id="")
    try:
        code = cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort, asyncio.CancelledError):
        sys.exit(130)
    except GreenroomError as error:
        _fail(error)
    except BaseExceptionGroup as group:
        # Several parts may fail at once; the first that is ours says what to do.
        ours = next((error for error in _leaves(group) if isinstance(error, GreenroomError)), None)
        if ours is None:
            raise
        _fail(ours)
    sys.exit(code if isinstance(code, int) else 0)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _fail(error: GreenroomError) -> NoReturn:
    code = getattr(error, "api_code", error.code)
    _errors.print(f"[bold red]{error.title}:[/] {error.detail}", soft_wrap=True, highlight=False)
    _errors.print(f"[dim]greenroom error {code}[/] explains it")
    sys.exit(1)


def _run[T](work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def _bot_files(_context: click.Context, _option: click.Parameter, bots: tuple[str, ...]) -> tuple[str, ...]:
    """Check what `--bot` names, before anything is started."""
    from greenroom.runner import botfiles  # noqa: PLC0415

    for bot in bots:
        try:
            name, _, target = botfiles.parse(bot)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error
        file = target.rpartition(":")[0]
        if file.endswith(botfiles.SUFFIX) and not Path(file).is_file():
            raise click.BadParameter(f"{name}: there is no file {file}")
    return bots


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="greenroom-devtools", message="greenroom %(version)s")
def cli() -> None:
    """Greenroom: the self-hosted control plane for Pipecat voice agents."""


@cli.command()
@click.option("--api-port", default=8080, show_default=True, help="Port of the API; another one if it is taken.")
@click.option(
    "--bot",
    "bots",
    multiple=True,
    metavar="[NAME[@VERSION]=]FILE",
    callback=_bot_files,
    help="Offer the bot in this file; again for more.",
)
def up(api_port: int, bots: tuple[str, ...]) -> None:
    """Run a whole Greenroom here until Ctrl-C.

    NATS and PostgreSQL are embedded unless NATS_URL and DATABASE_URL name yours; state is kept under .greenroom/.
    Spans go to OTEL_EXPORTER_OTLP_ENDPOINT when that is set, else they are kept as files.
    """
    from greenroom.devtools import state, up  # noqa: PLC0415 - `--help` must not load PostgreSQL drivers and speech

    _run(up.run(_console, state.state_dir(), api_port=api_port, bots=bots))


@cli.command()
def demo() -> int:
    """Start everything, hold a scripted spoken call, show what was kept, stop.

    Exit code 0 only if everything that is printed at the end is true.
    """
    from greenroom.devtools import demo, state  # noqa: PLC0415

    return 0 if _run(demo.run(_console, state.state_dir())) else 1


class CallOptions(TypedDict):
    """The options of `greenroom call`, named as its parameters."""

    say: tuple[str, ...]
    wav: Path | None
    mic: bool
    out: Path | None
    body: str | None


@cli.command()
@click.argument("agent")
@click.option("--say", "say", multiple=True, metavar="TEXT", help="Say this; again for each turn. `!TEXT` barges in.")
@click.option("--wav", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Play this file.")
@click.option("--mic", is_flag=True, help="Speak through this machine's microphone (needs arecord).")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Where to write what was said and heard.")
@click.option("--body", metavar="JSON", help="The body that the bot is given.")
@click.option("--json", "as_json", is_flag=True, help="Print events and result as JSON lines.")
def call(agent: str, *, as_json: bool, **options: Unpack[CallOptions]) -> int:
    """Call AGENT and show the conversation as it happens.

    The caller speaks in turns: it waits until the bot has finished, says the next text, and hangs up when the bot does
    or when nothing is left to say. Both sides are written to a WAV file.
    """
    from greenroom.devtools import call_command  # noqa: PLC0415

    return _run(call_command.run(_console, agent, as_json=as_json, **options))


@cli.command()
@click.option("--state", help="Only sessions in this state (requested, leased, started, ready, ending, ended).")
@click.option("--agent", help="Only sessions of this agent.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 200))
def sessions(state: str | None, agent: str | None, limit: int) -> None:
    """List sessions, the newest first."""
    from greenroom.devtools import look  # noqa: PLC0415

    _run(look.sessions(_console, state=state, agent=agent, limit=limit))


@cli.command()
@click.argument("session", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON lines.")
def tail(session: str | None, *, as_json: bool) -> None:
    """Follow the events of SESSION, or of the newest one."""
    from greenroom.devtools import look  # noqa: PLC0415

    _run(look.tail(_console, session, as_json=as_json))


@cli.command()
@click.argument("session", required=False)
def trace(session: str | None) -> None:
    """Show the trace of SESSION (or of the newest one) as a waterfall.

    Traces are kept by `greenroom up` unless a collector is named; then look there, for example in Jaeger.
    """
    from greenroom.devtools import look  # noqa: PLC0415

    _run(look.trace(_console, session))


@cli.command()
def doctor() -> int:
    """Check every dependency and say of each what to do."""
    from greenroom.devtools import doctor  # noqa: PLC0415

    findings = _run(doctor.examine())
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        mark = "[green]✓[/]" if finding.ok else "[red]✗[/]"
        table.add_row(mark, finding.name, finding.detail, f"[yellow]{finding.advice}[/]")
    _console.print(table)
    return 0 if all(finding.ok for finding in findings) else 1


@cli.command()
@click.argument("code", required=False)
def error(code: str | None) -> int:
    """Explain the error or reason CODE, or list all of them."""
    from greenroom.devtools import all_errors  # noqa: PLC0415

    known = all_errors.catalogue()
    if code is None:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("code", "HTTP", "what"):
            table.add_column(column)
        for entry in known.values():
            table.add_row(entry.code, str(entry.status or ""), entry.title)
        _console.print(table)
        return 0
    entry = known.get(code)
    if entry is None:
        near = [name for name in known if code in name or name in code]
        _errors.print(f"There is no code {code!r}." + (f" Near: {', '.join(near)}" if near else ""), highlight=False)
        return 1
    _console.print(f"[bold]{entry.code}[/]  {entry.title}", highlight=False)
    facts = [f"HTTP {entry.status}"] if entry.status else []
    facts += [f"ends a session as {entry.outcome}"] if entry.outcome else []
    facts += ["the same request may succeed later"] if entry.retryable else []
    if facts:
        _console.print(f"[dim]{' · '.join(facts)}[/]", highlight=False)
    _console.print("\n" + entry.help, highlight=False)
    return 0


@cli.command()
@click.option("--status", is_flag=True, help="Only list the migrations and when they were applied.")
def migrate(*, status: bool) -> None:
    """Bring the schema of the database (DATABASE_URL) up to date."""
    from greenroom.devtools import setup_commands  # noqa: PLC0415

    _run(setup_commands.migrate(_console, status_only=status))


@cli.group()
def topology() -> None:
    """Streams and consumers on the NATS server (NATS_URL)."""


@topology.command("diff")
def topology_diff() -> int:
    """Show what is missing or different; exit code 1 if anything is."""
    from greenroom.devtools import setup_commands  # noqa: PLC0415

    return 1 if _run(setup_commands.topology_diff(_console)) else 0


@topology.command("apply")
@click.option(
    "--replicas", default=1, show_default=True, type=click.IntRange(1, 5), help="For streams made now; 3 in a cluster."
)
def topology_apply(replicas: int) -> None:
    """Make what is missing and change what differs; nothing is deleted."""
    from greenroom.devtools import setup_commands  # noqa: PLC0415

    _run(setup_commands.topology_apply(_console, replicas=replicas))


@cli.group()
def keys() -> None:
    """API keys (in the database, DATABASE_URL)."""


@keys.command("create")
@click.argument("name")
@click.option("--tenant", default="default", show_default=True)
@click.option(
    "--scope", "scopes", multiple=True, default=("*",), show_default=True, help="What it may do; again for more."
)
@click.option("--expires", metavar="SPAN|DATE", help="How long it is good, as 90d, 12h or 30m; or to the end of a day.")
def keys_create(name: str, tenant: str, scopes: tuple[str, ...], expires: str | None) -> None:
    """Make a key called NAME and print it: the only time it can be seen."""
    from greenroom.common.clock import utcnow  # noqa: PLC0415
    from greenroom.devtools import keys as api_keys  # noqa: PLC0415
    from greenroom.devtools import setup_commands  # noqa: PLC0415

    try:
        expires_at = api_keys.expiry(expires, utcnow()) if expires is not None else None
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--expires") from error
    _run(setup_commands.create_key(_console, name=name, tenant=tenant, scopes=scopes, expires_at=expires_at))


@keys.command("list")
def keys_list() -> None:
    """List the keys."""
    from greenroom.devtools import setup_commands  # noqa: PLC0415

    _run(setup_commands.list_keys(_console))


@keys.command("revoke")
@click.argument("prefix")
def keys_revoke(prefix: str) -> int:
    """Revoke the key that begins with PREFIX; in force within seconds."""
    from greenroom.devtools import setup_commands  # noqa: PLC0415

    return 0 if _run(setup_commands.revoke_key(_console, prefix)) else 1


for _module in (
    reading_cli,
    scheduling_cli,
    steering_cli,
    parked_cli,
    retention_cli,
    tenants_cli,
    usage_cli,
    webhooks_cli,
):
    for _command in _module.COMMANDS:
        cli.add_command(_command)
cli.add_command(sim)

if __name__ == "__main__":
    main()
