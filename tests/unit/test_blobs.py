# SPDX-License-Identifier: Apache-2.0
"""Structures of arguments as JSON: names, addresses, what is absent, and bytes that no reader wrote."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.events.blob_names import FAMILY, PROTOCOL, SECURE_BITS, STATE, TAINT, bit_names
from agent.events.blobs import BLOB_TYPES, decode_blob
from agent.events.blobs_cred import CRED, USER_NAMESPACE
from agent.events.blobs_net import NET, UNIX_ABSTRACT
from agent.events.blobs_objects import BPF_FACTS, MODULE_FACTS, PERF_FACTS
from agent.events.layout import CUT_TAIL, UNREADABLE
from agent.policy.model import ArgType

SADDR, DADDR, SPORT, DPORT, TYPE, PROTO = 1, 2, 4, 8, 16, 32
ENDS = SADDR | DADDR | SPORT | DPORT


def mapped(address: str) -> bytes:
    return bytes(10) + b"\xff\xff" + IPv4Address(address).packed


def net(saddr: bytes = bytes(16), daddr: bytes = bytes(16), **numbers: int) -> bytes:
    names = (
        "sport",
        "dport",
        "family",
        "type",
        "protocol",
        "state",
        "known",
        "mark",
        "priority",
        "hash",
        "len",
        "none",
    )
    assert not numbers.keys() - set(names)
    return NET.pack(saddr, daddr, *(numbers.get(name, 0) for name in names))


def decode(kind: str, data: bytes, flags: int = 0, mode: int = 0) -> dict[str, Any]:
    found = decode_blob(kind, data, flags, mode)
    assert found is not None
    json.dumps(found)
    return found


def test_every_structure_has_a_decoder_and_no_other_type() -> None:
    plain = {"string", "char_buf", "const_buf", "char_iovec", "data_loc", "filename", "auto", "nop"}
    structures = {kind.value for kind in ArgType if not kind.is_number and not kind.is_path} - plain
    assert structures == BLOB_TYPES
    with pytest.raises(KeyError):
        decode_blob("string", b"", 0, 0)


@pytest.mark.parametrize("kind", sorted(BLOB_TYPES))
def test_what_could_not_be_read_is_nothing(kind: str) -> None:
    assert decode_blob(kind, b"", UNREADABLE, 0) is None


@pytest.mark.parametrize("kind", ["sock", "socket"])
def test_socket_of_ipv4(kind: str) -> None:
    numbers = {
        "sport": 33000,
        "dport": 443,
        "family": 2,
        "type": 1,
        "protocol": 6,
        "state": 1,
        "mark": 7,
        "priority": 6,
    }
    data = net(mapped("10.1.2.3"), mapped("192.0.2.1"), known=ENDS | TYPE, **numbers)
    assert decode(kind, data) == {
        "family": "AF_INET",
        "type": "SOCK_STREAM",
        "protocol": "IPPROTO_TCP",
        "state": "TCP_ESTABLISHED",
        "saddr": "10.1.2.3",
        "daddr": "192.0.2.1",
        "sport": 33000,
        "dport": 443,
        "mark": 7,
        "priority": 6,
    }


def test_ipv4_address_of_an_ipv6_socket_is_written_as_such() -> None:
    found = decode("sock", net(mapped("10.1.2.3"), IPv6Address("2001:db8::1").packed, family=10, known=ENDS | TYPE))
    assert (found["saddr"], found["daddr"]) == ("::ffff:10.1.2.3", "2001:db8::1")


def test_socket_without_addresses_has_none() -> None:
    found = decode("sock", net(family=1, type=2, known=TYPE, state=7))
    assert found == {
        "family": "AF_UNIX",
        "type": "SOCK_DGRAM",
        "protocol": "IPPROTO_IP",
        "state": "TCP_CLOSE",
        "mark": 0,
        "priority": 0,
    }


def test_numbers_without_a_name_stay_numbers() -> None:
    found = decode("sock", net(family=200, type=9, protocol=250, state=99, known=TYPE))
    assert (found["family"], found["type"], found["protocol"], found["state"]) == (200, 9, 250, 99)


def test_packet() -> None:
    numbers = {"family": 2, "protocol": 17, "sport": 5, "dport": 53, "hash": 9, "len": 77, "mark": 1, "priority": 2}
    data = net(mapped("1.2.3.4"), mapped("5.6.7.8"), known=ENDS | PROTO, **numbers)
    assert decode("skb", data) == {
        "family": "AF_INET",
        "protocol": "IPPROTO_UDP",
        "proto": 17,
        "saddr": "1.2.3.4",
        "daddr": "5.6.7.8",
        "sport": 5,
        "dport": 53,
        "len": 77,
        "hash": 9,
        "mark": 1,
        "priority": 2,
    }
    assert decode("skb", net(len=60)) == {"len": 60, "hash": 0, "mark": 0, "priority": 0}


def test_socket_address() -> None:
    data = net(mapped("10.0.0.1"), family=2, sport=80, known=SADDR | SPORT)
    assert decode("sockaddr", data) == {"family": "AF_INET", "addr": "10.0.0.1", "port": 80}
    assert decode("sockaddr", net(family=16)) == {"family": "AF_NETLINK"}


def test_unix_name() -> None:
    assert decode("sockaddr_un", b"/run/x", 0, 1) == {"family": "AF_UNIX", "path": "/run/x"}
    found = decode("sockaddr_un", b"@a\0b", 0, 1 | UNIX_ABSTRACT)
    assert found == {"family": "AF_UNIX", "path": "@a\0b", "abstract": True}
    assert decode("sockaddr_un", b"\xff", 0, 1)["path"] == "\\xff"


def test_device_and_iterator() -> None:
    assert decode("net_device", b"eth0", 0, 3) == {"name": "eth0", "ifindex": 3}
    assert decode("iov_iter", b"\0\1", CUT_TAIL, 99) == {"base64": "AAE=", "count": 99}


def test_credentials() -> None:
    namespace = USER_NAMESPACE.pack(1, 1000, 1001, 4026531837)
    data = CRED.pack(*range(8), 0b101, 0, 1, 1 << 21, 1 << 40, (1 << 41) - 1, 1 << 63, namespace)
    found = decode("cred", data)
    assert [found[name] for name in ("uid", "gid", "euid", "egid", "suid", "sgid", "fsuid", "fsgid")] == list(range(8))
    assert found["securebits"] == ["SECBIT_NOROOT", "SECBIT_NO_SETUID_FIXUP"]
    caps = found["caps"]
    assert (caps["inheritable"], caps["permitted"], caps["effective"]) == (
        ["CAP_CHOWN"],
        ["CAP_SYS_ADMIN"],
        ["CAP_CHECKPOINT_RESTORE"],
    )
    assert (len(caps["bounding"]), caps["ambient"]) == (41, ["CAP_63"])
    assert found["user_ns"] == {"level": 1, "uid": 1000, "gid": 1001, "ns": {"inum": 4026531837, "is_host": False}}
    assert decode("user_namespace", namespace) == found["user_ns"]
    assert decode("user_namespace", USER_NAMESPACE.pack(0, 0, 0, 7))["ns"]["is_host"]


def test_bpf_objects() -> None:
    program = b"guard" + BPF_FACTS.pack(2, 17, 12, 0, 99, 41, 0, 0, 0, 0)
    fields = {
        "prog_type": "BPF_PROG_TYPE_RAW_TRACEPOINT",
        "insn_cnt": 99,
        "prog_name": "guard",
        "expected_attach_type": 41,
    }
    assert decode("bpf_prog", program) == fields | {"id": 12}
    assert decode("bpf_attr", program) == fields
    made = b"m" + BPF_FACTS.pack(1, 27, 5, 64, 0, 0, 4, 8, 16, 0)
    fields = {
        "map_type": "BPF_MAP_TYPE_RINGBUF",
        "key_size": 4,
        "value_size": 8,
        "max_entries": 16,
        "map_name": "m",
        "map_flags": 64,
    }
    assert decode("bpf_map", made) == fields | {"id": 5}
    assert decode("bpf_attr", made) == fields
    assert decode("bpf_attr", BPF_FACTS.pack(*[0] * 10)) == {}


def test_perf_event_and_module() -> None:
    facts = PERF_FACTS.pack(8, 0, 5, 16, b"kprobe")
    assert decode("perf_event", b"do_exit" + facts) == {
        "kprobe_func": "do_exit",
        "type": 8,
        "config": 5,
        "probe_offset": 16,
        "pmu": "kprobe",
    }
    module = b"evil" + MODULE_FACTS.pack(1 << 12 | 1 << 13, 0, 0)
    assert decode("module", module) == {"name": "evil", "tainted": ["TAINT_OOT_MODULE", "TAINT_UNSIGNED_MODULE"]}
    assert decode("load_info", b"evil" + MODULE_FACTS.pack(0, 1, 0))["signature_ok"] is True
    assert decode("load_info", b"evil" + MODULE_FACTS.pack(0, 2, 0))["signature_ok"] is False


@given(st.sampled_from(sorted(BLOB_TYPES)), st.binary(max_size=200), st.integers(0, 255), st.integers(0, 2**32 - 1))
def test_junk_is_a_value_or_malformed(kind: str, data: bytes, flags: int, mode: int) -> None:
    found = decode_blob(kind, data, flags, mode)
    assert (found is None) == bool(flags & UNREADABLE)
    if found is not None:
        json.dumps(found)


@pytest.mark.parametrize(
    ("kind", "size"),
    [("sock", 64), ("cred", 96), ("user_namespace", 16), ("bpf_map", 40), ("perf_event", 40), ("module", 16)],
)
def test_too_few_bytes_are_malformed(kind: str, size: int) -> None:
    assert "malformed" not in decode(kind, bytes(size))
    assert decode(kind, bytes(size - 1))["malformed"] is True


def test_of_two_names_of_a_number_the_usual_one_is_said() -> None:
    assert (FAMILY[1], FAMILY[16], PROTOCOL[0], STATE[12]) == (
        "AF_UNIX",
        "AF_NETLINK",
        "IPPROTO_IP",
        "TCP_NEW_SYN_RECV",
    )


def test_bits_without_a_name_are_numbers() -> None:
    assert bit_names(SECURE_BITS, 1 | 1 << 31) == ["SECBIT_NOROOT", 31]
    assert bit_names(TAINT, 1 << 18) == ["TAINT_TEST"]
    assert bit_names(TAINT, 0) == []
