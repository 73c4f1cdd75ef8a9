# SPDX-License-Identifier: Apache-2.0
"""The readers of bpf/lib by themselves: programs/readers.c, loaded with maps of its own, run in the calling thread."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.kernel import bpf
from agent.kernel.headers import ensure_tree
from agent.kernel.layout import map_specs
from agent.kernel.loader import Loader, LoaderLimits, ProgramForm, ProgramSource
from tests.support.names import project_dir
from tests.support.patience import PATIENCE
from tests.support.wait import wait_until

SOURCE = project_dir() / "tests/support/programs/readers.c"
ROOM = 64  # bytes behind a text that facts can have
WANTED = 6
ON_REQUEST, ON_EVENT = 0, 1
TRACEPOINTS = {
    "on_exec": "sched_process_exec",
    "on_enter": "sys_enter",
    "on_packet": "net_dev_queue",
    "on_device": "net_dev_queue",
    "on_state": "inet_sock_set_state",
}
# For kernels without modules, which do not describe it.
LOAD_INFO = "struct load_info { const char *name; struct module *mod; bool sig_ok; };\n"

_HEAD = struct.Struct("<qQIIII")  # struct t_result: error, number, and the head of struct pg_string
_RUN = struct.Struct("<II8xQQ8xIIQQ")  # union bpf_attr.test: prog_fd, retval; data_in, data_out; ctx sizes, addresses
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Result:
    """What a reader left. data: `len` bytes; behind: what follows them."""

    error: int
    number: int
    flags: int
    mode: int
    data: bytes
    behind: bytes

    def with_facts(self, size: int) -> bytes:
        """The text and `size` bytes of facts behind it."""
        return self.data + self.behind[:size]

    @property
    def text(self) -> str:
        return self.data.decode()


class Readers:
    """The programs, by name, and their maps."""

    def __init__(self, programs: dict[str, bpf.Fd], maps: dict[str, bpf.Fd], value: int) -> None:
        self._programs = programs
        self._maps = maps
        self._value = value

    def fileno(self, program: str) -> int:
        return self._programs[program].fileno()

    def map_fileno(self, name: str) -> int:
        return self._maps[name].fileno()

    def run(self, program: str, *args: int) -> Result:
        """BPF_PROG_TEST_RUN of t_<program>, with args in its context."""
        self._put(ON_REQUEST, bytes(self._value))
        numbers = [arg & ((1 << 64) - 1) for arg in args] or [0]
        context = ctypes.create_string_buffer(struct.pack("<5Q", *numbers, *[0] * (5 - len(numbers))), 40)
        fd = self.fileno(f"t_{program}")
        attr = _RUN.pack(fd, 0, 0, 0, len(context), 0, ctypes.addressof(context), 0)
        done = _libc.syscall(bpf.SYS_BPF, bpf.Command.PROG_TEST_RUN, ctypes.create_string_buffer(attr, 80), 80)
        if done:
            raise OSError(ctypes.get_errno(), "BPF_PROG_TEST_RUN", program)
        return self._result(ON_REQUEST)

    @contextmanager
    def attached(self, program: str, **wanted: int) -> Iterator[None]:
        """A program of TRACEPOINTS in force. wanted: w0 to w5, elements of the map of that name."""
        self._put(ON_EVENT, bytes(self._value))
        for name, value in wanted.items():
            self._want(int(name[1:]), value)
        with bpf.open_raw_tracepoint(TRACEPOINTS[program], self.fileno(program)):
            yield
        for index in range(WANTED):
            self._want(index, 0)

    def told(self) -> Result:
        """What an attached program kept, once it has."""
        wait_until(lambda: self._raw(ON_EVENT) != bytes(self._value), 10.0, "a program to keep what it has read")
        return self._result(ON_EVENT)

    def counter(self, index: int, cpus: int) -> int:
        data = bpf.lookup(self.map_fileno("counters"), struct.pack("<I", index), 8 * cpus)
        return sum(struct.unpack(f"<{cpus}Q", data or bytes(8 * cpus)))

    def close(self) -> None:
        for fd in (*self._programs.values(), *self._maps.values()):
            fd.close()

    def _want(self, index: int, value: int) -> None:
        bpf.update(self.map_fileno("wanted"), struct.pack("<I", index), struct.pack("<Q", value))

    def _put(self, index: int, value: bytes) -> None:
        bpf.update(self.map_fileno("result"), struct.pack("<I", index), value)

    def _raw(self, index: int) -> bytes:
        return bpf.lookup(self.map_fileno("result"), struct.pack("<I", index), self._value) or b""

    def _result(self, index: int) -> Result:
        raw = self._raw(index)
        error, number, size, flags, mode, _ = _HEAD.unpack_from(raw)
        text = raw[_HEAD.size :]
        return Result(error, number, flags, mode, text[:size], text[size : size + ROOM])


def _maps() -> tuple[dict[str, bpf.Fd], int]:
    """The maps that readers use, as the agent makes them, and two for the tests; the size of a result."""
    specs = {spec.name: spec for spec in map_specs(4096, 1)}
    result = _HEAD.size - 16 + specs["strings"].value
    made = {
        spec.name: bpf.create_map(spec.kind, spec.key, spec.value, spec.entries, f"t_{spec.name}", spec.flags)
        for spec in (specs[name] for name in ("strings", "counters", "errors"))
    }
    made["result"] = bpf.create_map(bpf.MapType.ARRAY, 4, result, 2, "t_result")
    made["wanted"] = bpf.create_map(bpf.MapType.ARRAY, 4, 8, WANTED, "t_wanted")
    return made, result


def _names(text: str) -> list[str]:
    """The programs of the text: T(name, …) and int name(struct bpf_raw_tracepoint_args …."""
    lines = text.splitlines()
    made = [f"t_{line[2:].partition(',')[0]}" for line in lines if line.startswith("T(")]
    return made + [line[4:].partition("(")[0] for line in lines if line.startswith("int ")]


@contextmanager
def load_readers() -> Iterator[Readers]:
    """Compiled and loaded."""
    maps, value = _maps()
    text = SOURCE.read_text()
    tree = ensure_tree()
    if "struct load_info {" not in (Path(tree) / "include/podgate_btf.h").read_text():
        text = f'#include "lib/kernel.h"\n{LOAD_INFO}{text}'
    loader = Loader(tree, {name: fd.fileno() for name, fd in maps.items()}, LoaderLimits(30.0 * PATIENCE))
    source = ProgramSource(text, dict.fromkeys(_names(text), ProgramForm(bpf.ProgType.RAW_TRACEPOINT)))
    programs = loader.load(source)
    readers = Readers(programs, maps, value)
    try:
        yield readers
    finally:
        readers.close()
