"""The bot that looks at itself, with secrets of its own."""

from pipecat.runner.types import RunnerArguments

from tests.support import mirror_bot

SECRETS = ("NEEDED_KEY", "OTHER_KEY")


async def bot(runner_args: RunnerArguments) -> None:
    """Look."""
    await mirror_bot.bot(runner_args)
