# SPDX-License-Identifier: Apache-2.0
"""Processes that make descendants, and what the kernel's side knows of whoever asks it.

A program on the raw tracepoint sys_enter evaluates C expressions for each lseek(-77, token, 0) and keeps the results
under the token: what a rule would see in that process at that call.
"""

from __future__ import annotations

import itertools
import os
import struct
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from agent.kernel import bpf
from agent.kernel.base import BasePrograms
from agent.kernel.headers import ensure_tree
from agent.kernel.layout import LINEAGE, TGID, map_specs
from agent.kernel.lineage import Lineage
from agent.kernel.loader import Loader, LoaderLimits, ProgramForm, ProgramSource
from agent.kernel.maps import Maps, possible_cpus, read_counters
from agent.kernel.mounts import ensure_bpffs
from agent.kernel.pins import Pins
from agent.kernel.process_scan import Record
from agent.policy.model import Operator
from tests.support.names import project_dir, unique_name
from tests.support.system import find_processes
from tests.support.wait import wait_until

SOON_S = 20.0
EXPRESSIONS = 16
ANSWER = struct.Struct(f"<{EXPRESSIONS}Q")
TOKEN = struct.Struct("<Q")
_tokens = itertools.count(1)
_QUESTION = """
#include "lib/process.h"
#include "maps/strings.h"
struct pg_answer { __u64 value[%d]; };
int pg_question(struct bpf_raw_tracepoint_args *ctx)
{
	const struct pt_regs *regs = (const struct pt_regs *)ctx->args[0];
	struct pg_answer answer = {};
	__u64 descriptor = 0, token = 0;

	if (ctx->args[1] != 8)
		return 0;
	pg_read(descriptor, &regs->di);
	if ((__s32)descriptor != -77)
		return 0;
	pg_read(token, &regs->si);
%s
	pg_update(answers, &token, &answer, BPF_ANY);
	return 0;
}
"""


def build_family(folder: Path) -> Path:
    """The program of tests/support/programs/family.c."""
    out = folder / "family"
    source = project_dir() / "tests/support/programs/family.c"
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-o", out, source, "-pthread"], check=True)
    return out


def text_condition(name: str, operator: Operator, values: tuple[bytes, ...]) -> str:
    """Any of the values, word by word."""
    return " || ".join(_text(name, operator, value) for value in values) or "0"


def _text(name: str, operator: Operator, value: bytes) -> str:
    words = " && ".join(_word(name, value, at) for at in range(0, len(value), 8)) or "1"
    if operator is Operator.PREFIX:
        return f"({name}->len >= {len(value)} && {words})"
    assert operator is Operator.IN
    return f"({name}->len == {len(value)} && {words})"


def _word(name: str, value: bytes, at: int) -> str:
    part = value[at : at + 8]
    mask = (1 << 8 * len(part)) - 1
    return f"(pg_word({name}, {at // 8}) & {mask:#x}ULL) == {int.from_bytes(part, 'little'):#x}ULL"


