# SPDX-License-Identifier: Apache-2.0
"""The functions of this node's kernel and of its modules: which there are, which can be hooked, what they take.

Theory of operation. Names come from /proc/kallsyms and from `available_filter_functions` of tracefs, each some 200,000
lines: they are read once for a batch of policies and searched as the bytes that they are, for a set of names would take
longer to make than all searches together. Types come from BTF, which has most functions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Final

from agent.kernel.abilities import (
    FUNCTION,
    LSM_FUNCTION,
    override_refusal,
    read_preemptible,
    try_abilities,
)
from agent.kernel.btf_types import BtfTypes
from agent.kernel.errors import KernelError
from agent.kernel.special_files import ReadSpecial, read_special
from agent.policy.errors import quote
from agent.policy.facts import Abilities, FactsError, KernelFunction, NoFunctionError, Prototype
from agent.policy.fields import one_of, suggest
from agent.policy.patterns import Pattern, PatternError

LSM_PREFIX: Final = "bpf_lsm_"
MAX_TEXT: Final = 64 << 20  # of a file of names: the kernel's have 5 to 20 MB
ALIKE: Final = 8  # characters that names have in common which are kept together
MAX_NEAR: Final = 256  # names that begin, and names that end, most like one that is not there
MAX_VARIANTS: Final = 8  # parts and copies of one function that are told
_TEXT: Final = b"tTwW"  # the types of functions in the symbol table, nm(1)
_BEGIN: Final = re.compile(r"\^(\w+)(?![\w*?{])", re.ASCII)  # what every name that matches begins with


@dataclass(frozen=True, slots=True)
class _Symbol:
    """address: in hexadecimal, zeros where the kernel shows none. module: "" of the kernel's own."""

    address: bytes
    name: str
    module: str


class Symbols:
    """The kernel's table of symbols, /proc/kallsyms: `ffffffff81000000 T name`, with a tab and `[module]` behind. The
    lines of names that begin alike are kept together once one of them was looked for: lists have many.
    """

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._alike: dict[str, bytes] = {}

    def find(self, name: str) -> tuple[_Symbol, ...]:
        """The functions of this name, one for each address."""
        text = self._lines_like(name)
        found = [symbol for end in "\n\t" for symbol in _parse(_lines(text, f" {name}{end}"))]
        shown = any(each.address.strip(b"0") for each in found)
        return tuple({each.address: each for each in found}.values()) if shown else tuple(found)

    def variants(self, name: str) -> tuple[str, ...]:
        """Parts and copies that the compiler has made of a function: `name.isra.0`, `name.part.0`, `name.cold`."""
        found = (each.name for each in _parse(_lines(self._lines_like(name), f" {name}.")))
        return tuple(islice(dict.fromkeys(found), MAX_VARIANTS))

    def near(self, name: str) -> tuple[str, ...]:
        """Functions whose names begin, and such whose names end, with as much of a name as any."""
        begin = self._longest(name, lambda part: f" {part}")
        end = self._longest(name[::-1], lambda part: f"{part[::-1]}\n")
        words = (f" {name[:begin]}" if begin else "", f"{name[-end:]}\n" if end else "")
        symbols = (islice(_parse(_lines(self._text, word)), MAX_NEAR) for word in words if word)
        return tuple(dict.fromkeys(each.name for some in symbols for each in some))

    def _longest(self, name: str, word: Callable[[str], str]) -> int:
        """How many characters of a name there are names with. If with so many, then with fewer."""
        least, most = 0, len(name)
        while least < most:
            middle = (least + most + 1) // 2
            if word(name[:middle]).encode() in self._text:
                least = middle
            else:
                most = middle - 1
        return least

    def _lines_like(self, name: str) -> bytes:
        """Those of all names that begin as this one does."""
        begin = name[:ALIKE]
        if begin not in self._alike:
            self._alike[begin] = b"".join(_lines(self._text, f" {begin}"))
        return self._alike[begin]


def _lines(text: bytes, word: str) -> Iterator[bytes]:
    """The lines in which a word is, each with its end."""
    wanted = word.encode()
    at = text.find(wanted)
    while at >= 0:
        end = text.find(b"\n", at) + 1 or len(text)
        yield text[text.rfind(b"\n", 0, at) + 1 : end]
        at = text.find(wanted, end)


def _parse(lines: Iterator[bytes]) -> Iterator[_Symbol]:
    """Those that are functions."""
    for line in lines:
        address, kind, rest = line.split(b" ", 2)
        if kind in _TEXT:
            name, _, module = rest.strip().partition(b"\t")
            yield _Symbol(address, name.decode(errors="replace"), module.strip(b"[]").decode(errors="replace"))


