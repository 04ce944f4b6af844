"""Fixtures of tests that several files of this folder have in common."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.support.recorder_world import World, world
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
