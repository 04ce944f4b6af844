"""The commands about webhooks: `greenroom webhooks list` and `test`."""

import asyncio

import rich_click as click

from greenroom.common.webhook_samples import SAMPLES, TEST
from greenroom.devtools.terminal import console

_console = console()


@click.group(invoke_without_command=True)
@click.pass_context
def webhooks(context: click.Context) -> None:
    """Webhook endpoints: whom events are told to."""
    if context.invoked_subcommand is None:
        context.invoke(webhooks_list)


@webhooks.command("list")
def webhooks_list() -> None:
    """List the endpoints, and how each stands."""
    from greenroom.devtools import webhooks  # noqa: PLC0415 - as in `cli`: `--help` must load nothing

    asyncio.run(webhooks.show(_console))


@webhooks.command("test")
@click.argument("endpoint", required=False)
@click.option("--type", "kind", type=click.Choice(sorted(SAMPLES)), default=TEST, help="What the test looks like.")
def webhooks_test(endpoint: str | None, kind: str) -> int:
    """Send a test to ENDPOINT (an id; may be left out where there is one), and say how it went."""
    from greenroom.devtools import webhooks  # noqa: PLC0415

    return 0 if asyncio.run(webhooks.try_out(_console, endpoint, kind=kind)) else 1


COMMANDS = (webhooks,)
