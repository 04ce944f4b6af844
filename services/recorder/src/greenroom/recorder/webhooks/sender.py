"""Sends one request to somebody else's address, and trusts nothing of it: neither its name nor its answer.

The name is looked up once, each address is checked, and the connection goes to one that was checked; the certificate
has to be the name's. Redirects aren't followed, bodies of answers aren't read, no proxy of the environment is used.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import httpx
import structlog

from greenroom.common.outbound import Address, Exits, Target, UrlRefused
from greenroom.recorder.webhooks.schedule import Outcome

_log = structlog.get_logger()

TIMEOUT_S: Final = 15.0
_USER_AGENT: Final = "greenroom-webhooks/1"
# Whoever looks a name up that nobody answers for is stuck in a thread for a while.
_LOOKUPS_AT_ONCE: Final = 16
# Of a name with many, so many are tried.
_ADDRESSES_TRIED: Final = 3

type Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]


class Resolver:
    """Looks names up by the system's resolver, in threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_LOOKUPS_AT_ONCE, thread_name_prefix="lookup")

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        """Return the addresses of `host`, in the order in which they should be tried; raises OSError."""
        found = await asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host, port)
        return list(dict.fromkeys(ipaddress.ip_address(address) for address in found))

    def close(self) -> None:
        """Let the threads go, whatever they wait for."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class Sender:
    """Sends requests.

    Args:
        exits: where they may go.
        resolve: looks names up.
        trust: whose certificates are good; None: those of the usual authorities.
        timeout_s: how long everything may take, from the look-up to the answer's headers.
    """

    def __init__(
        self, exits: Exits, *, resolve: Resolve, trust: ssl.SSLContext | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._exits = exits
        self._resolve = resolve
        self._timeout_s = timeout_s
        self._client = httpx.AsyncClient(
            verify=trust or True,
            trust_env=False,
            follow_redirects=False,
            # A connection is to an address, but was verified for a name: it isn't used for another one.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            timeout=timeout_s,
        )

    async def close(self) -> None:
        """Close what is open."""
        await self._client.aclose()

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Outcome:
        """Send and return how it went; never raises for what the other side does."""
        try:
            async with asyncio.timeout(self._timeout_s):
                target = self._exits.target(url)
                addresses = await self._resolve(target.host, target.port)
                self._exits.check(target, addresses)
                return await self._send(target, addresses, body, headers)
        except UrlRefused:
            return Outcome(error=UrlRefused.code)
        except (TimeoutError, httpx.TimeoutException):
            return Outcome(error="timeout")
        except socket.gaierror:
            return Outcome(error="name-not-resolved")
        except httpx.ConnectError as error:
            return Outcome(error="tls-failed" if _of_tls(error) else "connection-failed")
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            _log.debug("webhook_failed", error=type(error).__name__)
            return Outcome(error="no-answer")

    async def _send(
        self, target: Target, addresses: Sequence[Address], body: bytes, headers: Mapping[str, str]
    ) -> Outcome:
        tried = addresses[:_ADDRESSES_TRIED]
        for address in tried[:-1]:
            try:
                return await self._send_to(target, address, body, headers)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
        return await self._send_to(target, tried[-1], body, headers)

    async def _send_to(self, target: Target, address: Address, body: bytes, headers: Mapping[str, str]) -> Outcome:
        async with self._client.stream(
            "POST",
            httpx.URL(scheme=target.scheme, host=str(address), port=target.port, raw_path=target.path.encode()),
            content=body,
            headers={
                **headers,
                "host": target.host_header,
                "content-type": "application/json",
                "user-agent": _USER_AGENT,
            },
            extensions={"sni_hostname": target.host},
        ) as response:
            return Outcome(status=response.status_code, retry_after_s=_retry_after(response))


def _retry_after(response: httpx.Response) -> float | None:
    text = response.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdecimal() and len(text) <= 9 else None  # noqa: PLR2004 a float's


def _of_tls(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _look_up(host: str, port: int) -> list[str]:
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
