# SPDX-License-Identifier: Apache-2.0
"""The instructions of all that tests/data/codegen has, compiled for a kernel that need not be the one that runs.

    python -m tests.support.golden_code FILE [VMLINUX RELEASE]

A guest of `make test-vm` compiles 15 times more slowly than this machine, which has the guest's types, too: it writes
FILE, and the guest only loads. Without VMLINUX the programs are for the kernel that runs. Where an instruction names a
map, it has the number that FILE says for it. FILE: JSON, case -> {"maps": name -> number, "programs": name ->
instructions in hexadecimal}, or {"error": what the compiler said}.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from agent.kernel.btf import Btf
from agent.kernel.btf_c import declare
from agent.kernel.btf_format import MAX_BTF_BYTES
from agent.kernel.elf import Elf
from agent.kernel.header_roots import KERNEL_ROOTS
from agent.kernel.header_text import KernelFacts, tree_files
from agent.kernel.instructions import INSTRUCTION, LOAD_MAP
from agent.kernel.kernel_btf import KernelBtf
from agent.kernel.layout import map_specs
from agent.kernel.loader import BPF_SOURCES
from agent.kernel.loader_main import NO_ALIASING, NO_DEBUG, ONE_PIPELINE
from agent.policy.access import TRAMPOLINES
from agent.policy.codegen import compile_module, programs
from agent.policy.codegen_unit import Side
from tests.unit.test_codegen import CASES, placement

EVENTS = 1 << 16  # bytes
# Numbers that no descriptor has: what is compiled is loaded by another process, with its own.
FIRST_NUMBER = 1 << 20
BY_DESCRIPTOR = 1  # BPF_PSEUDO_MAP_FD
# Alone in its process, as bcc is: text, flags and names on standard input, instructions by name as the last line.
_COMPILER = """
import json, sys
from bcc import BPF
asked = json.load(sys.stdin)
module = BPF(text=asked["text"], cflags=asked["flags"])
print()
print(json.dumps({name: module.dump_func(name).hex() for name in asked["programs"]}))
"""


@dataclass(frozen=True, slots=True)
class Compiled:
    """One case. maps: the number that instructions have for each. error: "" when it was compiled."""

    maps: Mapping[str, int]
    programs: Mapping[str, bytes]
    error: str = ""

    def linked(self, descriptors: Mapping[str, int]) -> dict[str, bytes]:
        """The programs with this process's own maps."""
        numbers = {number: descriptors[name] for name, number in self.maps.items()}
        return {name: _link(code, numbers) for name, code in self.programs.items()}


def _link(code: bytes, numbers: Mapping[int, int]) -> bytes:
    linked = bytearray(code)
    for at, (operation, registers, offset, number) in enumerate(INSTRUCTION.iter_unpack(code)):
        if operation == LOAD_MAP and registers >> 4 == BY_DESCRIPTOR:
            INSTRUCTION.pack_into(linked, at * INSTRUCTION.size, operation, registers, offset, numbers[number])
    return bytes(linked)


def text_of(name: str) -> str:
    return compile_module([(CASES[name], placement(CASES[name]))])


def names_of(name: str) -> list[str]:
    """Of its programs."""
    return [program.name for program in programs(CASES[name], placement(CASES[name]))]


def own_arrays(name: str) -> list[str]:
    """The maps that a case's hook point has for itself."""
    sides = Side if CASES[name].point.kind in TRAMPOLINES else ()
    return [f"slots_{placement(CASES[name]).attachment}_{side.value}" for side in sides]


def read_image(path: Path) -> bytes:
    """The BTF of a kernel's ELF file."""
    with path.open("rb") as file:

        def read(offset: int, size: int) -> bytes:
            return os.pread(file.fileno(), size, offset)

        elf = Elf(read, path.stat().st_size)
        section = elf.section(".BTF")
        if section is None:
            raise ValueError(f"{path} has no section .BTF")
        return elf.read_section(section, MAX_BTF_BYTES)


def write_headers(folder: Path, btf: bytes, release: str) -> None:
    """The tree that a node with that kernel makes."""
    kernel = KernelFacts(release, os.uname().machine, os.sysconf("SC_PAGE_SIZE"))
    for name, text in tree_files(declare(Btf.parse(btf), KERNEL_ROOTS), kernel).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def compile_case(headers: Path, name: str) -> dict[str, Any]:
    """As the file has it."""
    maps = {each: FIRST_NUMBER + number for number, each in enumerate([*map_names(), *own_arrays(name)])}
    flags = [f"-DPG_FD_{each}={number}" for each, number in maps.items()] + [f"-I{BPF_SOURCES}"]
    flags += [*ONE_PIPELINE, NO_DEBUG, NO_ALIASING]
    asked = {"text": text_of(name), "flags": flags, "programs": names_of(name)}
    done = subprocess.run(
        [sys.executable, "-c", _COMPILER],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "LANG": "C", "BCC_KERNEL_SOURCE": str(headers)},
    )
    if done.returncode:
        return {"error": done.stderr[-4000:]}
    return {"maps": maps, "programs": json.loads(done.stdout.splitlines()[-1])}


def map_names() -> list[str]:
    """Of the agent's maps."""
    return [spec.name for spec in map_specs(EVENTS, 64)]


def compile_all(btf: bytes, release: str) -> dict[str, dict[str, Any]]:
    """Every case, side by side."""
    with TemporaryDirectory(prefix="podgate-golden-") as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        headers = Path(folder)
        write_headers(headers, btf, release)
        return dict(zip(CASES, pool.map(lambda name: compile_case(headers, name), CASES), strict=True))


def read_compiled(file: Path) -> dict[str, Compiled]:
    """By case."""
    return {name: _compiled(case) for name, case in json.loads(file.read_text()).items()}


def _compiled(case: dict[str, Any]) -> Compiled:
    code = {name: bytes.fromhex(text) for name, text in case.get("programs", {}).items()}
    return Compiled(case.get("maps", {}), code, case.get("error", ""))


def write_compiled(file: Path, image: Path | None = None, release: str = "") -> None:
    """image: of the kernel; None: the one that runs."""
    if image is None:
        made = compile_all(KernelBtf().read(), os.uname().release)
    else:
        made = compile_all(read_image(image), release)
    file.write_text(json.dumps(made))


def main(arguments: list[str]) -> int:
    file, *kernel = arguments
    image, release = (Path(kernel[0]), kernel[1]) if kernel else (None, "")
    write_compiled(Path(file), image, release)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
