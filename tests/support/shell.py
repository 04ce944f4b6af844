"""The `greenroom` command as from a shell, and an api that it talks to."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from click.testing import CliRunner, Result

from greenroom.devtools.cli import cli
from tests.support.api_world import ApiWorld, running_api


async def command(*arguments: str) -> Result:
    """Run a command; what it raises, other than its exit, is raised."""
    result = await asyncio.to_thread(CliRunner().invoke, cli, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@asynccontextmanager
async def commanded_api(
    nats_url: str, dsn: str, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> AsyncGenerator[ApiWorld]:
    """Run an api that commands of this process talk to, on a wide terminal."""
    async with running_api(nats_url, dsn, **settings) as running:
        monkeypatch.setenv("GREENROOM_API_URL", running.url)
        monkeypatch.setenv("GREENROOM_API_KEY", await running.key())
        monkeypatch.setenv("COLUMNS", "200")
        yield running
