"""Ports of another address that lead to the same ones of a host, as of a router in front of it (UDP, on loopback)."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, override

type Address = tuple[str, int]


class Forwarded:
    """What went through.

    Attributes:
        inwards: datagrams to the host.
        outwards: datagrams from it.
    """

    def __init__(self) -> None:
        self.inwards = self.outwards = 0


class _Ear(asyncio.DatagramProtocol):
    def __init__(self, hear: Callable[[bytes, Address], None]) -> None:
        self._hear = hear

    @override
    def datagram_received(self, data: bytes, addr: Address) -> None:
        self._hear(data, addr)


class _Port:
    """One port, with a further one for each who sends to it: what comes back there is his."""

    def __init__(self, outside: str, host: Address, forwarded: Forwarded) -> None:
        self._outside, self._host, self._forwarded = outside, host, forwarded
        self._front: asyncio.DatagramTransport
        self._behind: dict[Address, asyncio.DatagramTransport] = {}
        self._opening: dict[Address, asyncio.Task[None]] = {}

    async def open(self) -> None:
        self._front = await _listen((self._outside, self._host[1]), self._inwards)

    def close(self) -> None:
        for task in self._opening.values():
            task.cancel()
        for transport in (self._front, *self._behind.values()):
            transport.close()

    def _inwards(self, data: bytes, sender: Address) -> None:
        if (behind := self._behind.get(sender)) is not None:
            self._forwarded.inwards += 1
            behind.sendto(data, self._host)
        elif sender not in self._opening:
            # Datagrams may be lost, and are until this is done.
            self._opening[sender] = asyncio.create_task(self._let_in(sender))

    async def _let_in(self, sender: Address) -> None:
        def outwards(data: bytes, _host: Address) -> None:
            self._forwarded.outwards += 1
            self._front.sendto(data, sender)

        self._behind[sender] = await _listen((self._outside, 0), outwards)


async def _listen(address: Address, hear: Callable[[bytes, Address], None]) -> asyncio.DatagramTransport:
    transport: Any
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: _Ear(hear), local_addr=address)
    return transport


@asynccontextmanager
async def forwarded_ports(outside: str, host: str, ports: range) -> AsyncGenerator[Forwarded]:
    """Forward ports of `outside` to those of `host` for the time of the block."""
    forwarded = Forwarded()
    opened: list[_Port] = []
    try:
        for number in ports:
            port = _Port(outside, (host, number), forwarded)
            await port.open()
            opened.append(port)
        yield forwarded
    finally:
        for port in opened:
            port.close()
