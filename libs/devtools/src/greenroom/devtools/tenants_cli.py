"""The commands about tenants: `greenroom tenants`."""

import asyncio

import rich_click as click

from greenroom.devtools.terminal import console

_console = console()


@click.group(invoke_without_command=True)
@click.pass_context
def tenants(context: click.Context) -> None:
    """Who there is, and who gets new sessions; needs the scope `admin`."""
    if context.invoked_subcommand is None:
        context.invoke(tenants_list)


@tenants.command("list")
@click.option("--suspended", is_flag=True, help="Only those that are.")
def tenants_list(*, suspended: bool = False) -> None:
    """List tenants."""
    from greenroom.devtools import tenants  # noqa: PLC0415 - as in `cli`: `--help` must load nothing

    asyncio.run(tenants.show(_console, suspended=suspended))


@tenants.command("suspend")
@click.argument("tenant")
@click.option("--note", help="Why; replaces the note of the tenant.")
def tenants_suspend(tenant: str, note: str | None) -> None:
    """Refuse the new sessions of TENANT, within two seconds; those it has go on."""
    from greenroom.devtools import tenants  # noqa: PLC0415

    asyncio.run(tenants.suspend(_console, tenant, note))


@tenants.command("resume")
@click.argument("tenant")
def tenants_resume(tenant: str) -> None:
    """Let TENANT have new sessions again."""
    from greenroom.devtools import tenants  # noqa: PLC0415

    asyncio.run(tenants.resume(_console, tenant))


COMMANDS = (tenants,)
