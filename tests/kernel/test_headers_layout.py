# SPDX-License-Identifier: Apache-2.0
"""A compiler's layout of the declarations against this kernel's BTF."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.kernel.btf import COMPOSITES, Btf, Kind
from agent.kernel.btf_c import CText, declare
from agent.kernel.header_roots import KERNEL_ROOTS
from agent.kernel.kernel_btf import KernelBtf

pytestmark = pytest.mark.kernel

MAX_PARSE_CPU_S = 0.5
PRINT_BITS = r"""
#include <stdio.h>
static void show(const char *name, const unsigned char *bytes, unsigned long size)
{
    long first = -1, count = 0;
    for (unsigned long i = 0; i < 8 * size; i++)
        if (bytes[i / 8] >> i % 8 & 1) { first = first < 0 ? (long)i : first; count++; }
    printf("%s %ld %ld\n", name, first, count);
}
#define SHOW(type, path) do { static union { type t; unsigned char b[sizeof(type)]; } u; \
    u.t.path = (__typeof__(u.t.path + 0))-1; show(#type " " #path, u.b, sizeof(u.b)); } while (0)
"""


@pytest.fixture(scope="module")
def gcc() -> str:
    path = shutil.which("gcc")
    if path is None:
        pytest.skip("gcc is not installed")
    return path


@pytest.fixture(scope="module")
def vmlinux() -> Btf:
    return KernelBtf().kernel()


@pytest.fixture(scope="module")
def declarations(vmlinux: Btf) -> CText:
    return declare(vmlinux, KERNEL_ROOTS)


def bit_fields(btf: Btf, type_id: int, path: str = "", base: int = 0) -> Iterator[tuple[str, int, int]]:
    """Path, offset and width of the bit-fields of a type, those of its anonymous members too."""
    for member in btf.members(type_id):
        if member.bits and member.name:
            yield path + member.name, base + member.bit_offset, member.bits
        elif btf.kind(member.type_id) in COMPOSITES and not btf.name(member.type_id):
            inner = f"{path}{member.name}." if member.name else path
            yield from bit_fields(btf, member.type_id, inner, base + member.bit_offset)


def test_compiler_agrees_with_every_size_and_offset(gcc: str, declarations: CText, tmp_path: Path) -> None:
    source = tmp_path / "layout.c"
    source.write_text(declarations.text + declarations.asserts)
    done = subprocess.run(
        [gcc, "-fsyntax-only", "-Wall", "-Werror", source], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert declarations.asserts.count("_Static_assert") > 1500


def test_asserts_notice_a_wrong_offset(gcc: str, declarations: CText, tmp_path: Path) -> None:
    source = tmp_path / "layout.c"
    text = re.sub(r"(struct task_struct \{\n)", r"\1\tchar intruder[8];\n", declarations.text)
    source.write_text(text + declarations.asserts)
    done = subprocess.run([gcc, "-fsyntax-only", source], capture_output=True, text=True, check=False)
    assert "task_struct" in done.stderr


def test_compiler_agrees_with_every_bit_field(gcc: str, vmlinux: Btf, declarations: CText, tmp_path: Path) -> None:
    expected = []
    for keyword, name in re.findall(r"^(struct|union) (\w+) \{", declarations.text, re.MULTILINE):
        kind = Kind.STRUCT if keyword == "struct" else Kind.UNION
        type_id = vmlinux.find(kind, name)
        assert type_id is not None
        expected += [(f"{keyword} {name}", *field) for field in bit_fields(vmlinux, type_id)]
    calls = "".join(f"    SHOW({tag}, {path});\n" for tag, path, _, _ in expected)
    # The kernel's typedefs collide with those of stdio.h, hence the printing part in another file.
    show, header = PRINT_BITS.split("#define SHOW")
    (tmp_path / "show.c").write_text(show.replace("static void show", "void show"))
    prototype = "void show(const char *, const unsigned char *, unsigned long);\n#define SHOW"
    (tmp_path / "bits.c").write_text(
        f"{declarations.text}{prototype}{header}int main(void)\n{{\n{calls}    return 0;\n}}\n"
    )
    program = tmp_path / "bits"
    subprocess.run([gcc, "-w", "-o", program, tmp_path / "bits.c", tmp_path / "show.c"], check=True)
    printed = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == [f"{tag} {path} {offset} {bits}" for tag, path, offset, bits in expected]
    assert len(expected) > 50


def test_members_that_programs_read_are_there(vmlinux: Btf) -> None:
    task = vmlinux.find(Kind.STRUCT, "task_struct")
    assert task is not None
    names = {member.name for member in vmlinux.members(task)}
    assert {"real_parent", "tgid", "nsproxy", "cgroups", "cred", "fs", "files"} <= names


def test_kernel_is_parsed_in_a_moment() -> None:
    data = KernelBtf().read()
    start = time.process_time()
    btf = Btf.parse(data)
    btf.find(Kind.STRUCT, "task_struct")
    assert time.process_time() - start < MAX_PARSE_CPU_S
    assert len(btf) > 10_000
