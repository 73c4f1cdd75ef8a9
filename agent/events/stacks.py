# SPDX-License-Identifier: Apache-2.0
"""Stack traces as fields of JSON, and the messages about them between the event process and its helper. Pure.

A request is one JSON object: `id`, `kernel` and `user` (addresses), and whose `user` is: `pid`, `start` (ns since
boot) and `binary` (the path as the process sees it; null: not known). Its answer: `id`, `kernel` and `user` again, each
null or as many frames as there were addresses, a frame null or [symbol or null, offset, module]; `reason`, why
something is null. Bytes that are not UTF-8 are surrogates in both (PEP 383).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agent.events.decoder import Item, RawEvent
from agent.events.layout import BINARY_ID, KERNEL_STACK_ID, UNREADABLE, USER_STACK_ID

MAX_FRAMES = 127  # kernel.perf_event_max_stack, the kernel's own limit
MAX_NAME = 1024  # bytes of a symbol or path in an answer; a C++ name can be longer, and is cut
MAX_MESSAGE = 192 << 10  # what a socket takes at once with the default net.core.wmem_max

_BPF = "bpf"  # of what the kernel has compiled at run time, in /proc/kallsyms
HIDDEN = "kernel addresses are hidden on this node (kernel.kptr_restrict)"


@dataclass(frozen=True, slots=True)
class Frame:
    """offset: in bytes from the symbol, without one from the module's begin."""

    symbol: str | None
    offset: int
    module: str | None


Frames = tuple[Frame | None, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """The addresses of an event, innermost first, and whose the user's are."""

    kernel: tuple[int, ...]
    user: tuple[int, ...]
    pid: int
    start: int
    binary: bytes | None


@dataclass(frozen=True, slots=True)
class Symbols:
    """kernel, user: None without symbols, and then why."""

    kernel: Frames | None = None
    user: Frames | None = None
    reason: str = ""


def trace_of(event: RawEvent) -> Trace:
    binary = event.items.get(BINARY_ID)
    return Trace(
        _addresses(event.items.get(KERNEL_STACK_ID)),
        _addresses(event.items.get(USER_STACK_ID)),
        event.pid,
        event.start,
        None if binary is None or binary.flags & UNREADABLE else binary.data,
    )


def stack_fields(event: RawEvent, trace: Trace, symbols: Symbols, hidden: bool) -> dict[str, Any]:
    """kernel_stack and user_stack. hidden: kernel addresses must not be told."""
    fields: dict[str, Any] = {}
    if KERNEL_STACK_ID in event.items:
        fields["kernel_stack"] = _stack(*_of_the_call(trace.kernel, symbols.kernel), hidden)
    if USER_STACK_ID in event.items:
        fields["user_stack"] = _stack(trace.user, symbols.user, False)
    if (trace.kernel and symbols.kernel is None) or (trace.user and symbols.user is None):
        fields |= {"symbols": False, "symbols_reason": symbols.reason}
    return fields


def _of_the_call(addresses: tuple[int, ...], frames: Frames | None) -> tuple[tuple[int, ...], Frames | None]:
    """Without the innermost frames when they are our own: of a trampoline and of the program that it calls."""
    own = 0
    for frame in frames or ():
        if not frame or frame.module != _BPF:
            break
        own += 1
    return addresses[own:], frames and frames[own:]


def _stack(addresses: tuple[int, ...], frames: Frames | None, hidden: bool) -> list[dict[str, Any]]:
    known = frames or (None,) * len(addresses)
    return [
        {
            "address": None if hidden else f"0x{address:x}",
            "symbol": frame.symbol if frame else None,
            "offset": frame.offset if frame else None,
            "module": frame.module if frame else None,
        }
        for address, frame in zip(addresses, known, strict=True)
    ]


def _addresses(item: Item | None) -> tuple[int, ...]:
    if item is None or item.flags & UNREADABLE:
        return ()
    count = min(len(item.data) // 8, MAX_FRAMES)
    return struct.unpack_from(f"<{count}Q", item.data)


def encode_request(number: int, trace: Trace) -> bytes:
    binary = None if trace.binary is None else trace.binary.decode(errors="surrogateescape")
    fields = {"id": number, "kernel": trace.kernel, "user": trace.user, "pid": trace.pid, "start": trace.start}
    return json.dumps(fields | {"binary": binary}).encode()


def parse_request(data: bytes) -> tuple[int, Trace]:
    """Raises ValueError, KeyError, TypeError for what `encode_request` never made."""
    fields = json.loads(data)
    binary = fields["binary"]
    return fields["id"], Trace(
        tuple(fields["kernel"]),
        tuple(fields["user"]),
        fields["pid"],
        fields["start"],
        None if binary is None else binary.encode(errors="surrogateescape"),
    )


def encode_answer(number: int, symbols: Symbols) -> bytes:
    fields = {"id": number, "kernel": _listed(symbols.kernel), "user": _listed(symbols.user), "reason": symbols.reason}
    data = json.dumps(fields).encode()
    if len(data) > MAX_MESSAGE:
        return encode_answer(number, Symbols(reason="the names are too long"))
    return data


def _listed(frames: Frames | None) -> list[tuple[str | None, int, str | None] | None] | None:
    if frames is None:
        return None
    return [(frame.symbol, frame.offset, frame.module) if frame else None for frame in frames]


def parse_answer(data: bytes) -> tuple[int, Symbols]:
    """The helper reads files that a container's processes made: what it says is not trusted. Raises ValueError."""
    try:
        fields = json.loads(data)
        return int(fields["id"]), Symbols(
            _frames(fields["kernel"]), _frames(fields["user"]), str(fields["reason"])[:MAX_NAME]
        )
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"not an answer: {data[:100]!r}") from error


def _frames(listed: Sequence[Any] | None) -> Frames | None:
    if listed is None:
        return None
    return tuple(None if frame is None else _frame(*frame) for frame in listed)


def _frame(symbol: str | None, offset: int, module: str | None) -> Frame:
    return Frame(_name(symbol), int(offset), _name(module))


def _name(text: str | None) -> str | None:
    if text is None:
        return None
    return str(text)[:MAX_NAME].encode(errors="surrogateescape").decode(errors="backslashreplace")
