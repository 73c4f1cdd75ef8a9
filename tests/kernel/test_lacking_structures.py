# SPDX-License-Identifier: Apache-2.0
"""Kernels that were built without a part: what bpf/ does not need of it compiles all the same.

Such a kernel's BTF is this one's, in which the structure or the member has another name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.kernel import bpf
from agent.kernel.base import ATTACHED, QUARANTINE, SELF, _unit
from agent.kernel.errors import LoaderError
from agent.kernel.headers import ensure_tree
from agent.kernel.kernel_btf import KernelBtf
from agent.kernel.layout import map_specs
from agent.kernel.loader import Loader, LoaderLimits, ProgramForm, ProgramSource
from agent.kernel.maps import Maps
from tests.support.kernel_facts import btf_in
from tests.support.points import prepare_pins

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(180)]

PROGRAM = """
#include "lib/syscall.h"

int pg_test_all(struct bpf_raw_tracepoint_args *ctx)
{
	struct pg_string *out = pg_string_of(0, 0);
	int type, sum = 0;

	if (!out)
		return 0;
#pragma unroll
	for (type = 0; type < PG_NS_TYPES; type++)
		sum += pg_ns_inum(type);
	sum += pg_read_sock(out, ctx->args[0]);
	sum += pg_read_skb(out, ctx->args[1]);
	sum += pg_read_net_device(out, ctx->args[2]);
	return sum & 1;
}
"""
MODULE = PROGRAM.replace("sum += pg_read_sock", "sum += pg_read_module")
LACKING = {
    "time": ["time_namespace"],
    "ipv6": ["skc_v6_daddr", "skc_v6_rcv_saddr", "ipv6hdr"],
    "inet": ["iphdr", "tcphdr", "udphdr", "inet_sock"],
    "modules": ["module", "load_info"],
}


@pytest.fixture(scope="module")
def maps() -> Iterator[Maps]:
    with prepare_pins() as pins:
        maps = Maps.create(map_specs(4096, 64), pins.maps)
        yield maps
        maps.close()


def tree_without(folder: Path, names: list[str]) -> Path:
    """Headers of a kernel that has none of these."""
    data = KernelBtf().read()
    for name in names:
        old = f"\0{name}\0".encode()
        assert name == "load_info" or data.count(old) == 1, name
        data = data.replace(old, f"\0{name[:-1]}_\0".encode())
    btf = folder / "vmlinux"
    btf.write_bytes(data)
    return ensure_tree(folder / "cache", btf_in(folder))


def load(tree: Path, maps: Maps, text: str, *names: str) -> None:
    loader = Loader(tree, maps.descriptors(), LoaderLimits())
    for program in loader.load(
        ProgramSource(text, dict.fromkeys(names, ProgramForm(bpf.ProgType.RAW_TRACEPOINT)))
    ).values():
        program.close()


def lacks(tree: Path) -> set[str]:
    return set(re.findall(r"#define PODGATE_LACKS_(\w+) 1", (tree / "include/linux/kconfig.h").read_text()))


@pytest.mark.parametrize("part", LACKING)
def test_all_but_the_part_compiles_and_loads(tmp_path: Path, maps: Maps, part: str) -> None:
    tree = tree_without(tmp_path, LACKING[part])
    members = {"skc_v6_daddr": "sock_common_skc_v6_daddr", "skc_v6_rcv_saddr": "sock_common_skc_v6_rcv_saddr"}
    assert {members.get(name, name) for name in LACKING[part]} <= lacks(tree)
    load(tree, maps, PROGRAM, "pg_test_all")
    load(tree, maps, _unit(), *ATTACHED, SELF, QUARANTINE)


def test_part_itself_does_not(tmp_path: Path, maps: Maps) -> None:
    load(ensure_tree(), maps, MODULE, "pg_test_all")
    with pytest.raises(LoaderError, match="pg_read_module"):
        load(tree_without(tmp_path, ["module", "load_info"]), maps, MODULE, "pg_test_all")
