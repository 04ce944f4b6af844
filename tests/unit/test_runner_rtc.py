"""Where session processes take calls, and what clients are told of it."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.common.errors import SettingsInvalid
from greenroom.common.settings import load
from greenroom.runner.rtc import Network
from greenroom.runner.settings import RunnerSettings

ANSWER = """v=0
o=- 3996709620 3996709620 IN IP4 127.0.0.1
s=-
t=0 0
m=audio 41007 UDP/TLS/RTP/SAVPF 111
c=IN IP4 10.0.0.7
a=mid:0
a=rtcp:9 IN IP4 192.0.2.1
a=candidate:1 1 udp 2130706431 10.0.0.7 41007 typ host
a=candidate:2 1 udp 2130706431 fd00::7 41008 typ host
a=candidate:3 1 udp 1694498815 198.51.100.4 41007 typ srflx raddr 10.0.0.7 rport 41007
a=end-of-candidates
""".replace("\n", "\r\n")
addresses = st.ip_addresses().map(str)


def test_clients_are_told_the_advertised_address_instead_of_the_hosts_own() -> None:
    """Host candidates of its IP version have it, with their ports; those of the other go; all else stays."""
    told = Network(advertised="203.0.113.7").advertise(ANSWER)
    assert "a=candidate:1 1 udp 2130706431 203.0.113.7 41007 typ host\r\n" in told
    assert "c=IN IP4 203.0.113.7\r\n" in told
    assert "fd00::7" not in told
    assert "a=candidate:3 1 udp 1694498815 198.51.100.4 41007 typ srflx" in told
    assert len(told.splitlines()) == len(ANSWER.splitlines()) - 1


def test_nothing_is_rewritten_without_one() -> None:
    """A runner with an address of its own tells that."""
    assert Network().advertise(ANSWER) == ANSWER


@given(own=st.lists(addresses, min_size=1, max_size=4), advertised=addresses)
def test_no_host_address_is_left(own: list[str], advertised: str) -> None:
    """Whatever addresses a host has, clients see the advertised one alone, once for each of its version."""
    sdp = "".join(
        f"a=candidate:{n} 1 udp 1 {address} {4000 + n} typ host\r\n" for n, address in enumerate(own, start=1)
    )
    lines = Network(advertised=advertised).advertise(sdp).splitlines()
    version = ipaddress.ip_address(advertised).version
    expected = [n for n, address in enumerate(own, start=1) if ipaddress.ip_address(address).version == version]
    assert lines == [f"a=candidate:{n} 1 udp 1 {advertised} {4000 + n} typ host" for n in expected]


def test_the_settings_of_a_runner_say_where() -> None:
    """Addresses, a range of ports and what is advertised come from the environment."""
    env = {
        "GREENROOM_RTC_ADDRESSES": "10.0.0.7,fd00::7",
        "GREENROOM_RTC_PORTS": "40000-40999",
        "GREENROOM_RTC_ADVERTISED_ADDRESS": "203.0.113.7",
    }
    network = load(RunnerSettings, env).network
    assert network == Network(
        addresses=("10.0.0.7", "fd00::7"), first_port=40_000, last_port=40_999, advertised="203.0.113.7"
    )


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GREENROOM_RTC_ADDRESSES", "eth0"),
        ("GREENROOM_RTC_PORTS", "40000"),
        ("GREENROOM_RTC_PORTS", "40999-40000"),
        ("GREENROOM_RTC_PORTS", "0-100"),
        ("GREENROOM_RTC_PORTS", "1-65536"),
        ("GREENROOM_RTC_ADVERTISED_ADDRESS", "voice.example.org"),
    ],
)
def test_what_is_no_network_is_refused_at_the_start(variable: str, value: str) -> None:
    """A runner with settings that can't work doesn't start, and names the variable."""
    with pytest.raises(SettingsInvalid, match=variable):
        load(RunnerSettings, {variable: value})
