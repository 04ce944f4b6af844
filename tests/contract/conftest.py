"""The broker under contract: the memory one and a real NATS server, in turn."""

from collections.abc import AsyncIterator

import pytest

from greenroom.common import topology_admin
from greenroom.common.broker import (
    Broker,
)
from greenroom.common.nats_broker import NatsBroker
from tests.support.broker_contract import Connect
from tests.support.memory_broker import MemoryBroker, MemoryServer


@pytest.fixture(params=["memory", "nats"])
def server(request: pytest.FixtureRequest) -> MemoryServer | str:
    """Return a memory server, or the address of a real one."""
    return MemoryServer() if request.param == "memory" else request.getfixturevalue("nats_url")


@pytest.fixture
async def connect(server: MemoryServer | str) -> AsyncIterator[Connect]:
    """Yield a function that makes connections to one server."""
    opened: list[MemoryBroker | NatsBroker] = []

    async def connect() -> Broker:
        if isinstance(server, MemoryServer):
            opened.append(server.connect())
        else:
            opened.append(await NatsBroker.connect(server, name="contract", timeout_s=5))
        return opened[-1]

    try:
        await connect()
        if isinstance(opened[0], NatsBroker):
            await topology_admin.apply(opened[0])
        yield connect
    finally:
        for broker in opened:
            await broker.close()


@pytest.fixture
async def broker(connect: Connect) -> Broker:
    """Return one connection."""
    return await connect()
