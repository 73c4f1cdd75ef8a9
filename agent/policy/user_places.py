# SPDX-License-Identifier: Apache-2.0
"""Where in a file a uprobe or USDT probe stands: from symbols, addresses and notes to file offsets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from agent.policy.errors import quote
from agent.policy.fields import suggest
from agent.policy.model import UprobeTarget
from agent.policy.resolve_faults import ResolveError
from agent.policy.user_facts import Segment, Symbol, SymbolKind, UsdtProbe, UserFile

# Every place is an own attachment and an own program slot, of which a node has 4,096.
MAX_PLACES = 1024
MAX_SHOWN = 8  # candidates in one message
MAX_COMPARED = 20_000  # names, for a suggestion: about a second
COUNTER_SIZE = 2  # bytes of a reference counter: an unsigned short, aligned (uprobe_register of the kernel)

_SYMBOL = re.compile(
    r"(?P<name>[^@]+?)(?:@@?(?P<version>[^@+]+))?(?:\+(?P<offset>0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20}))?"
)


@dataclass(frozen=True, slots=True)
class UserPlace:
    """offset, ref_counter: bytes from the file's begin, ref_counter 0: none. symbol: the policy's own text. probe: of a
    USDT probe.
    """

    offset: int
    ref_counter: int = 0
    symbol: str = ""
    probe: UsdtProbe | None = None


def uprobe_places(target: UprobeTarget, file: UserFile) -> tuple[UserPlace, ...]:
    """The places of a uprobe, each once. Raises ResolveError and UserFileError."""
    places = [*_symbol_places(target.symbols, file)]
    places += [UserPlace(_code_offset(file.segments, address)) for address in target.addresses]
    places += [UserPlace(_check_offset(file.segments, offset)) for offset in target.offsets]
    if target.ref_counters:
        if len(target.ref_counters) != len(places):
            what = f"{len(target.ref_counters)} refCtrOffsets for {len(places)} places"
            raise ResolveError(what, "give one for each place, 0 for a place without, or none at all")
        counters = [_check_counter(file.segments, counter) for counter in target.ref_counters]
        places = [
            UserPlace(place.offset, counter, place.symbol) for place, counter in zip(places, counters, strict=True)
        ]
    return _unique(places)


def usdt_places(name: str, file: UserFile) -> tuple[UserPlace, ...]:
    """The locations of the probe `provider/name`. Raises ResolveError and UserFileError."""
    probes = file.probes()
    found = [probe for probe in probes if f"{probe.provider}/{probe.name}" == name]
    if not found:
        raise ResolveError(f"it has no USDT probe {quote(name)}", _other_probe(name, probes))
    return _unique([_probe_place(probe, file.segments) for probe in found])


def symbol_address(name: str, file: UserFile) -> int:
    """The virtual address of a function or variable that a USDT probe's argument names. Raises ResolveError."""
    found = [symbol for symbol in file.symbols([name]) if symbol.defined]
    addresses = {symbol.address for symbol in found}
    if len(addresses) != 1:
        state = "has several of that name" if addresses else "does not have (it was stripped)"
        raise ResolveError(f"it is at symbol {quote(name)}, which the file {state}", "leave the argument out")
    return addresses.pop()


def _unique(places: list[UserPlace]) -> tuple[UserPlace, ...]:
    """Each offset once: two names can stand for one function. The kernel takes one counter for an offset."""
    found: dict[int, UserPlace] = {}
    for place in places:
        known = found.setdefault(place.offset, place)
        if known.ref_counter != place.ref_counter:
            counters = f"{known.ref_counter:#x} and {place.ref_counter:#x}"
            raise ResolveError(f"offset {place.offset:#x} has two reference counters, {counters}", "use one of them")
    if len(found) > MAX_PLACES:
        raise ResolveError(f"{len(found)} places in one file", f"at most {MAX_PLACES} can be hooked by one hook")
    return tuple(found.values())


def _symbol_places(texts: tuple[str, ...], file: UserFile) -> Iterator[UserPlace]:
    parsed = [(text, _parse_symbol(text)) for text in texts]
    symbols = file.symbols({match["name"] for _, match in parsed}) if parsed else ()
    for text, match in parsed:
        candidates = [symbol for symbol in symbols if symbol.name == match["name"]]
        if match["version"]:
            candidates = [symbol for symbol in candidates if symbol.version == match["version"]]
        symbol = _choose(text, match["name"], candidates, file)
        yield UserPlace(_code_offset(file.segments, _inside(text, match["offset"], symbol)), symbol=text)


def _parse_symbol(text: str) -> re.Match[str]:
    match = _SYMBOL.fullmatch(text)
    if match is None:
        raise ResolveError(f"{quote(text)} is no symbol", "write name, name+0x10 or name@VERSION")
    return match