class Running:
    """A family that has begun."""

    def __init__(self, program: Path, words: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [program, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def await_waiting(self) -> None:
        assert self._process.stdout
        assert self._process.stdout.readline() == "waiting\n", self._process.communicate()

    def children(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def go(self) -> None:
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self) -> int:
        """Its status; what it does still is awaited."""
        try:
            _, errors = self._process.communicate(timeout=SOON_S)
            assert not errors, errors
        finally:
            self.close()
        return self._process.returncode

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe:
                pipe.close()


class Kernel:
    """The base programs, lineage, and a program that answers."""

    def __init__(self, maps: Maps, loader: Loader, lineage: Lineage) -> None:
        self.maps = maps
        self.lineage = lineage
        self._loader = loader

    def counter(self, name: str) -> int:
        return read_counters(self.maps, possible_cpus())[name]

    def has_record(self, pid: int) -> bool:
        return bpf.lookup(self.maps.fileno("lineage"), TGID.pack(pid), LINEAGE.size) is not None

    def record(self, pid: int) -> Record:
        return Record.unpack(bpf.lookup(self.maps.fileno("lineage"), TGID.pack(pid), LINEAGE.size) or b"")

    @contextmanager
    def asking(self, given: Tokens | None = None, /, **expressions: str) -> Iterator[Questions]:
        """C expressions by name. given: for processes that ask and have begun."""
        assert len(expressions) <= EXPRESSIONS
        lines = (f"\tanswer.value[{n}] = {text};" for n, text in enumerate(expressions.values()))
        text = _QUESTION % (EXPRESSIONS, "\n".join(lines))
        with self._loader.load(ProgramSource(text, {"pg_question": ProgramForm(bpf.ProgType.RAW_TRACEPOINT)}))[
            "pg_question"
        ] as fd:
            link = bpf.open_raw_tracepoint("sys_enter", fd.fileno())
        try:
            yield Questions(self.maps.fileno("answers"), tuple(expressions), given)
        finally:
            link.close()


class Tokens:
    """What processes ask with: numbers that no other process has, by a name."""

    def __init__(self) -> None:
        self._given: dict[str, int] = defaultdict(lambda: next(_tokens))

    def of(self, who: str) -> int:
        return self._given[who]

    def ask(self, who: str = "") -> list[str]:
        """A step of a family, in which the process of that name asks."""
        return [f"ask:{self._given[who]}"]


class Questions:
    """Who asks gets a token; the answer to it is by the expressions' names."""

    def __init__(self, answers: int, names: tuple[str, ...], given: Tokens | None = None) -> None:
        self._answers = answers
        self._names = names
        self._given = given or Tokens()

    def ask(self, who: str = "") -> list[str]:
        """A step of a family, in which the process of that name asks."""
        return self._given.ask(who)

    def answer(self, who: str = "") -> dict[str, int]:
        """Waits for it."""
        key = TOKEN.pack(self._given.of(who))
        data = wait_until(lambda: bpf.lookup(self._answers, key, ANSWER.size), SOON_S, f"the question of {who!r}")
        return dict(zip(self._names, ANSWER.unpack(data or b""), strict=False))

    def forget(self) -> None:
        """The names may be given again."""
        self._given = Tokens()


def steps(*each: Sequence[str]) -> list[str]:
    """The words of a family, with the separators."""
    words: list[str] = []
    for step in each:
        words += (["--"] if words else []) + list(step)
    return words


@contextmanager
def start_kernel(sizes: Mapping[str, int] | None = None) -> Iterator[Kernel]:
    """The base programs in force. sizes: entries of maps, by name."""
    ensure_bpffs()
    pins = Pins(Path("/sys/fs/bpf") / unique_name("pin"))
    pins.prepare()
    try:
        specs = tuple(replace(each, entries=(sizes or {}).get(each.name, each.entries)) for each in map_specs(4096, 64))
        maps = Maps.create(specs, pins.maps)
        maps = Maps({**_descriptors(maps, pins), "answers": _answers()})
        loader = Loader(ensure_tree(), maps.descriptors(), LoaderLimits())
        programs = BasePrograms.attach(loader, pins)
        lineage = Lineage(loader, maps, text_condition)
        try:
            yield Kernel(maps, loader, lineage)
        finally:
            lineage.close()
            programs.close()
            maps.close()
    finally:
        pins.release()


def _answers() -> bpf.Fd:
    return bpf.create_map(bpf.MapType.HASH, TOKEN.size, ANSWER.size, 4096, "pg_answers", bpf.NO_PREALLOC)


def _descriptors(maps: Maps, pins: Pins) -> dict[str, bpf.Fd]:
    """The same maps again, so that one more can be beside them."""
    names = tuple(maps.descriptors())
    maps.close()
    return {name: bpf.open_pinned(pins.maps / name) for name in names}


def stop_chain(program: Path) -> None:
    """They are nobody's children, and each kills only itself: the one that finds its program gone."""
    aside = program.with_name("stopped")
    os.rename(program, aside)
    wait_until(lambda: not find_processes(str(program)), SOON_S, "the chain to end")
    os.rename(aside, program)
