# SPDX-License-Identifier: Apache-2.0
"""Arguments of kernel functions of all types that only the kernel has, each at a function that is given one."""

from __future__ import annotations

import base64
import json
import lzma
import os
import platform
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.policy.kernel_names import CAPABILITIES
from tests.support.bpf_objects import any_program
from tests.support.examples import socket_address
from tests.support.function_hooks import (
    AT_FDCWD,
    Told,
    function,
    openat,
    policies,
    select,
)
from tests.support.language import Document, arg, condition, document, marker_policy
from tests.support.workload import Node, step, steps

pytestmark = [pytest.mark.guest, pytest.mark.kernel, pytest.mark.timeout(120)]

Event = Mapping[str, Any]

PORT = 9  # of nobody
ADDRESS = socket_address("127.0.0.1", PORT)
UNIX = struct.pack("=H", socket.AF_UNIX) + b"/nobody\0"
CHROOT = CAPABILITIES["CAP_SYS_CHROOT"]
EFFECTIVE, PERMITTED, INHERITABLE = 1, 0x21, 0x20  # CAP_CHOWN is bit 0, CAP_KILL bit 5
CAPSET_HEADER = struct.pack("<Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
CAPSET = struct.pack("<6I", EFFECTIVE, PERMITTED, INHERITABLE, 0, 0, 0)
MAP = struct.pack("<7I16s", 2, 4, 8, 16, 0, 0, 0, b"made_here")  # union bpf_attr of BPF_MAP_CREATE: an array
BPF_MAP_CREATE, BPF_PROG_GET_FD_BY_ID = 0, 13
PAGE_FAULTS = struct.pack("<IIQ", 1, 128, 2).ljust(128, b"\0")  # struct perf_event_attr
MODULE = "dummy"
ENODEV, EISDIR = -19, -21


@dataclass(frozen=True, slots=True)
class Case:
    """A hook, the steps of calls.c that reach it, and what the arguments of its first event are."""

    hook: Document
    steps: Callable[[Path], Sequence[str]]
    wanted: Callable[[Path], Sequence[Any]]


def datagram() -> list[str]:
    return steps(step("socket", 2, 2, 0), step("sendto", 3, b"x", 1, 0, ADDRESS, len(ADDRESS)))


def connection(address: bytes, family: int) -> list[str]:
    return steps(step("socket", family, 1, 0), step("connect", 3, address, len(address)))


CASES: dict[str, Case] = {
    "file": Case(
        function("security_file_open", arg(0, "file"), selectors=[select(condition(0, "Postfix", "/plain"))]),
        lambda folder: openat(folder / "plain"),
        lambda folder: [{"value": str(folder / "plain"), "file_type": "regular", "mode": "0640"}],
    ),
    "path": Case(
        function("security_path_truncate", arg(0, "path")),
        lambda folder: step("truncate", str(folder / "plain"), 3),
        lambda folder: [{"value": str(folder / "plain"), "file_type": "regular"}],
    ),
    "dentry": Case(
        function("security_path_unlink", arg(0, "path"), arg(1, "dentry")),
        lambda folder: step("unlink", str(folder / "gone")),
        lambda folder: [{"value": str(folder), "file_type": "dir"}, {"file_type": "regular"}],
    ),
    "fd": Case(
        function("fget", arg(0, "fd"), selectors=[select(condition(0, "Postfix", "/plain"))]),
        lambda folder: steps(openat(folder / "plain"), step("mmap", 0, 4096, 1, 2, 3, 0)),
        lambda folder: [{"path": str(folder / "plain"), "value": 3}],
    ),
    "filename": Case(
        function("vfs_statx", arg(0, "int"), arg(1, "filename")),
        lambda folder: step("statx", AT_FDCWD, str(folder / "plain"), 0, 0x7FF, "r:256"),
        lambda folder: [{"value": AT_FDCWD}, {"value": str(folder / "plain")}],
    ),
    "linux_binprm": Case(
        function("security_bprm_check", arg(0, "linux_binprm"), selectors=[select(condition(0, "Postfix", "/calls"))]),
        lambda _: steps(["exec"], step("getpid")),
        lambda _: [{"file_type": "regular"}],
    ),
    "sock": Case(
        function("tcp_connect", arg(0, "sock"), selectors=[select(condition(0, "DPort", PORT))]),
        lambda _: connection(ADDRESS, 2),
        lambda _: [{"value": {"family": "AF_INET", "protocol": "IPPROTO_TCP", "daddr": "127.0.0.1", "dport": PORT}}],
    ),
    "socket": Case(
        function("security_socket_connect", arg(0, "socket"), arg(1, "sockaddr", sizeArgIndex=3)),
        lambda _: connection(ADDRESS, 2),
        lambda _: [
            {"value": {"family": "AF_INET", "type": "SOCK_STREAM"}},
            {"value": {"family": "AF_INET", "addr": "127.0.0.1", "port": PORT}},
        ],
    ),
    "sockaddr_un": Case(
        function("security_socket_connect", arg(1, "sockaddr_un", sizeArgIndex=3), arg(2, "int")),
        lambda _: connection(UNIX, 1),
        lambda _: [{"value": {"family": "AF_UNIX", "path": "/nobody"}}, {"value": len(UNIX)}],
    ),
    "skb": Case(
        function("ip_send_skb", arg(1, "skb")),
        lambda _: datagram(),
        lambda _: [{"value": {"daddr": "127.0.0.1", "dport": PORT, "protocol": "IPPROTO_UDP"}}],
    ),
    "net_device": Case(
        function("loopback_xmit", arg(1, "net_device")),
        lambda _: datagram(),
        lambda _: [{"value": {"name": "lo", "ifindex": 1}}],
    ),
    "kiocb": Case(
        function(
            "generic_perform_write",
            arg(0, "kiocb"),
            arg(1, "iov_iter"),
            selectors=[select(condition(0, "Postfix", "/written"))],
        ),
        lambda folder: steps(openat(folder / "written", os.O_CREAT | os.O_WRONLY), step("write", 3, "hello", 5)),
        lambda folder: [
            {"value": str(folder / "written")},
            {"value": {"base64": base64.b64encode(b"hello").decode(), "count": 5}},
        ],
    ),
    "capability": Case(
        function(
            "security_capable",
            arg(0, "cred"),
            arg(1, "user_namespace"),
            arg(2, "capability"),
            arg(3, "uint"),
            selectors=[select(condition(2, "Equal", "CAP_SYS_CHROOT"))],
        ),
        lambda _: step("chroot", "/"),
        lambda _: [
            {"value": {"uid": 0, "fsgid": 0}},
            {"value": {"level": 0, "uid": 0, "gid": 0}},
            {"value": CHROOT, "name": "CAP_SYS_CHROOT"},
            {"value": 0},
        ],
    ),
    "cap_effective": Case(
        function(
            "security_capset",
            arg(2, "cap_effective"),
            arg(3, "cap_inheritable"),
            arg(4, "cap_permitted"),
            arg(4, "kernel_cap_t"),
        ),
        lambda _: step("capset", CAPSET_HEADER, CAPSET),
        lambda _: [
            {"value": EFFECTIVE, "names": ["CAP_CHOWN"]},
            {"value": INHERITABLE, "names": ["CAP_KILL"]},
            {"value": PERMITTED},
            {"value": PERMITTED, "names": ["CAP_CHOWN", "CAP_KILL"]},
        ],
    ),
    "bpf_attr": Case(
        function("security_bpf", arg(0, "bpf_cmd"), arg(1, "bpf_attr")),
        lambda _: step("bpf", BPF_MAP_CREATE, MAP, len(MAP)),
        lambda _: [
            {"value": 0, "name": "BPF_MAP_CREATE"},
            {"value": {"map_type": "BPF_MAP_TYPE_ARRAY", "max_entries": 16, "map_name": "made_here"}},
        ],
    ),
    "bpf_map": Case(
        function("security_bpf_map", arg(0, "bpf_map"), selectors=[select(condition(0, "Equal", "made_here"))]),
        lambda _: step("bpf", BPF_MAP_CREATE, MAP, len(MAP)),
        lambda _: [{"value": {"map_type": "BPF_MAP_TYPE_ARRAY", "key_size": 4, "value_size": 8}}],
    ),
    "bpf_prog": Case(
        function("security_bpf_prog", arg(0, "bpf_prog")),
        lambda _: step("bpf", BPF_PROG_GET_FD_BY_ID, struct.pack("<III", any_program(), 0, 0), 12),
        lambda _: [{"value": {"id": any_program()}}],
    ),
    "perf_event": Case(
        function("security_perf_event_alloc", arg(0, "perf_event")),
        lambda _: step("perf_event_open", PAGE_FAULTS, 0, -1, -1, 0),
        lambda _: [{"value": {"type": "PERF_TYPE_SOFTWARE", "config": 2}}],
    ),
    "module": Case(
        function("mod_sysfs_setup", arg(0, "module"), arg(1, "load_info")),
        lambda folder: steps(openat(folder / f"{MODULE}.ko"), step("finit_module", 3, "", 0)),
        lambda _: [{"value": {"name": MODULE}}, {"value": {"name": MODULE}}],
    ),
    "string": Case(
        function("security_sb_mount", arg(0, "string"), arg(1, "path"), arg(2, "string"), arg(3, "ulong")),
        lambda folder: step("mount", "nothing", str(folder), "no-such-type", 1, 0),
        lambda folder: [{"value": "nothing"}, {"value": str(folder)}, {"value": "no-such-type"}, {"value": 1}],
    ),
}


def unpack_module(target: Path) -> bool:
    """Whether this kernel has the module."""
    found = list(Path(f"/lib/modules/{platform.release()}").glob(f"kernel/drivers/net/{MODULE}.ko*"))
    for file in found:
        data = file.read_bytes()
        target.write_bytes(lzma.decompress(data) if file.suffix == ".xz" else data)
    return bool(found)


@pytest.fixture(scope="module")
def folder(scratch: Path) -> Path:
    (scratch / "plain").write_text("plain\n")
    (scratch / "plain").chmod(0o640)
    (scratch / "gone").touch()
    return scratch


@pytest.fixture(scope="module", autouse=True)
def in_force(node: Node) -> Iterator[None]:
    each = [
        document(name.replace("_", "-"), name.replace("_", "-"), kprobes=[case.hook]) for name, case in CASES.items()
    ]
    with policies(node, *map(json.dumps, (marker_policy(), *each))):
        yield


def is_part(wanted: Any, found: Any) -> bool:
    """Of mappings those members that are wanted."""
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(
            name in found and is_part(wanted[name], found[name]) for name in wanted
        )
    return bool(wanted == found)


@pytest.mark.parametrize("name", CASES)
def test_argument_is_what_the_function_is_given(node: Node, told: Told, folder: Path, name: str) -> None:
    if name == "module" and not unpack_module(folder / f"{MODULE}.ko"):
        pytest.skip("this kernel has no modules")
    case = CASES[name]
    wanted = case.wanted(folder)
    with node.container(name.replace("_", "-")) as group:
        ended = group.run(case.steps(folder))
        assert ended.status == 0
        events = told.of(group)
    assert events, ended
    args = events[0]["args"]
    assert [each["type"] for each in args] == [each["type"] for each in case.hook["args"]]
    assert all(map(is_part, wanted, args)), args
    assert len(wanted) == len(args)
    assert (events[0]["hook"], events[0]["function"]) == ("kprobe", case.hook["call"])
