"""Which addresses this machine connects to on behalf of others: public ones, and those that the operator has listed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Self

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

#: IANA's special-purpose addresses (https://www.iana.org/assignments/iana-ipv4-special-registry), multicast, and the
#: one cloud metadata service that has a public address (Azure's).
_SPECIAL_V4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",  # carrier-grade NAT
            "127.0.0.0/8",
            "168.63.129.16/32",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.31.196.0/24",
            "192.52.193.0/24",
            "192.88.99.0/24",  # relays of 6to4
            "192.168.0.0/16",
            "192.175.48.0/24",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ),
    )
)
#: Global unicast. All else is refused, and with it what hides an IPv4 address: mapped and compatible addresses (::/96,
#: ::ffff:0:0/96) and NAT64 (64:ff9b::/96).
_GLOBAL_V6 = IPv6Network("2000::/3")
#: Of global unicast: protocol assignments with Teredo and ORCHID, documentation, 6to4, AS112.
_SPECIAL_V6 = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")))

#: What some resolvers read as an IPv4 address: its last label is a number
#: (https://url.spec.whatwg.org/#ends-in-a-number-checker).
_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?", re.IGNORECASE)
_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,252})", re.IGNORECASE)


def is_public(address: Address) -> bool:
    """Whether the address is one of the public network's own, with nothing hidden in it."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _SPECIAL_V4)
    return address in _GLOBAL_V6 and not any(address in network for network in _SPECIAL_V6)


def literal(host: str) -> Address | None:
    """The address that the host is written as, None for a name.

    Raises:
        ValueError: it is no host, or an address in another form than the usual one, such as `0x7f.1`.
    """
    if ":" in host and "%" not in host:
        return IPv6Address(host)
    if _NUMBER.fullmatch(host):
        return IPv4Address(host)
    if not _NAME.fullmatch(host):
        raise ValueError(f"{host!r} is no host")
    return None


@dataclass(frozen=True)
class AllowList:
    """Inner networks and hosts that may be reached, too, and by plain HTTP."""

    networks: tuple[Network, ...] = ()
    hosts: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, entries: Sequence[str]) -> Self:
        """From networks (`10.1.0.0/16`), addresses and host names.

        Raises:
            ValueError: an entry is none of them.
        """
        networks, hosts = [], set()
        for entry in entries:
            if "/" in entry or ":" in entry or _NUMBER.fullmatch(entry):
                networks.append(ip_network(entry))
            elif _NAME.fullmatch(entry):
                hosts.add(normal(entry))
            else:
                raise ValueError(f"{entry!r} is neither a network nor a host name")
        return cls(tuple(networks), frozenset(hosts))

    def names(self, host: str, address: Address) -> bool:
        """Whether the operator has listed this host or a network of this address."""
        return normal(host) in self.hosts or any(address in network for network in self.networks)

    def permits(self, host: str, address: Address, *, plain: bool) -> bool:
        """Whether the host may be reached at this address; `plain` is HTTP without TLS."""
        return self.names(host, address) or (not plain and is_public(address))


def normal(host: str) -> str:
    return host.lower().rstrip(".")


def resolved(text: str) -> Address:
    """The address that a resolver gave; its scope (`fe80::1%eth0`) is left out."""
    return ip_address(text.partition("%")[0])
