"""Fixtures for all tests. The servers are real, and start only for tests that ask for them."""

import gc
import os
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from greenroom.devtools.embedded.nats import EmbeddedNats
from greenroom.devtools.embedded.postgres import EmbeddedPostgres
from greenroom.runner.warmup import share_tls_contexts
from tests.support.buckets import make_bucket, running_s3
from tests.support.servers import Databases, quick_folder, running_databases, wipe
from tests.support.side_by_side import ALONE, alternating, may_be_alone, worker_count

# How long an example takes says how busy the machine is.
settings.register_profile("greenroom", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("greenroom")

# A client that verifies as usual reads all certificates of the machine for it: a tenth of what a test of the api takes.
share_tls_contexts()

# The readline of whoever started a worker leaves a width in its environment, which no terminal has.
for _name in ("COLUMNS", "LINES"):
    os.environ.pop(_name, None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return what `-n auto` stands for."""
    return worker_count()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Spare the garbage collector what stays for the run: modules and tests, which it would go through each time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Pass by what has nothing for `-m alone`: to import all files takes longer than to read them."""
    if config.getoption("-m") == ALONE and collection_path.name.startswith("test_") and collection_path.suffix == ".py":
        return not may_be_alone(collection_path) or None
    return None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write what tests have measured (their property `measured`) under the results: workers print nothing."""
    for report in (*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")):
        for name, text in report.user_properties:
            if name == "measured" and report.when == "call":
                terminalreporter.section(f"measured by {report.nodeid}")
                terminalreporter.write_line(str(text))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Before workers, tests that compute and tests that wait take turns; else they keep their order."""
    if hasattr(config, "workerinput"):
        items[:] = alternating(items)


@pytest.fixture(scope="session")
async def nats_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[EmbeddedNats]:
    """The NATS server of the run; most tests want `nats_url`."""
    with quick_folder(tmp_path_factory, "nats") as folder:
        async with EmbeddedNats(folder) as server:
            yield server


@pytest.fixture(scope="session")
async def databases(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Databases]:
    """The PostgreSQL server of the run; most tests want `database`."""
    with quick_folder(tmp_path_factory, "postgres") as folder:
        async with running_databases(folder) as running:
            yield running


@pytest.fixture(scope="session")
async def s3_server() -> AsyncGenerator[str]:
    """The endpoint of the run's server that speaks S3; most tests want `bucket_url`."""
    async with running_s3() as endpoint:
        yield endpoint


@pytest.fixture
async def bucket_url(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket, with a prefix; the environment has what is needed to use it."""
    return await make_bucket(s3_server, monkeypatch)


@pytest.fixture
async def nats_url(nats_server: EmbeddedNats) -> str:
    """Where a NATS server without any streams is."""
    await wipe(nats_server)
    return nats_server.url


@pytest.fixture
async def database(databases: Databases) -> AsyncGenerator[str]:
    """The DSN of a fresh database with the current schema."""
    async with databases.database() as dsn:
        yield dsn


@pytest.fixture
async def empty_database(databases: Databases) -> AsyncGenerator[str]:
    """The DSN of a fresh database without any schema."""
    async with databases.database(template="template0") as dsn:
        yield dsn


@pytest.fixture
async def own_nats(tmp_path: Path) -> AsyncGenerator[EmbeddedNats]:
    """A NATS server of the test's own, to be killed and restarted."""
    async with EmbeddedNats(tmp_path / "nats") as server:
        yield server


@pytest.fixture
async def own_postgres(tmp_path: Path) -> AsyncGenerator[EmbeddedPostgres]:
    """A PostgreSQL server of the test's own, to be killed and restarted; its schema is not applied."""
    async with EmbeddedPostgres(tmp_path / "postgres", durable=False) as server:
        yield server
