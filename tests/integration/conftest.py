"""Fixtures of tests that several files of this folder have in common."""

from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from tests.support.daily_stub import BASE, DailyStub
from tests.support.recorder_world import World, world
from tests.support.session_rig import HostProcess, Sessions
from tests.support.webhook_world import Hooks, hooks


@pytest.fixture
async def here(nats_url: str, database: str, tmp_path: Path) -> AsyncGenerator[World]:
    """What a recorder works with, on the servers of the run."""
    async with world(nats_url, database, tmp_path) as made:
        yield made


@pytest.fixture
async def there() -> AsyncGenerator[Hooks]:
    """Somebody's server."""
    async with hooks() as running:
        yield running


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Generator[HostProcess]:
    """What forks session processes."""
    host = HostProcess(tmp_path_factory.mktemp("session-host"))
    yield host
    host.close()


@pytest.fixture
async def sessions(host: HostProcess, nats_url: str) -> AsyncGenerator[Sessions]:
    """Session processes on a broker of their own."""
    async with Sessions(host, nats_url) as sessions:
        yield sessions


@pytest.fixture
async def daily() -> AsyncGenerator[DailyStub]:
    """Daily, as far as its API goes."""
    stub = DailyStub()
    async with stub.listening(BASE):
        yield stub