def _choose(text: str, name: str, candidates: list[Symbol], file: UserFile) -> Symbol:
    """The one function; of several entries for one address the longest."""
    code = [symbol for symbol in candidates if symbol.defined and symbol.kind is not SymbolKind.DATA]
    addresses = {symbol.address for symbol in code}
    if len(addresses) > 1:
        advice = "name one by its version, or use addrs or offsets"
        raise ResolveError(f"{quote(text)} is {len(addresses)} functions, {_list(code)}", advice)
    if not code:
        raise _missing(text, name, candidates, file)
    chosen = max(code, key=lambda symbol: symbol.size)
    if chosen.kind is SymbolKind.INDIRECT:
        what = f"{quote(text)} is an indirect function: its code runs once in a process, to choose an implementation"
        raise ResolveError(what, "name the implementation that this machine chooses, or use addrs or offsets")
    return chosen


def _list(symbols: Iterable[Symbol]) -> str:
    """`memcpy@GLIBC_2.14 at 0x9be00 and …`, each address once."""
    texts: dict[int, str] = {}
    for symbol in symbols:
        version = f"{'@@' if symbol.default else '@'}{symbol.version}" if symbol.version else ""
        texts.setdefault(symbol.address, f"{symbol.name}{version} at {symbol.address:#x}")
    shown = [texts[address] for address in sorted(texts)]
    more = f" and {len(shown) - MAX_SHOWN} more" if len(shown) > MAX_SHOWN else ""
    return ", ".join(shown[:MAX_SHOWN]) + more


def _missing(text: str, name: str, candidates: list[Symbol], file: UserFile) -> ResolveError:
    if any(not symbol.defined for symbol in candidates):
        return ResolveError(f"{quote(text)} is imported from a library", "name that library in `path`")
    if candidates:
        return ResolveError(f"{quote(text)} is a variable", "name a function")
    versions = sorted({symbol.version for symbol in file.symbols([name]) if symbol.version})
    if versions:
        return ResolveError(f"it has no symbol {quote(text)}", f"its versions are {', '.join(versions[:MAX_SHOWN])}")
    names = file.function_names()
    near = islice((each for each in names if abs(len(each) - len(name)) <= 1 + len(name) // 4), MAX_COMPARED)
    stripped = "its symbols may have been stripped: use addrs or offsets"
    return ResolveError(f"it has no symbol {quote(text)}", suggest(name, set(near), stripped))


def _inside(text: str, offset: str | None, symbol: Symbol) -> int:
    """The address of `name+0x10`. Nobody but its author knows that an instruction begins there."""
    if offset is None:
        return symbol.address
    distance = int(offset, 16 if offset[:2] in ("0x", "0X") else 10)
    if distance and distance >= symbol.size:
        what = f"{quote(text)} is not inside the function, which has {symbol.size} bytes"
        raise ResolveError(
            what if symbol.size else f"the file does not say how long {symbol.name} is", "use addrs or offsets"
        )
    return symbol.address + distance


def _code_offset(segments: tuple[Segment, ...], address: int) -> int:
    """The file offset of a virtual address."""
    for part in segments:
        if part.executable and part.address <= address < part.address + part.size:
            return address - part.address + part.offset
    raise ResolveError(
        f"address {address:#x} is not in the file's code", f"code is at {_ranges(segments, offsets=False)}"
    )


def _check_offset(segments: tuple[Segment, ...], offset: int) -> int:
    if any(part.executable and part.offset <= offset < part.offset + part.size for part in segments):
        return offset
    raise ResolveError(f"offset {offset:#x} is not in the file's code", f"code is at {_ranges(segments, offsets=True)}")


def _check_counter(segments: tuple[Segment, ...], offset: int) -> int:
    """A counter is raised in each process's own copy of the file's data."""
    if not offset:
        return 0
    if offset % COUNTER_SIZE:
        raise ResolveError(f"reference counter {offset:#x} is at an odd offset", "give the offset of an unsigned short")
    writable = (part for part in segments if part.writable)
    if any(part.offset <= offset <= part.offset + part.size - COUNTER_SIZE for part in writable):
        return offset
    raise ResolveError(
        f"reference counter {offset:#x} is not in the file's data", "give its offset in the file, not its address"
    )


def _ranges(segments: tuple[Segment, ...], offsets: bool) -> str:
    starts = ((part.offset if offsets else part.address, part.size) for part in segments if part.executable)
    return ", ".join(f"{start:#x} to {start + size - 1:#x}" for start, size in islice(starts, MAX_SHOWN)) or "no place"


def _probe_place(probe: UsdtProbe, segments: tuple[Segment, ...]) -> UserPlace:
    offset = _code_offset(segments, probe.address)
    if not probe.semaphore:
        return UserPlace(offset, probe=probe)
    for part in segments:
        if part.writable and part.address <= probe.semaphore <= part.address + part.size - COUNTER_SIZE:
            counter = _check_counter(segments, probe.semaphore - part.address + part.offset)
            return UserPlace(offset, counter, probe=probe)
    what = f"the semaphore of {probe.provider}/{probe.name}, address {probe.semaphore:#x}, is not in the file's data"
    raise ResolveError(what, "build the program with its semaphores in .probes")


def _other_probe(name: str, probes: tuple[UsdtProbe, ...]) -> str:
    names = sorted({f"{probe.provider}/{probe.name}" for probe in probes})
    if not names:
        return "it has no USDT probes at all"
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return suggest(name, names, f"it has {', '.join(map(quote, names[:MAX_SHOWN]))}{more}")
