# SPDX-License-Identifier: Apache-2.0
"""Readers of sockets, packets and socket addresses, against what the sockets themselves say; the conditions on them."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import pytest

from agent.events.blob_names import STATE
from agent.events.blobs import decode_blob
from agent.events.layout import UNREADABLE
from tests.support.readers import Readers, Result, load_readers

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

SOURCE, DESTINATION = 1, 2  # bits of t_in_ipv4
SO_MARK = 36


@pytest.fixture(scope="module")
def readers() -> Iterator[Readers]:
    with load_readers() as loaded:
        yield loaded


def value(kind: str, result: Result) -> dict[str, Any]:
    found = decode_blob(kind, result.data, result.flags, result.mode)
    assert found is not None
    assert "malformed" not in found
    return found


def listening(family: socket.AddressFamily, address: str) -> socket.socket:
    server = socket.socket(family)
    server.bind((address, 0))
    server.listen()
    return server


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_connection_has_both_ends(readers: Readers, family: socket.AddressFamily, address: str) -> None:
    server = listening(family, address)
    with closing(server), closing(socket.create_connection(server.getsockname()[:2])) as own:
        own.setsockopt(socket.SOL_SOCKET, SO_MARK, 0x1234)
        own.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 5)
        (saddr, sport, *_), (daddr, dport, *_) = own.getsockname(), own.getpeername()
        wanted = {
            "family": family.name,
            "type": "SOCK_STREAM",
            "protocol": "IPPROTO_TCP",
            "state": "TCP_ESTABLISHED",
            "saddr": saddr,
            "daddr": daddr,
            "sport": sport,
            "dport": dport,
            "mark": 0x1234,
            "priority": 5,
        }
        assert value("socket", readers.run("socket", own.fileno())) == wanted
        assert value("sock", readers.run("sock", own.fileno())) == wanted
        assert value("socket", readers.run("socket", server.fileno()))["state"] == "TCP_LISTEN"


def test_sockets_of_other_kinds_have_what_they_have(readers: Readers) -> None:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as datagram:
        found = value("socket", readers.run("socket", datagram.fileno()))
        assert (found["type"], found["protocol"], found["state"]) == ("SOCK_DGRAM", "IPPROTO_UDP", "TCP_CLOSE")
        assert (found["saddr"], found["sport"]) == ("0.0.0.0", 0)
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as local:
        found = value("socket", readers.run("socket", local.fileno()))
        assert (found["family"], found["type"]) == ("AF_UNIX", "SOCK_SEQPACKET")
        assert not {"saddr", "daddr", "sport", "dport"} & found.keys()


def test_closing_connection_is_seen_with_its_states(readers: Readers) -> None:
    with closing(listening(socket.AF_INET, "127.0.0.1")) as server:
        port = server.getsockname()[1]
        own = socket.create_connection(("127.0.0.1", port))
        with readers.attached("on_state", w5=port):
            own.close()
            result = readers.told()
    found = value("sock", result)
    assert (found["dport"], found["state"]) == (port, STATE[result.number >> 8])
    assert (found["family"], found["protocol"], found["daddr"]) == ("AF_INET", "IPPROTO_TCP", "127.0.0.1")


def ipv4(network: str) -> tuple[int, int]:
    """Address and mask as they are in memory."""
    parsed = IPv4Network(network)
    return tuple(int.from_bytes(each.packed, "little") for each in (parsed.network_address, parsed.netmask))  # type: ignore[return-value]


def ipv6(network: str) -> tuple[int, ...]:
    parsed = IPv6Network(network)
    words = (struct.unpack("<2Q", each.packed) for each in (parsed.network_address, parsed.netmask))
    return tuple(word for pair in words for word in pair)


@pytest.mark.parametrize(
    ("network", "found"),
    [
        ("127.0.0.1/32", DESTINATION),
        ("127.0.0.2/32", SOURCE),
        ("127.0.0.0/8", SOURCE | DESTINATION),
        ("127.0.0.2/31", SOURCE),
        ("0.0.0.0/0", SOURCE | DESTINATION),
        ("128.0.0.0/8", 0),
        ("127.0.1.0/24", 0),
    ],
)
def test_address_is_in_a_network(readers: Readers, network: str, found: int) -> None:
    server = listening(socket.AF_INET, "127.0.0.1")
    own = socket.create_connection(server.getsockname(), source_address=("127.0.0.2", 0))
    with closing(server), closing(own):
        assert readers.run("in_ipv4", own.fileno(), *ipv4(network)).number == found
        assert readers.run("in_ipv6", own.fileno(), *ipv6("::/0")).number == 0
        assert readers.run("in_ipv6", own.fileno(), *ipv6("::ffff:0:0/96")).number == 0


def test_ipv4_address_of_an_ipv6_socket_is_in_networks_of_both(readers: Readers) -> None:
    with closing(listening(socket.AF_INET6, "::")) as server:
        own = socket.create_connection(("127.0.0.1", server.getsockname()[1]))
        accepted, _ = server.accept()
    with closing(own), closing(accepted):
        found = value("socket", readers.run("socket", accepted.fileno()))
        assert (found["family"], found["saddr"], found["daddr"]) == ("AF_INET6", "::ffff:127.0.0.1", "::ffff:127.0.0.1")
        assert readers.run("in_ipv4", accepted.fileno(), *ipv4("127.0.0.0/8")).number == SOURCE | DESTINATION
        assert readers.run("in_ipv4", accepted.fileno(), *ipv4("10.0.0.0/8")).number == 0
        assert readers.run("in_ipv6", accepted.fileno(), *ipv6("::ffff:7f00:0/104")).number == SOURCE | DESTINATION
        assert readers.run("in_ipv6", accepted.fileno(), *ipv6("2001:db8::/32")).number == 0


def test_ipv6_addresses_are_compared_to_the_last_bit(readers: Readers) -> None:
    server = listening(socket.AF_INET6, "::1")
    with closing(server), closing(socket.create_connection(server.getsockname()[:2])) as own:
        for network, found in (("::1/128", 3), ("::/128", 0), ("::/127", 3), ("::/0", 3), ("8000::/1", 0)):
            assert readers.run("in_ipv6", own.fileno(), *ipv6(network)).number == found
        assert readers.run("in_ipv4", own.fileno(), *ipv4("0.0.0.0/0")).number == 0


def test_ports_and_numbers_are_compared(readers: Readers) -> None:
    with closing(listening(socket.AF_INET, "127.0.0.1")) as server:
        own = socket.create_connection(server.getsockname())
        sport, dport = own.getsockname()[1], own.getpeername()[1]
        numbers = 6 << 8 | socket.AF_INET << 16 | 1 << 24
        with closing(own):
            for first, last, found in ((sport, sport, 1), (dport, dport, 2), (0, 65535, 3), (0, 0, 0)):
                assert readers.run("net_numbers", own.fileno(), first, last).number == numbers | found
            assert readers.run("net_numbers", own.fileno(), sport + 1, 65535).number & 1 == 0


def test_what_is_not_known_equals_nothing(readers: Readers) -> None:
    nothing = 0xFFFFFF00
    assert readers.run("net_numbers", -1, 0, 65535).number == nothing
    assert readers.run("in_ipv4", -1, 0, 0).number == 0
    assert readers.run("in_ipv6", -1, 0, 0, 0, 0).number == 0
    with closing(socket.socket(socket.AF_UNIX)) as local:
        assert readers.run("net_numbers", local.fileno(), 0, 65535).number & 3 == 0
        assert readers.run("in_ipv4", local.fileno(), 0, 0).number == 0


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_packet_has_addresses_and_ports(
    readers: Readers, family: socket.AddressFamily, address: str, kind: socket.SocketKind
) -> None:
    with closing(socket.socket(family, kind)) as receiver, closing(socket.socket(family, kind)) as sender:
        receiver.bind((address, 0))
        sender.bind((address, 0))
        port = receiver.getsockname()[1]
        with readers.attached("on_packet", w3=port):
            sender.setblocking(False)
            sender.connect_ex((address, port))
            if kind is socket.SOCK_DGRAM:
                sender.send(b"payload")
            found = value("skb", readers.told())
        protocol = "IPPROTO_UDP" if kind is socket.SOCK_DGRAM else "IPPROTO_TCP"
        assert (found["family"], found["protocol"]) == (family.name, protocol)
        assert (found["saddr"], found["daddr"], found["dport"]) == (address, address, port)
        assert found["sport"] == sender.getsockname()[1]
        assert found["len"] > 40


def test_extension_headers_are_looked_behind(readers: Readers) -> None:
    with closing(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as sender:
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, struct.pack("<BBBB4x", 0, 0, 1, 4))
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_HOPOPTS, struct.pack("<BBBB4x", 0, 0, 1, 4))
        with readers.attached("on_packet", w3=7):
            sender.sendto(b"payload", ("::1", 7))
            found = value("skb", readers.told())
    assert (found["protocol"], found["dport"]) == ("IPPROTO_UDP", 7)


def test_packet_has_a_device(readers: Readers) -> None:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender, readers.attached("on_device", w4=9):
        sender.sendto(b"payload", ("127.0.0.1", 9))
        found = value("net_device", readers.told())
    assert found == {"name": "lo", "ifindex": socket.if_nametoindex("lo")}


def memory(data: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(data, len(data))


IN = struct.pack("<H", socket.AF_INET) + struct.pack(">H4s8x", 443, bytes((10, 1, 2, 3)))
IN6 = struct.pack("<H", socket.AF_INET6) + struct.pack(
    ">HI16sI", 53, 0, bytes.fromhex("20010db8") + bytes(11) + b"\1", 0
)


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (IN, {"family": "AF_INET", "addr": "10.1.2.3", "port": 443}),
        (IN[:8], {"family": "AF_INET", "addr": "10.1.2.3", "port": 443}),
        (IN[:7], {"family": "AF_INET"}),
        (IN6, {"family": "AF_INET6", "addr": "2001:db8::1", "port": 53}),
        (IN6[:24], {"family": "AF_INET6", "addr": "2001:db8::1", "port": 53}),
        (IN6[:23], {"family": "AF_INET6"}),
        (struct.pack("<H14x", socket.AF_UNSPEC), {"family": "AF_UNSPEC"}),
        (struct.pack("<H10x", socket.AF_NETLINK), {"family": "AF_NETLINK"}),
        (struct.pack("<H10x", 777), {"family": 777}),
    ],
)
def test_socket_address_is_read(readers: Readers, data: bytes, wanted: dict[str, Any]) -> None:
    there = memory(data)
    result = readers.run("user_sockaddr", ctypes.addressof(there), len(data))
    assert result.error == 0
    assert value("sockaddr", result) == wanted


@pytest.mark.parametrize("program", ["user_sockaddr", "user_sockaddr_un"])
@pytest.mark.parametrize(("address", "length"), [(0, 16), (8, 16), (None, 1), (None, 0)])
def test_socket_address_that_is_not_there(readers: Readers, program: str, address: int | None, length: int) -> None:
    there = memory(IN)
    result = readers.run(program, ctypes.addressof(there) if address is None else address, length)
    assert (result.error, result.flags) == (-14, UNREADABLE)


UN = struct.pack("<H", socket.AF_UNIX)


@pytest.mark.parametrize(
    ("data", "length", "wanted"),
    [
        (UN + b"/run/a.sock\0", None, {"path": "/run/a.sock"}),
        (UN + b"/run/a.sock", None, {"path": "/run/a.sock"}),
        (UN + b"/run/a.sock", 7, {"path": "/run/"}),
        (UN + b"/" * 108, None, {"path": "/" * 108}),
        (UN + b"/" * 120, None, {"path": "/" * 108}),
        (UN + b"\0abstract", None, {"path": "@abstract", "abstract": True}),
        (UN + b"\0a\0b\0", None, {"path": "@a\0b\0", "abstract": True}),
        (UN + b"\0a\0" + bytes(105), 128, {"path": "@a", "abstract": True}),
        (UN + b"@name\0", None, {"path": "@name"}),
        (UN, None, {"path": ""}),
        (IN, None, {"family": "AF_INET", "path": ""}),
    ],
)
def test_unix_name_is_read(readers: Readers, data: bytes, length: int | None, wanted: dict[str, Any]) -> None:
    there = memory(data)
    result = readers.run("user_sockaddr_un", ctypes.addressof(there), length or len(data))
    assert result.error == 0
    assert value("sockaddr_un", result) == {"family": "AF_UNIX"} | wanted
