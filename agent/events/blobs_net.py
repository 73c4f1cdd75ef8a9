# SPDX-License-Identifier: Apache-2.0
"""Sockets, packets and socket addresses: struct pg_net of bpf/lib/net.h, and the names of bpf/lib/sockaddr.h. Pure."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address
from typing import Any, NamedTuple

from agent.events.blob_names import FAMILY, PROTOCOL, SOCKET_TYPE, STATE, name_or_number

NET = struct.Struct("<16s16sHHHHHBBIIIII")

# pg_net.known
KNOWS_SADDR = 1
KNOWS_DADDR = 2
KNOWS_SPORT = 4
KNOWS_DPORT = 8
KNOWS_PROTOCOL = 16 | 32

AF_INET = 2
UNIX_ABSTRACT = 0x10000  # PG_UNIX_ABSTRACT, in the mode of a sockaddr_un


class Net(NamedTuple):
    """struct pg_net. Addresses have 16 bytes, those of IPv4 behind ::ffff:."""

    saddr: bytes
    daddr: bytes
    sport: int
    dport: int
    family: int
    type: int
    protocol: int
    state: int
    known: int
    mark: int
    priority: int
    hash: int
    len: int
    reserved: int


def parse_net(data: bytes) -> Net:
    """Raises struct.error for another number of bytes."""
    return Net(*NET.unpack(data))


def decode_sock(data: bytes, _mode: int) -> dict[str, Any]:
    """Of sockets without addresses and ports, or with unknown ones, these are absent."""
    net = parse_net(data)
    fields = {
        "family": name_or_number(FAMILY, net.family),
        "type": name_or_number(SOCKET_TYPE, net.type),
        "protocol": name_or_number(PROTOCOL, net.protocol),
        "state": name_or_number(STATE, net.state),
    }
    return fields | _ends(net) | {"mark": net.mark, "priority": net.priority}


def decode_skb(data: bytes, _mode: int) -> dict[str, Any]:
    """A packet that is not of IP, or whose header is not there, has neither family nor addresses."""
    net = parse_net(data)
    fields: dict[str, Any] = {"family": name_or_number(FAMILY, net.family)} if net.family else {}
    if net.known & KNOWS_PROTOCOL:
        fields |= {"protocol": name_or_number(PROTOCOL, net.protocol), "proto": net.protocol}
    numbers = {"len": net.len, "hash": net.hash, "mark": net.mark, "priority": net.priority}
    return fields | _ends(net) | numbers


def decode_sockaddr(data: bytes, _mode: int) -> dict[str, Any]:
    """Of a family without addresses of IP, or of too few bytes for one, the family alone."""
    net = parse_net(data)
    fields: dict[str, Any] = {"family": name_or_number(FAMILY, net.family)}
    if net.known & KNOWS_SADDR:
        fields |= {"addr": _address(net.family, net.saddr), "port": net.sport}
    return fields


def decode_sockaddr_un(data: bytes, mode: int) -> dict[str, Any]:
    """An abstract name begins with @, and has all of its bytes, NULs included."""
    fields: dict[str, Any] = {"family": name_or_number(FAMILY, mode & 0xFFFF)}
    fields["path"] = data.decode(errors="backslashreplace")
    if mode & UNIX_ABSTRACT:
        fields["abstract"] = True
    return fields


def _ends(net: Net) -> dict[str, Any]:
    ends = (
        (KNOWS_SADDR, "saddr", _address(net.family, net.saddr)),
        (KNOWS_DADDR, "daddr", _address(net.family, net.daddr)),
        (KNOWS_SPORT, "sport", net.sport),
        (KNOWS_DPORT, "dport", net.dport),
    )
    return {name: value for known, name, value in ends if net.known & known}


def _address(family: int, data: bytes) -> str:
    """An address of IPv4 that a socket of IPv6 has is written as that socket has it."""
    address = IPv6Address(data)
    mapped = address.ipv4_mapped
    if mapped is None:
        return str(address)
    return str(mapped) if family == AF_INET else f"::ffff:{mapped}"
