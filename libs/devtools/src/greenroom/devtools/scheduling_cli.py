"""The commands that show and steer scheduling: `greenroom fleet`, `queue`, `why`, `limits` and `pins`."""

import asyncio

import rich_click as click

from greenroom.devtools.terminal import console

_console = console()


@click.group(invoke_without_command=True)
@click.option("--once", is_flag=True, help="Print it once instead of keeping it on the screen.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
@click.pass_context
def fleet(context: click.Context, *, once: bool, as_json: bool) -> None:
    """Watch pools and runners until Ctrl-C, or tell a runner what to do.

    Runners are shown to keys with the scope `admin`, since they show the sessions of all tenants. Telling them needs
    `policy:write`.
    """
    if context.invoked_subcommand is not None:
        return
    from greenroom.devtools import fleet  # noqa: PLC0415 - as in `cli`: `--help` must load nothing

    asyncio.run(fleet.fleet(_console, once=once, as_json=as_json))


_POOL = click.option("--pool", help="Where it is; only needed if runners of two pools have the same name.")


@fleet.command("drain")
@click.argument("runner")
@_POOL
@click.option("--version", type=click.IntRange(1), help="Only bots of this version; the others are still offered.")
@click.option("--bot", help="Only the bot of this name, in all its versions or in the one that is said.")
@click.option("--reason", default="", help="Why, for the runner's log.")
def fleet_drain(runner: str, *, pool: str | None, version: int | None, bot: str | None, reason: str) -> None:
    """Have RUNNER take no new sessions; those that run go on to their own ends."""
    from greenroom.devtools import fleet  # noqa: PLC0415

    wish = {"reason": reason, "agent_version": version, "bot": bot}
    asyncio.run(fleet.order(_console, runner, "drain", pool=pool, wish=wish))


@fleet.command("resume")
@click.argument("runner")
@_POOL
@click.option("--reason", default="", help="Why, for the runner's log.")
def fleet_resume(runner: str, pool: str | None, reason: str) -> None:
    """Have RUNNER take new sessions again, of all versions; one that is being stopped refuses."""
    from greenroom.devtools import fleet  # noqa: PLC0415

    asyncio.run(fleet.order(_console, runner, "resume", pool=pool, wish={"reason": reason}))


@fleet.command("standby")
@click.argument("runner")
@click.argument("processes", type=click.IntRange(0, 64))
@_POOL
@click.option("--for", "for_s", default=60.0, show_default=True, type=click.FloatRange(0, 600, min_open=True), help="s")
def fleet_standby(runner: str, processes: int, pool: str | None, for_s: float) -> None:
    """Have so many PROCESSES wait on RUNNER for a while, within its slots."""
    from greenroom.devtools import fleet  # noqa: PLC0415

    asyncio.run(fleet.order(_console, runner, "standby", pool=pool, wish={"target": processes, "for_s": for_s}))


@click.command()
@click.option("--pool", help="Only sessions for this pool.")
@click.option("--all", "everybody", is_flag=True, help="Sessions of all tenants; needs the scope `admin`.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
def queue(*, pool: str | None, everybody: bool, limit: int, as_json: bool) -> None:
    """List waiting sessions in their order, and what each waits for."""
    from greenroom.devtools import waiting  # noqa: PLC0415

    asyncio.run(waiting.queue(_console, pool=pool, everybody=everybody, limit=limit, as_json=as_json))


@click.command()
@click.argument("session")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
def why(session: str, *, as_json: bool) -> None:
    """Explain what was decided about SESSION, from what, and what happened to it.

    From what is stored, so it works for as long as the session's history is kept.
    """
    from greenroom.devtools import why  # noqa: PLC0415

    asyncio.run(why.why(_console, session, as_json=as_json))


@click.group(invoke_without_command=True)
@click.pass_context
def limits(context: click.Context) -> None:
    """Limits on sessions: how many of what at once, and how fast."""
    if context.invoked_subcommand is None:
        context.invoke(limits_list)


@limits.command("list")
def limits_list() -> None:
    """List limits, and how much of each is used now."""
    from greenroom.devtools import limits  # noqa: PLC0415

    asyncio.run(limits.show(_console))


@limits.command("set")
@click.argument("limit")
@click.option(
    "--scope",
    required=True,
    type=click.Choice(["tenant", "agent", "agent_version", "carrier", "number", "account"]),
    help="What it counts by.",
)
@click.option("--tenant", default="*", show_default=True, help="Whose sessions; `*`: each tenant's by themselves.")
@click.option("--key", default="*", show_default=True, help="Which agent, account, …; `*`: each by itself.")
@click.option("--sessions", type=click.IntRange(0), help="How many at once.")
@click.option("--starts-per-s", type=click.FloatRange(0, min_open=True), help="How many may start in a second.")
@click.option("--refuse", is_flag=True, help="Refuse what is beyond `--sessions`; otherwise it waits.")
def limits_set(  # noqa: PLR0917 - click passes options by name
    limit: str, scope: str, tenant: str, key: str, sessions: int | None, starts_per_s: float | None, *, refuse: bool
) -> None:
    """Make the limit called LIMIT, or replace it; schedulers go by it within two seconds."""
    from greenroom.devtools import limits  # noqa: PLC0415

    wish = {
        "scope": scope,
        "tenant": tenant,
        "key": key,
        "max_sessions": sessions,
        "max_starts_per_s": starts_per_s,
        "at_limit": "refuse" if refuse else "queue",
    }
    asyncio.run(limits.put(_console, limit, wish))


@limits.command("delete")
@click.argument("limit")
def limits_delete(limit: str) -> None:
    """Delete the limit called LIMIT."""
    from greenroom.devtools import limits  # noqa: PLC0415

    asyncio.run(limits.delete(_console, limit))


@click.group(invoke_without_command=True)
@click.pass_context
def pins(context: click.Context) -> None:
    """Sessions that are kept running: so many of an agent, always."""
    if context.invoked_subcommand is None:
        context.invoke(pins_list)


@pins.command("list")
def pins_list() -> None:
    """List pins, and what each of their sessions does or waits for."""
    from greenroom.devtools import pins  # noqa: PLC0415

    asyncio.run(pins.show(_console))


@pins.command("set")
@click.argument("pin")
@click.option("--agent", required=True, help="Whose sessions.")
@click.option("--count", default=1, show_default=True, type=click.IntRange(0, 100), help="How many.")
@click.option("--tenant", help="For which tenant; default: the key's own.")
@click.option("--pool", help="On which runners; default: the agent's.")
@click.option("--room", help="In which room; `{slot}` stands for the number of the session.")
def pins_set(pin: str, agent: str, count: int, tenant: str | None, pool: str | None, room: str | None) -> None:  # noqa: PLR0917 - click passes options by name
    """Keep sessions running under the name PIN, or change how many; schedulers go by it within two seconds."""
    from greenroom.devtools import pins  # noqa: PLC0415

    wish = {"agent": agent, "count": count, "tenant": tenant, "pool": pool, "room": room}
    asyncio.run(pins.put(_console, pin, wish))


@pins.command("delete")
@click.argument("pin")
def pins_delete(pin: str) -> None:
    """Keep nothing of PIN running any more; its sessions are stopped in order."""
    from greenroom.devtools import pins  # noqa: PLC0415

    asyncio.run(pins.delete(_console, pin))


COMMANDS = (fleet, queue, why, limits, pins)
