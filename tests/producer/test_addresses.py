"""Which addresses are public, and what hosts may look like."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from producer.addresses import AllowList, is_public, literal


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254"),
        *("168.63.129.16", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1"),
        *("192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255"),
        *("240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:93.184.216.34", "::ffff:0:7f00:1", "64:ff9b::7f00:1"),
        *("64:ff9b::5db8:d822", "64:ff9b:1::1", "100::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2"),
        *("2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::", "2002:5db8:d822::1", "3fff::1", "5f00::1"),
        *("fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1"),
    ],
)
def test_an_address_that_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "93.184.216.34", "100.63.255.255", "100.128.0.0", "172.32.0.1", "2606:4700:4700::1111", "2a00:1450::1"],
)
def test_an_address_that_is(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "host",
    [
        *("2130706433", "0x7f000001", "017700000001", "0x7f.1", "127.1", "127.0.1", "0177.0.0.1", "127.0.0.1."),
        *("1.2.3.4.5", "256.1.1.1", "0x", "example.0x7f", "%31.0.0.1", "a b", "", "fe80::1%eth0", "[::1]"),
    ],
)
def test_a_host_that_may_be_read_in_two_ways_is_none(host: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        literal(host)


def test_names_and_addresses_in_their_usual_form_are_hosts() -> None:
    assert literal("example.com") is None
    assert literal("3com.example") is None
    assert literal("10.0.0.1") == ip_address("10.0.0.1")
    assert literal("::1") == ip_address("::1")


def test_the_list_opens_what_it_names_and_nothing_else() -> None:
    allowed = AllowList.parse(["10.1.0.0/16", "192.168.7.7", "fd00::/8", "Files.Internal"])
    assert allowed.permits("a", ip_address("10.1.2.3"), plain=True)
    assert allowed.permits("a", ip_address("192.168.7.7"), plain=True)
    assert allowed.permits("a", ip_address("fd00::1"), plain=False)
    assert allowed.permits("files.internal.", ip_address("127.0.0.1"), plain=True)
    assert allowed.permits("a", ip_address("1.1.1.1"), plain=False)
    assert not allowed.permits("a", ip_address("1.1.1.1"), plain=True)
    assert not allowed.permits("a", ip_address("10.2.0.1"), plain=False)
    assert not allowed.permits("evil-files.internal", ip_address("10.2.0.1"), plain=False)


@pytest.mark.parametrize("entry", ["10.1.2.3/8", "http://files", "files:9000", "0x7f.1", "a b"])
def test_an_entry_that_is_neither_network_nor_host_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        AllowList.parse([entry])
