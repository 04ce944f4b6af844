"""Has aioice gather candidates where this runner takes calls: on its addresses, and in its range of ports.

aioice binds a socket on each address of the host, at any port, and knows no settings for that. In a session process,
which has one call and ends with it, both are put right before the first connection is made; what is used of aioice is
pinned by tests/unit/test_session_conformance.py.
"""

import asyncio
import errno
import logging
import random
from collections.abc import Callable
from typing import Any

from aioice import ice

from greenroom.runner.rtc import Network


def use(network: Network, loop: asyncio.AbstractEventLoop) -> None:
    """Have connections of this process gather as `network` says.

    Args:
        network: where calls are taken.
        loop: on which connections are made.
    """
    # They tell of each packet, with the addresses of clients.
    for chatty in ("aioice", "aiortc"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    if network.addresses:
        # Looked up in the module whenever a connection gathers.
        ice.get_host_addresses = _addresses(network.addresses)
    if network.first_port:
        vars(loop)["create_datagram_endpoint"] = _in_range(network, loop.create_datagram_endpoint)


def _addresses(addresses: tuple[str, ...]) -> Callable[..., list[str]]:
    def get_host_addresses(*, use_ipv4: bool, use_ipv6: bool) -> list[str]:
        return [address for address in addresses if (use_ipv6 if ":" in address else use_ipv4)]

    return get_host_addresses


def _in_range(network: Network, create: Callable[..., Any]) -> Callable[..., Any]:
    ports = range(network.first_port, network.last_port + 1)

    async def create_datagram_endpoint(
        factory: Callable[[], asyncio.DatagramProtocol], local_addr: tuple[str, int] | None = None, **options: Any
    ) -> Any:
        if local_addr is None or local_addr[1] != 0:
            return await create(factory, local_addr=local_addr, **options)
        # Not in order: the processes of a host would all try the same ones first.
        for port in random.sample(ports, len(ports)):
            try:
                return await create(factory, local_addr=(local_addr[0], port), **options)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        raise OSError(errno.EADDRINUSE, f"GREENROOM_RTC_PORTS: all {len(ports)} are taken")

    return create_datagram_endpoint