class Traceable:
    """Functions that begin with a place for ftrace, available_filter_functions: `name`, or `name [module]`."""

    def __init__(self, text: bytes) -> None:
        self._text = b"\n" + text
        self._alike: dict[str, frozenset[str]] = {}

    def has(self, name: str, module: str) -> bool:
        """Whether a function is one of them."""
        begin = name[:ALIKE]
        if begin not in self._alike:
            self._alike[begin] = frozenset(self._beginning(begin))
        return (f"{name} [{module}]" if module else name) in self._alike[begin]

    def matching(self, pattern: Pattern, begin: str) -> tuple[str, ...]:
        """The names that match, in order, without those that more than one function has and those that the compiler
        has made. begin: what all of them begin with.
        """
        seen: dict[str, int] = {}
        for name in (line.partition(" ")[0] for line in self._beginning(begin)):
            if "." not in name and pattern.search(name):
                seen[name] = seen.get(name, 0) + 1
        return tuple(sorted(name for name, count in seen.items() if count == 1))

    def _beginning(self, begin: str) -> Iterator[str]:
        """The lines that begin so."""
        wanted, text = b"\n" + begin.encode(), self._text
        at = text.find(wanted)
        while at >= 0:
            end = text.find(b"\n", at + 1)
            if end < 0:
                return
            yield text[at + 1 : end].decode(errors="replace")
            at = text.find(wanted, end)


class KernelFunctions:
    """The part of `Facts` that is about functions. What was read is given up with the object."""

    def __init__(
        self,
        tracefs: Path,
        types: Callable[[str], BtfTypes],
        symbols: Path = Path("/proc/kallsyms"),
        read: ReadSpecial = read_special,
    ) -> None:
        """types: those of a module, of the kernel for ""; raises FactsError. read: a file of debugfs."""
        self._tracefs = tracefs
        self._types = types
        self._symbols_path = symbols
        self._read = read
        self._refusals: dict[str, str] = {}

    def function(self, name: str) -> KernelFunction:
        """See `Facts.function`."""
        found = self._symbols.find(name)
        if not found:
            raise self._absent(name)
        if len(found) > 1:
            owners = one_of(dict.fromkeys(each.module or "the kernel" for each in found))
            what = f"there are {len(found)} functions {quote(name)}, of {owners}, and nothing says which is meant"
            raise FactsError(what, "hook a function that calls it or that it calls")
        if f"\t{name}\n".encode() in self._untouchable:
            raise FactsError(f"the kernel lets nobody probe {quote(name)}", "hook a function that calls it")
        module = found[0].module
        return KernelFunction(name, module, self._prototype(name, module), self._is_traceable(name, module))

    def functions_like(self, pattern: str) -> tuple[str, ...]:
        """See `Facts.functions_like`."""
        begin = _BEGIN.match(pattern) if "|" not in pattern else None
        try:
            return self._traceable.matching(Pattern(pattern), begin[1] if begin else "")
        except PatternError as error:
            raise FactsError(f"pattern: {error}", "correct it") from error

    def lsm_hook(self, name: str) -> KernelFunction:
        """See `Facts.lsm_hook`."""
        function = LSM_PREFIX + name
        prototype = self._types("").function(function)
        if prototype is None:
            hooks = {each.removeprefix(LSM_PREFIX) for each in self._symbols.near(function)} - {LSM_PREFIX}
            advice = suggest(name, hooks, "write one of include/linux/lsm_hook_defs.h, as file_open")
            raise NoFunctionError(f"this kernel has no LSM hook {quote(name)}", advice)
        return KernelFunction(function, "", prototype)

    @cached_property
    def abilities(self) -> Abilities:
        """See `Facts.abilities`. Whether the kernel is preemptible can change, and is asked for each batch."""
        try:
            types = self._types("")
            ids = (types.function_id(FUNCTION), types.function_id(LSM_FUNCTION))
        except FactsError:
            ids = (None, None)
        return replace(try_abilities(*ids), preemptible=read_preemptible(self._read))

    def override_refusal(self, function: str) -> str:
        """See `Facts.override_refusal`."""
        if function not in self._refusals:
            self._refusals[function] = override_refusal(function)
        return self._refusals[function]

    @cached_property
    def _symbols(self) -> Symbols:
        return Symbols(_read_text(self._symbols_path))

    @cached_property
    def _traceable(self) -> Traceable:
        return Traceable(_read_text(self._tracefs / "available_filter_functions"))

    @cached_property
    def _untouchable(self) -> bytes:
        """Functions that take no probes, `0xbegin-0xend<tab>name` a line. Where nobody may read this, the kernel says
        it when a probe is attached.
        """
        try:
            return self._read("debugfs", "kprobes/blacklist")
        except (KernelError, OSError):
            return b""

    def _is_traceable(self, name: str, module: str) -> bool:
        """What cannot be known is not: other programs can be attached there."""
        try:
            return self._traceable.has(name, module)
        except FactsError:
            return False

    def _prototype(self, name: str, module: str) -> Prototype | None:
        """None too where BTF is missing or damaged: the function can be hooked without."""
        try:
            return self._types(module).function(name)
        except FactsError:
            return None

    def _absent(self, name: str) -> NoFunctionError:
        if variants := self._symbols.variants(name):
            what = f"the compiler has changed the function {quote(name)}: this kernel has only {', '.join(variants)}"
            return NoFunctionError(
                what, "hook a function that calls it, or one of these, whose arguments may be others"
            )
        what = f"this kernel has no function {quote(name)}: it is not there, or the compiler put it into its callers"
        return NoFunctionError(what, suggest(name, self._symbols.near(name), "hook a function that calls it"))


def _read_text(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_TEXT + 1)
    except OSError as error:
        raise FactsError(f"{path}: {error.strerror}", "the agent needs to read the names of functions") from error
    if len(text) > MAX_TEXT:
        raise FactsError(f"{path} has more than {MAX_TEXT:,} bytes", "report the kernel's version")
    return text
