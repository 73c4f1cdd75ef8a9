# SPDX-License-Identifier: Apache-2.0
"""Ranges of numbers, ports and addresses, from their texts."""

import ipaddress

from agent.policy.model import Network, Range
from agent.policy.values import parse_number

MAX_PORT = 65_535
# `ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255/128`; nothing longer is an address.
_MAX_ADDRESS_CHARACTERS = 49


def parse_network(text: str) -> Network:
    """An address, or a network as `address/bits`; bits beyond the network's are cleared. Raises ValueError."""
    address, slash, bits = text.partition("/")
    if len(text) > _MAX_ADDRESS_CHARACTERS or "%" in address or (slash and not (bits.isascii() and bits.isdigit())):
        raise ValueError(f"not an address: {text[:_MAX_ADDRESS_CHARACTERS]}")
    found = ipaddress.ip_network(text, strict=False)
    return Network(found.network_address.packed, found.prefixlen)


def parse_range(text: str) -> Range:
    """Two numbers with a colon between. Raises ValueError, also when the first is the greater one."""
    first, colon, last = text.partition(":")
    if not colon:
        raise ValueError("no colon")
    found = Range(parse_number(first), parse_number(last))
    if found.first > found.last:
        raise ValueError("the first is greater")
    return found


def parse_ports(text: str) -> Range:
    """A port, or two with a colon between. Raises ValueError."""
    found = parse_range(text) if ":" in text else Range(parse_number(text), parse_number(text))
    if found.first < 0 or found.last > MAX_PORT:
        raise ValueError("no such port")
    return found
