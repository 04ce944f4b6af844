"""The command `greenroom usage`."""

import asyncio

import rich_click as click

from greenroom.devtools.terminal import console

_console = console()


@click.command()
@click.option(
    "--by",
    default="day",
    show_default=True,
    type=click.Choice(["session", "agent", "tenant", "day", "provider", "model", "unit"]),
    help="What groups are made by.",
)
@click.option("--from", "since", help="Sessions that started then or later, e.g. 2026-03-01T00:00:00Z; 30 days before.")
@click.option("--to", "until", help="Sessions that started before that; now.")
@click.option("--zone", help="Whose days they are, e.g. Europe/Berlin; UTC.")
@click.option("--tenant", help="Only this tenant's; for operators.")
@click.option("--agent", help="Only this agent's.")
@click.option("--session", help="Only this session's.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 100_000), help="Groups at most.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
def usage(  # noqa: PLR0917 - click passes options by name
    by: str,
    since: str | None,
    until: str | None,
    zone: str | None,
    tenant: str | None,
    agent: str | None,
    session: str | None,
    limit: int,
    *,
    as_json: bool,
) -> None:
    """Show what ended sessions used, what that costs, and how budgets stand."""
    from greenroom.devtools import usage  # noqa: PLC0415 - as in `cli`: `--help` must load nothing

    asyncio.run(
        usage.show(
            _console,
            as_json=as_json,
            most=limit,
            group_by=by,
            since=since,
            until=until,
            zone=zone,
            tenant=tenant,
            agent=agent,
            session_id=session,
        )
    )


COMMANDS = (usage,)
