"""The commands about what is kept: `greenroom erase` and `greenroom retention`."""

import asyncio

import rich_click as click

from greenroom.devtools.terminal import console

_console = console()
_DAYS = click.IntRange(0, 36_525)


@click.command()
@click.argument("session")
@click.option("--stop", is_flag=True, help="End it first if it is live.")
@click.option("--wait", is_flag=True, help="Come back once it is done.")
def erase(session: str, *, stop: bool, wait: bool) -> None:
    """Erase SESSION for good: what was said in it, its recording, and what the broker has of it.

    It needs the scope `sessions:erase`, and can't be undone. Once this is answered it can't be lost either.
    """
    from greenroom.devtools import retention  # noqa: PLC0415 - as in `cli`: `--help` must load nothing

    asyncio.run(retention.erase(_console, session, stop=stop, wait=wait))


@click.group(invoke_without_command=True)
@click.pass_context
def retention(context: click.Context) -> None:
    """How long sessions are kept, and which are held; needs the scope `admin`."""
    if context.invoked_subcommand is None:
        context.invoke(retention_list)


@retention.command("list")
def retention_list() -> None:
    """List rules and holds, and what the last daily run deleted."""
    from greenroom.devtools import retention  # noqa: PLC0415

    asyncio.run(retention.show(_console))


_tenant = click.option("--tenant", default="*", show_default=True, help="Whose sessions; `*`: each tenant's.")
_agent = click.option("--agent", default="*", show_default=True, help="Of which agent; `*`: of each.")


@retention.command("set")
@_tenant
@_agent
@click.option("--recordings", type=_DAYS, metavar="DAYS", help="Keep recordings so long; default: for ever.")
@click.option("--events", type=_DAYS, metavar="DAYS", help="Keep events so long, transcripts included.")
@click.option("--sessions", type=_DAYS, metavar="DAYS", help="Keep sessions so long, and all of theirs.")
def retention_set(tenant: str, agent: str, recordings: int | None, events: int | None, sessions: int | None) -> None:
    """Make the rule for a tenant's agent, or replace it as a whole; the most specific one holds."""
    from greenroom.devtools import retention  # noqa: PLC0415

    days = {"recordings_days": recordings, "events_days": events, "sessions_days": sessions}
    asyncio.run(retention.put(_console, tenant, agent, days))


@retention.command("delete")
@_tenant
@_agent
def retention_delete(tenant: str, agent: str) -> None:
    """Delete the rule for a tenant's agent."""
    from greenroom.devtools import retention  # noqa: PLC0415

    asyncio.run(retention.delete(_console, tenant, agent))


@retention.command("hold")
@click.argument("session", required=False)
@_tenant
@_agent
@click.option("--reason", default="", help="For those who read it later.")
def retention_hold(session: str | None, tenant: str, agent: str, reason: str) -> None:
    """Hold SESSION, or all of a tenant and agent: nothing of it is deleted, whatever a rule or a request says."""
    from greenroom.devtools import retention  # noqa: PLC0415

    asyncio.run(retention.hold(_console, _place(session, tenant, agent), reason))


@retention.command("lift")
@click.argument("session", required=False)
@_tenant
@_agent
def retention_lift(session: str | None, tenant: str, agent: str) -> None:
    """Lift the hold of SESSION, or the one of a tenant and agent."""
    from greenroom.devtools import retention  # noqa: PLC0415

    asyncio.run(retention.lift(_console, _place(session, tenant, agent)))


def _place(session: str | None, tenant: str, agent: str) -> str:
    """Return where the hold is, below `/v1`."""
    from greenroom.devtools import retention  # noqa: PLC0415

    if session is None:
        return retention.rule_path(tenant, agent)
    if (tenant, agent) != ("*", "*"):
        raise click.UsageError("Either a session, or a tenant and agent.")
    return f"/v1/sessions/{session}"


COMMANDS = (erase, retention)
