# SPDX-License-Identifier: Apache-2.0
"""The structures that bpf/lib writes for arguments: where gcc puts each member is where the decoders read it."""

from __future__ import annotations

import json
import re
import struct
import subprocess
from pathlib import Path

import pytest

from agent.events.blobs_cred import CRED, IDS, SETS, USER_NAMESPACE
from agent.events.blobs_net import (
    KNOWS_DADDR,
    KNOWS_DPORT,
    KNOWS_PROTOCOL,
    KNOWS_SADDR,
    KNOWS_SPORT,
    NET,
    UNIX_ABSTRACT,
    Net,
)
from agent.events.blobs_objects import BPF_FACTS, KIND_MAP, KIND_PROG, MODULE_FACTS, PERF_FACTS, SIGNATURES
from tests.support.names import project_dir

HEAD = """
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
typedef uint8_t __u8; typedef uint16_t __u16; typedef uint32_t __u32; typedef uint64_t __u64; typedef int32_t __s32;
#define PG_PMU_NAME 16
"""
# Header, structure, members in the order of the Python format.
STRUCTS: dict[str, tuple[str, struct.Struct, tuple[str, ...]]] = {
    "pg_net": ("net.h", NET, Net._fields),
    "pg_user_namespace": ("cred.h", USER_NAMESPACE, ("level", "owner", "group", "inode")),
    "pg_cred": ("cred.h", CRED, (*IDS, "securebits", "reserved", *SETS, "user_ns")),
    "pg_bpf_facts": (
        "bpf_objects.h",
        BPF_FACTS,
        (
            *("kind", "type", "id", "flags", "instructions", "attach_type"),
            *("key_size", "value_size", "max_entries", "reserved"),
        ),
    ),
    "pg_perf_facts": ("perf_event.h", PERF_FACTS, ("type", "reserved", "config", "offset", "pmu")),
    "pg_module_facts": ("module.h", MODULE_FACTS, ("taints", "signature", "reserved")),
}
DEFINES = {
    "net.h": ("PG_NET_SADDR", "PG_NET_DADDR", "PG_NET_SPORT", "PG_NET_DPORT", "PG_NET_TYPE", "PG_NET_PROTOCOL"),
    "sockaddr.h": ("PG_UNIX_ABSTRACT",),
    "bpf_objects.h": ("PG_BPF_MAP", "PG_BPF_PROG"),
    "module.h": ("PG_SIGNATURE_GOOD", "PG_SIGNATURE_NONE"),
}


def header(name: str) -> str:
    return (project_dir() / "bpf/lib" / name).read_text()


def definition(name: str) -> str:
    """The text of a structure."""
    found = re.search(rf"^struct {name} \{{.*?^\}};", header(STRUCTS[name][0]), re.DOTALL | re.MULTILINE)
    assert found
    return found[0]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Sizes and offsets, by their C text."""
    folder: Path = tmp_path_factory.mktemp("blobs")
    wanted = [f"sizeof(struct {name})" for name in STRUCTS]
    wanted += [f"offsetof(struct {name}, {member})" for name, (_, _, fields) in STRUCTS.items() for member in fields]
    prints = "\n".join(f'printf("%s\\"{text}\\": %zu", n++ ? ", " : "", (size_t)({text}));' for text in wanted)
    structures = "\n".join(definition(name) for name in STRUCTS)
    body = f'int main(void) {{ int n = 0; printf("{{"); {prints} printf("}}"); return 0; }}\n'
    (folder / "blobs.c").write_text(f"{HEAD}{structures}\n{body}")
    subprocess.run(["gcc", "-o", folder / "blobs", folder / "blobs.c"], check=True)
    values: dict[str, int] = json.loads(subprocess.run([folder / "blobs"], capture_output=True, check=True).stdout)
    return values


def offsets(form: struct.Struct) -> list[int]:
    """Where each value of a format begins."""
    codes = re.findall(r"\d*s|\d*[A-Za-z]", form.format[1:])
    found, at = [], 0
    for code in codes:
        count = 1 if code.endswith("s") or not code[:-1] else int(code[:-1])
        size = struct.calcsize("<" + (code if code.endswith("s") else code[-1]))
        for _ in range(count):
            found.append(at)
            at += size
    return found


@pytest.mark.parametrize("name", STRUCTS)
def test_members_are_where_the_decoders_read_them(compiled: dict[str, int], name: str) -> None:
    _, form, fields = STRUCTS[name]
    assert form.size == compiled[f"sizeof(struct {name})"]
    assert offsets(form) == [compiled[f"offsetof(struct {name}, {member})"] for member in fields]


def test_constants_are_those_of_the_headers() -> None:
    values: dict[str, int] = {}
    for name, wanted in DEFINES.items():
        defined = dict(re.findall(r"^#define (\w+) (\w+)", header(name), re.MULTILINE))
        values |= {each: int(defined[each], 0) for each in wanted}
    ends = [values[f"PG_NET_{name}"] for name in ("SADDR", "DADDR", "SPORT", "DPORT")]
    assert ends == [KNOWS_SADDR, KNOWS_DADDR, KNOWS_SPORT, KNOWS_DPORT]
    assert values["PG_NET_TYPE"] | values["PG_NET_PROTOCOL"] == KNOWS_PROTOCOL
    assert values["PG_UNIX_ABSTRACT"] == UNIX_ABSTRACT
    assert (values["PG_BPF_MAP"], values["PG_BPF_PROG"]) == (KIND_MAP, KIND_PROG)
    assert {values["PG_SIGNATURE_GOOD"]: True, values["PG_SIGNATURE_NONE"]: False} == SIGNATURES
