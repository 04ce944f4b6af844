"""Where requests may go: addresses by their ranges, and URLs by their parts."""

import ipaddress
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.common.outbound import Exits, UrlRefused, check_allowed, public

# Said here again, by RFC 6890 and what clouds document, so that the code isn't checked against its own tables.
INSIDE_4 = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "168.63.129.16/32",
]
INSIDE_6 = [
    "::/128",
    "::1/128",
    "::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/32",
    "2001:db8::/32",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
    "fd00:ec2::254/128",
]
OUTSIDE = [
    "1.1.1.1/32",
    "8.8.8.0/24",
    "93.184.216.0/24",
    "172.32.0.0/12",
    "192.169.0.0/16",
    "100.128.0.0/12",
    "2606:4700::/32",
    "2a00::/16",
]


def within(networks: list[str]) -> st.SearchStrategy[IPv4Address | IPv6Address]:
    """Draw an address of one of the networks."""
    return st.one_of([st.ip_addresses(network=network) for network in networks])


def carried(address: IPv4Address) -> list[IPv6Address]:
    """Return the IPv6 addresses that come down to an IPv4 one."""
    value = int(address)
    return [
        ipaddress.IPv6Address(f"::ffff:{address}"),
        ipaddress.IPv6Address(int(ipaddress.IPv6Address("64:ff9b::")) | value),
        ipaddress.IPv6Address(int(ipaddress.IPv6Address("2002::")) | value << 80 | 1),
    ]


@given(address=within(INSIDE_4))
def test_private_ipv4_is_refused_in_every_dress(address: IPv4Address) -> None:
    """As it is, IPv4-mapped, through NAT64, by 6to4 and IPv4-compatible."""
    assert not public(address)
    assert not any(public(other) for other in carried(address))
    assert not public(IPv6Address(int(address)))


@given(address=within(INSIDE_6))
def test_private_ipv6_is_refused(address: IPv6Address) -> None:
    """Loopback, link-local, unique local, documentation, multicast, tunnels, metadata."""
    assert not public(address)


@given(address=within(OUTSIDE))
def test_the_internet_is_called(address: IPv4Address | IPv6Address) -> None:
    """Public addresses are fine, also those that reach us through NAT64."""
    assert public(address)
    if isinstance(address, IPv4Address):
        assert all(public(other) for other in carried(address))


@given(
    addresses=st.lists(within(OUTSIDE), max_size=4),
    inside=within(INSIDE_4 + INSIDE_6),
    place=st.integers(0, 4),
)
def test_one_private_address_spoils_a_name(
    addresses: list[IPv4Address | IPv6Address], inside: IPv4Address | IPv6Address, place: int
) -> None:
    """Wherever it is among the others; with an exit for it, or for the host, it is fine."""
    target = Exits().target("https://hooks.example.org/x")
    mixed = [*addresses[:place], inside, *addresses[place:]]
    with pytest.raises(UrlRefused):
        Exits().check(target, mixed)
    Exits.of([str(inside)], http=False).check(target, mixed)
    Exits.of(["Hooks.Example.org"], http=False).check(target, mixed)
    with pytest.raises(UrlRefused):
        Exits.of(["other.example.org"], http=False).check(target, mixed)


def test_a_name_without_addresses_is_refused() -> None:
    """Also where the host is allowed."""
    with pytest.raises(UrlRefused):
        Exits.of(["a.example"], http=False).check(Exits().target("https://a.example"), [])


def test_parts() -> None:
    """A URL is taken apart once; nothing else reads it."""
    target = Exits().target("https://Hooks.Example.org:8443/a%20b?c=d&e")
    assert (target.host, target.port, target.path) == ("hooks.example.org", 8443, "/a%20b?c=d&e")
    assert target.host_header == "hooks.example.org:8443"
    assert Exits().target("https://a.example").path == "/"
    assert Exits().target("https://[2606:4700::1]/").host_header == "[2606:4700::1]"
    assert Exits(http=True).target("http://a.example/").port == 80


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://a.example/",
        "ftp://a.example/",
        "file:///etc/passwd",
        "https://",
        "https:///x",
        "https://user@a.example/",
        "https://good.example\\@evil.example/",
        "https://a.example/#x",
        "https://a.example:99999/",
        "https://a.example:0/",
        "https://a b.example/",
        "https://a.example/\r\nx: y",
        "https://ä.example/",
        "https://[fe80::1%25eth0]/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:169.254.169.254]/latest",
        "https://[64:ff9b::10.0.0.1]/",
        "https://169.254.169.254/",
        "https://10.0.0.1./",
        "https://a.example/" + "x" * 2000,
    ],
)
def test_bad_urls(url: str) -> None:
    """What isn't a plain HTTPS URL of somebody public is refused before anything is looked up."""
    with pytest.raises(UrlRefused):
        Exits().target(url)


@given(st.text(max_size=60))
def test_any_text_is_refused_or_a_target(text: str) -> None:
    """Nothing else ever comes out, and what comes out is a host that was there."""
    for url in (text, f"https://{text}"):
        try:
            target = Exits().target(url)
        except UrlRefused:
            continue
        assert target.host in url.lower()
        assert "\n" not in target.path


def test_settings_are_checked() -> None:
    """An entry that is neither a host nor a network is refused, with its name."""
    check_allowed(["10.0.0.0/8", "fd00::/8", "127.0.0.1", "hooks.internal"])
    with pytest.raises(ValueError, match=r"GREENROOM_WEBHOOK_ALLOW: '10\.0\.0\.0/33'"):
        check_allowed(["10.0.0.0/33"])
