"""One request to somebody else's server: what is looked up, what is connected to, whose certificate is believed."""

import socket
import ssl
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from greenroom.common.outbound import Address, Exits
from greenroom.recorder.webhooks.schedule import Outcome
from greenroom.recorder.webhooks.sender import Resolver, Sender
from tests.support.throwaway_ca import ThrowawayCa
from tests.support.webhook_world import LOCAL, hooks

NAME = "hooks.example.org"


class Names:
    """A resolver that says what it is told, and something else the second time."""

    def __init__(self, *addresses: str) -> None:
        self.asked: list[str] = []
        self._addresses = addresses

    async def __call__(self, host: str, _port: int) -> Sequence[Address]:
        """Return the addresses of `host`."""
        self.asked.append(host)
        if len(self.asked) > 1:
            return [ip_address("127.9.9.9")]
        return [ip_address(address) for address in self._addresses]


@asynccontextmanager
async def sending(
    names: Names | Resolver, exits: Exits = LOCAL, trust: ssl.SSLContext | None = None
) -> AsyncGenerator[Sender]:
    """Give a sender."""
    sender = Sender(exits, resolve=names, trust=trust, timeout_s=5)
    try:
        yield sender
    finally:
        await sender.close()


async def test_it_connects_to_what_was_checked() -> None:
    """The name is looked up once, and the server sees the name though the connection is to the address."""
    names = Names("127.0.0.1")
    async with hooks() as there, sending(names) as sender:
        outcome = await sender.post(f"http://{NAME}:{there.port}/a%20b?c=d", b"{}", {"webhook-id": "m"})
    assert outcome == Outcome(status=204)
    assert names.asked == [NAME]
    (hook,) = there.seen
    assert (hook.path, hook.body, hook.headers["host"]) == ("/a%20b?c=d", b"{}", f"{NAME}:{there.port}")
    assert hook.headers["content-type"] == "application/json"


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "169.254.169.254", "fd00::1"])
async def test_private_addresses_are_not_called(address: str) -> None:
    """Whichever of a name's addresses it is, nothing is sent."""
    async with hooks() as there, sending(Names("93.184.216.34", address), Exits(http=True)) as sender:
        outcome = await sender.post(f"http://{NAME}:{there.port}/", b"{}", {})
    assert outcome == Outcome(error="url-refused")
    assert there.seen == []


async def test_the_environment_has_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would look names up by itself, unchecked."""
    async with hooks() as proxy, hooks() as there:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        async with sending(Names("127.0.0.1")) as sender:
            assert (await sender.post(f"http://{NAME}:{there.port}/", b"{}", {})).accepted
        assert (len(proxy.seen), len(there.seen)) == (0, 1)


async def test_the_certificate_is_the_names(tmp_path: Path) -> None:
    """Of the name in the URL and of an authority that is trusted, or nothing is sent."""
    ca = ThrowawayCa(tmp_path / "ca")
    certificate, key = ca.issue("hooks", address="127.0.0.1", host=NAME)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    trust = ssl.create_default_context(cafile=ca.certificate)
    async with hooks(tls) as there:
        async with sending(Names("127.0.0.1"), trust=trust) as sender:
            assert (await sender.post(f"https://{NAME}:{there.port}/", b"{}", {})).accepted
        async with sending(Names("127.0.0.1"), trust=trust) as sender:
            outcome = await sender.post(f"https://other.example.org:{there.port}/", b"{}", {})
            assert outcome == Outcome(error="tls-failed")
        async with sending(Names("127.0.0.1")) as sender:
            assert await sender.post(f"https://{NAME}:{there.port}/", b"{}", {}) == Outcome(error="tls-failed")
        assert len(there.seen) == 1


async def test_the_next_address_is_tried() -> None:
    """Where nobody listens at the first."""
    async with hooks() as there, sending(Names("127.0.0.2", "127.0.0.1")) as sender:
        assert (await sender.post(f"http://{NAME}:{there.port}/", b"{}", {})).accepted


async def closed_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


async def test_what_goes_wrong_has_a_name() -> None:
    """Nobody listens, the name isn't known, the answer isn't HTTP: each is an outcome and no exception."""
    async with sending(Names("127.0.0.1")) as sender:
        outcome = await sender.post(f"http://{NAME}:{await closed_port()}/", b"{}", {})
    assert outcome == Outcome(error="connection-failed")
    resolver = Resolver()
    async with sending(resolver) as sender:
        assert (await sender.post("http://nobody.invalid/", b"{}", {})) == Outcome(error="name-not-resolved")
    resolver.close()


async def test_numbers_that_are_addresses_in_disguise() -> None:
    """What the system's resolver takes for an address is checked like one."""
    resolver = Resolver()
    async with hooks() as there, sending(resolver, Exits(http=True)) as sender:
        for host in ("2130706433", "0x7f.1", "127.1", "localhost"):
            outcome = await sender.post(f"http://{host}:{there.port}/", b"{}", {})
            assert outcome == Outcome(error="url-refused"), host
    resolver.close()
    assert there.seen == []


async def test_retry_after_is_read() -> None:
    """In seconds; what is no number isn't."""
    async with hooks() as there, sending(Names("127.0.0.1", "127.0.0.1")) as sender:
        there.answer = lambda _: 429
        there.extra = "retry-after: 120\r\n"
        assert await sender.post(there.url.replace("127.0.0.1", NAME), b"{}", {}) == Outcome(
            status=429, retry_after_s=120
        )
