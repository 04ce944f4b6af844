"""Where session processes take calls that come straight to them (WebRTC): addresses, ports, what clients are told."""

import ipaddress
import re
from typing import Final

import msgspec

_PORTS: Final = re.compile(r"([0-9]{1,5})-([0-9]{1,5})")
_MAX_PORT: Final = 65_535
# `a=candidate:FOUNDATION COMPONENT TRANSPORT PRIORITY ADDRESS PORT typ TYPE …` (RFC 8839).
_CANDIDATE: Final = re.compile(r"(?m)^(a=candidate:\S+ \S+ \S+ \S+ )(\S+)( \S+ typ host\b)")
_CONNECTION: Final = re.compile(r"(?m)^(c=IN )IP([46]) (\S+)")


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """How a session process is reached over UDP.

    Attributes:
        addresses: of this host that calls are taken on; empty: all but loopback and link-local ones.
        first_port: calls take a free port from here …
        last_port: … to here; both 0: any.
        advertised: what clients are told instead of the host's own address, where that is behind NAT; empty: nothing.
    """

    addresses: tuple[str, ...] = ()
    first_port: int = 0
    last_port: int = 0
    advertised: str = ""

    @classmethod
    def parse(cls, addresses: tuple[str, ...], ports: str, advertised: str) -> "Network":
        """Return the network of the settings.

        Raises:
            ValueError: one of them isn't written as it should be; the text says which.
        """
        for address in addresses:
            _check_address("GREENROOM_RTC_ADDRESSES", address)
        if advertised:
            _check_address("GREENROOM_RTC_ADVERTISED_ADDRESS", advertised)
        first = last = 0
        if ports:
            found = _PORTS.fullmatch(ports)
            first, last = (int(found[1]), int(found[2])) if found else (0, 0)
            if not 0 < first <= last <= _MAX_PORT:
                raise ValueError(f"GREENROOM_RTC_PORTS is {ports!r} (expected: FIRST-LAST, e.g. 40000-40999)")
        return cls(addresses=addresses, first_port=first, last_port=last, advertised=advertised)

    def advertise(self, sdp: str) -> str:
        """Return an answer in which host candidates have the advertised address.

        Those of the other IP version go: behind that address nobody would find them.
        """
        if not self.advertised:
            return sdp
        version = ipaddress.ip_address(self.advertised).version
        lines = [_told(line, self.advertised, version) for line in sdp.splitlines(keepends=True)]
        return "".join(line for line in lines if line is not None)


def _told(line: str, advertised: str, version: int) -> str | None:
    if found := _CANDIDATE.match(line):
        same = ipaddress.ip_address(found[2]).version == version
        return _CANDIDATE.sub(rf"\g<1>{advertised}\g<3>", line) if same else None
    if (found := _CONNECTION.match(line)) and not ipaddress.ip_address(found[3]).is_unspecified:
        return _CONNECTION.sub(rf"\g<1>IP{version} {advertised}", line)
    return line


def _check_address(variable: str, address: str) -> None:
    try:
        ipaddress.ip_address(address)
    except ValueError as error:
        raise ValueError(f"{variable} has {address!r} (expected: IP addresses)") from error


ANYWHERE: Final = Network()
