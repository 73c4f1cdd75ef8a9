# SPDX-License-Identifier: Apache-2.0
"""The text of the header tree's files."""

from __future__ import annotations

import posixpath
import re

import pytest

from agent.kernel.btf_c import CText
from agent.kernel.header_text import KernelFacts, tree_files
from agent.kernel.helper_ids import HELPERS, missing_helpers

EVERY_CONSTANT = frozenset({*HELPERS, "TASK_COMM_LEN", "true", "false"})
KCONFIG = "include/linux/kconfig.h"


def files_for(
    enumerators: frozenset[str] = EVERY_CONSTANT, release: str = "6.18.44-cloud", machine: str = "x86_64"
) -> dict[str, str]:
    return tree_files(CText("struct s;\n", "", enumerators), KernelFacts(release, machine, 4096))


def test_helper_ids_are_those_of_the_kernel() -> None:
    assert len(HELPERS) == 212
    known = {
        4: "probe_read",
        109: "send_signal",
        113: "probe_read_kernel",
        130: "ringbuf_output",
        211: "cgrp_storage_delete",
    }
    assert {number: HELPERS[number] for number in known} == {n: f"BPF_FUNC_{name}" for n, name in known.items()}


def test_only_helpers_that_the_kernel_lacks_are_added() -> None:
    lacking = EVERY_CONSTANT - {"BPF_FUNC_cgrp_storage_get", "BPF_FUNC_cgrp_storage_delete"}
    assert missing_helpers(lacking) == (("BPF_FUNC_cgrp_storage_get", 210), ("BPF_FUNC_cgrp_storage_delete", 211))
    expected = "enum { BPF_FUNC_cgrp_storage_get = 210, BPF_FUNC_cgrp_storage_delete = 211 };"
    assert expected in files_for(lacking)[KCONFIG]
    assert "BPF_FUNC" not in files_for()[KCONFIG]


def test_constants_that_the_btf_lacks_are_defined() -> None:
    assert "TASK_COMM_LEN" not in files_for()[KCONFIG]
    without = files_for(frozenset(HELPERS))[KCONFIG]
    assert "#define TASK_COMM_LEN 16\n" in without
    assert "enum { false = 0, true = 1 };\n" in without


@pytest.mark.parametrize(
    ("release", "code"),
    [("6.18.44-cloud", 0x06122C), ("6.12", 0x060C00), ("5.10.300-lts", 0x050AFF), ("6.1.0-18-amd64", 0x060100)],
)
def test_version_code_follows_the_release(release: str, code: int) -> None:
    text = files_for(release=release)["include/generated/uapi/linux/version.h"]
    assert f"#define LINUX_VERSION_CODE {code}\n" in text


@pytest.mark.parametrize(("machine", "directory"), [("x86_64", "arch/x86/"), ("aarch64", "arch/arm64/")])
def test_architecture_has_the_directory_that_bcc_looks_in(machine: str, directory: str) -> None:
    arch = [path for path in files_for(machine=machine) if path.startswith("arch/")]
    assert f"{directory}include/asm/ptrace.h" in arch
    assert all(path.startswith(directory) for path in arch)


@pytest.mark.parametrize(("release", "machine"), [("6.1.0", "s390x"), ("six", "x86_64")])
def test_unknown_kernels_are_errors(release: str, machine: str) -> None:
    with pytest.raises(ValueError, match=r"s390x|six"):
        files_for(release=release, machine=machine)


def test_every_include_is_relative_and_exists() -> None:
    files = files_for()
    includes = [(path, name) for path, text in files.items() for name in re.findall(r"#include (.*)", text)]
    assert len(includes) > 25
    for path, name in includes:
        assert name.startswith('"')
        assert posixpath.normpath(posixpath.join(posixpath.dirname(path), name.strip('"'))) in files


def test_what_the_kernel_lacks_is_defined() -> None:
    text = CText("struct s;\n", "", EVERY_CONSTANT, ("time_namespace", "sock_common_skc_v6_daddr"))
    kconfig = tree_files(text, KernelFacts("6.18.44", "x86_64", 4096))[KCONFIG]
    assert "#define PODGATE_LACKS_time_namespace 1\n#define PODGATE_LACKS_sock_common_skc_v6_daddr 1\n" in kconfig
    assert "PODGATE_LACKS" not in files_for()[KCONFIG]
