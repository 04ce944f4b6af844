"""Where requests of ours may go when somebody else says where to: public addresses, and what an operator allows.

A URL is checked when it is given to us, and each address that its name resolves to when it is used; the connection is
made to the very address that was checked. Addresses that carry another one are judged by what they carry.
"""

import ipaddress
import re
from collections.abc import Iterable
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec

from greenroom.common.errors import GreenroomError
from greenroom.common.settings import Env

type Address = ipaddress.IPv4Address | ipaddress.IPv6Address
type Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Settings of all who have to know. (Plain aliases: settings are read by their types.)
WebhookAllow = Annotated[
    tuple[str, ...],
    Env(help="Hosts and networks that webhooks may go to though their addresses aren't public, e.g. 10.1.0.0/16"),
]
WebhookAllowHttp = Annotated[bool, Env(help="Let webhooks go to http:// too; for development")]

MAX_URL: Final = 2000
_URL: Final = re.compile(r"[!-~]+")
_HOST: Final = re.compile(r"[A-Za-z0-9._:-]{1,253}")
_PORTS: Final = {"https": 443, "http": 80}

# IPv6 addresses that carry an IPv4 address, by how far its last bit is from theirs.
_CARRIERS: Final = (
    (ipaddress.IPv6Network("::ffff:0:0/96"), 0),  # IPv4-mapped
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),  # NAT64
    (ipaddress.IPv6Network("2002::/16"), 80),  # 6to4
)
# Taken for public by their registries' tables, and yet none of anybody's web servers.
_NEVER: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",  # the host of a virtual machine at Azure
        "192.88.99.0/24",  # relays of 6to4
        "::/96",  # IPv4-compatible
        "::ffff:0:0:0/96",  # IPv4-translated
        "64:ff9b:1::/48",  # NAT64 of somebody's own
        "2001::/23",  # Teredo and other machinery
        "fec0::/10",  # site-local, before there was fc00::/7
    )
)


class UrlRefused(GreenroomError):
    """Requests don't go to this URL.

    It isn't `https://host/…` (plain HTTP needs `GREENROOM_WEBHOOK_ALLOW_HTTP`), has a user name or a fragment, or its
    address is a private one: only public addresses are called, unless an operator names the host or its network in
    `GREENROOM_WEBHOOK_ALLOW`.
    """

    code = "url-refused"
    status = 422
    title = "Requests don't go there"


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A URL in parts. `host` is a name or an address, without brackets; `path` has the query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def host_header(self) -> str:
        """What the `Host` header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


class Exits(msgspec.Struct, frozen=True, kw_only=True):
    """Where requests may go beside public addresses over HTTPS.

    Attributes:
        http: plain HTTP too.
        hosts: names, in lower case, whose addresses aren't looked at.
        networks: addresses that are fine though they aren't public.
    """

    http: bool = False
    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def of(cls, allowed: Iterable[str], *, http: bool) -> "Exits":
        """Return the exits for what a setting names: hosts, addresses and networks.

        Raises:
            ValueError: an entry is none of these.
        """
        hosts: set[str] = set()
        networks: list[Network] = []
        for entry in allowed:
            try:
                networks.append(ipaddress.ip_network(entry))
            except ValueError:
                if "/" in entry or not _HOST.fullmatch(entry):
                    raise ValueError(f"{entry!r} is neither a host nor a network like 10.1.0.0/16") from None
                hosts.add(entry.lower())
        return cls(http=http, hosts=frozenset(hosts), networks=tuple(networks))

    def target(self, url: str) -> Target:
        """Return a URL in parts.

        Raises:
            UrlRefused: requests don't go there, as far as that can be said without looking its name up.
        """
        if len(url) > MAX_URL or not _URL.fullmatch(url):
            raise UrlRefused(f"A URL has at most {MAX_URL} characters, and none but printable ASCII.")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise UrlRefused("It isn't a URL.") from None
        if parts.scheme not in _PORTS or (parts.scheme == "http" and not self.http):
            raise UrlRefused("It has to begin with https://.")
        host = (parts.hostname or "").rstrip(".")
        if not _HOST.fullmatch(host) or port == 0:
            raise UrlRefused("It has no host that can be called.")
        if parts.username is not None or parts.password is not None:
            raise UrlRefused("It has a user name or a password: the signature says who sends.")
        if parts.fragment:
            raise UrlRefused("It has a fragment, which is never sent.")
        target = Target(
            scheme=parts.scheme,
            host=host,
            port=port or _PORTS[parts.scheme],
            path=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        )
        if literal := _address(host):
            self.check(target, [literal])
        return target

    def check(self, target: Target, addresses: Iterable[Address]) -> None:
        """Make sure that all `addresses` of a target may be called.

        Raises:
            UrlRefused: one mayn't, or there is none. Which isn't said: what a name inside resolves to is inside's.
        """
        found = list(addresses)
        if not found:
            raise UrlRefused("Its host has no address.")
        if target.host in self.hosts:
            return
        if not all(public(address) or any(address in network for network in self.networks) for address in found):
            raise UrlRefused("Its host has an address that isn't public.")


def check_allowed(allowed: Iterable[str]) -> None:
    """Check the setting.

    Raises:
        ValueError: an entry is neither a host nor a network.
    """
    try:
        Exits.of(allowed, http=False)
    except ValueError as error:
        raise ValueError(f"GREENROOM_WEBHOOK_ALLOW: {error}") from error


def public(address: Address) -> bool:
    """Tell whether an address is one of the public internet."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return False
        for network, shift in _CARRIERS:
            if address in network:
                return public(ipaddress.IPv4Address((int(address) >> shift) & 0xFFFF_FFFF))
    if any(address.version == network.version and address in network for network in _NEVER):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
