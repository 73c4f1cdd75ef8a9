# SPDX-License-Identifier: Apache-2.0
"""What the kernel's side has to see of a call that was made: the model's values for `evaluate`."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from agent.policy.access import InputKind, PointHook, Value
from agent.policy.evaluate_seen import MAX_KEPT, Call, Net, Process, Seen, Text, buffer_seen, string_seen
from agent.policy.evaluate_values import wrap
from agent.policy.model import Arg, ArgType, CapabilityType, HookKind, NamespaceType, WorkloadSelector
from tests.support.calls import AF_INET, AF_INET6, AF_UNIX, Argument, CallerFacts, Done, MadeCall, Place, Vector

FIRST_FIELD = 5  # of a system call's tracepoint: the policy's number of the argument 0
RECORD_ARGS = 16  # bytes of that record before the arguments
UNIX_PATH = 108  # UNIX_PATH_MAX


def observe(
    hook: PointHook,
    made: MadeCall,
    done: Done,
    facts: CallerFacts,
    process: Process,
    workloads: Iterable[WorkloadSelector],
    host: Mapping[NamespaceType, int],
) -> Call:
    """done: of this call alone."""
    is_record = hook.hook.kind is HookKind.TRACEPOINT
    places = _readable(made, done, is_record)
    first = FIRST_FIELD if is_record else 0
    args = tuple(_argument(arg, value, first, places, facts) for arg, value in hook.args)
    data = tuple(_task_data(arg, facts, process) for arg, _ in hook.data)
    returned = _returned(hook, made, done, facts)
    return Call(args, data, process, True, True, returned, frozenset(workloads), host)


def _readable(made: MadeCall, done: Done, is_record: bool) -> tuple[Argument | None, ...]:
    """None: memory that nobody could read. A tracepoint is not asked again at the exit."""
    resident = iter(done.resident)
    found: list[Argument | None] = []
    for argument in made.arguments:
        cold = isinstance(argument, Place) and argument.cold
        found.append(argument if not cold or (next(resident) and not is_record) else None)
    return tuple(found)


def _argument(
    arg: Arg, value: Value | None, first: int, places: tuple[Argument | None, ...], facts: CallerFacts
) -> Seen:
    assert value
    given = places[arg.index - first]
    if arg.btf_type:
        return _member(value, given)
    if arg.type.is_number:
        return _number(given)
    if arg.type is ArgType.FD:
        return facts.files.get(wrap(_number(given), 32, signed=True))
    if arg.type is ArgType.STRING:
        return string_seen(given.data) if isinstance(given, Place) else None
    assert value.length
    wanted = value.length.input
    place = wanted.number if wanted.kind is InputKind.ARGUMENT else (wanted.number - RECORD_ARGS) // 8
    return _SIZED[arg.type](given, wrap(_number(places[place]), 8 * wanted.size, signed=False))


def _number(given: Argument | None) -> int:
    assert isinstance(given, int)
    return given


def _member(value: Value, given: Argument | None) -> Seen:
    """A number in the process's memory."""
    if not isinstance(given, Place):
        return None
    offset, size = value.read.offsets[-1], value.read.size
    return int.from_bytes(given.data.ljust(offset + size, b"\0")[offset : offset + size], "little")


def bytes_at(given: Argument | None, length: int) -> Seen:
    """A buffer. What is not given of its memory is zero; of nothing there is nothing to fail."""
    if not isinstance(given, Place):
        return Text(b"") if not length and given is not None else None if length else Text(b"")
    kept = min(length, MAX_KEPT)
    return Text(given.data.ljust(kept, b"\0")[:kept], cut_tail=length > MAX_KEPT)


def vector_at(given: Argument | None, count: int) -> Seen:
    """The segments of an array, of which `count` count."""
    if not isinstance(given, Vector):
        return None if count else Text(b"")
    text = buffer_seen(b"".join(given.parts[:count]))
    return Text(text.data, cut_tail=True) if count >= MANY_SEGMENTS else text


MANY_SEGMENTS = 257  # more than are looked at


def address_at(given: Argument | None, size: int) -> Seen:
    """A socket address."""
    if not isinstance(given, Place) or size < 2:
        return None
    data = given.data.ljust(28, b"\0")
    family, port = struct.unpack_from("<H", data)[0], int.from_bytes(data[2:4], "big")
    if family == AF_INET and size >= 8:
        return Net(family, data[4:8], sport=port)
    if family == AF_INET6 and size >= 24:
        return Net(family, data[8:24], sport=port)
    return Net(family)


def local_address_at(given: Argument | None, size: int) -> Seen:
    """The name of a local socket; one that is not in the file system begins with '@'."""
    if not isinstance(given, Place) or size < 2:
        return None
    data = given.data.ljust(2 + UNIX_PATH, b"\0")
    family = struct.unpack_from("<H", data)[0]
    name = data[2 : min(size, 2 + UNIX_PATH)]
    if family != AF_UNIX:
        return Text(b"", family=family)
    if len(name) > 1 and not name[0]:
        # Without a length of its own, the name ends at its NUL.
        text = name[1:].partition(b"\0")[0] if size == SOCKADDR_STORAGE else name[1:]
        return Text(b"@" + text, family=family)
    return Text(name.partition(b"\0")[0], family=family)


SOCKADDR_STORAGE = 128
_SIZED = {
    ArgType.CHAR_BUF: bytes_at,
    ArgType.CHAR_IOVEC: vector_at,
    ArgType.SOCKADDR: address_at,
    ArgType.SOCKADDR_UN: local_address_at,
}


def _task_data(arg: Arg, facts: CallerFacts, process: Process) -> Seen:
    known: dict[tuple[str, ...], Seen] = {
        ("tgid",): process.pid,
        ("group_leader", "tgid"): process.pid,
        ("comm",): Text(facts.comm),
        ("cred", "cap_effective"): process.now.capabilities[CapabilityType.EFFECTIVE],
        ("cred", "uid", "val"): 0,
    }
    return known[arg.resolve]


def _returned(hook: PointHook, made: MadeCall, done: Done, facts: CallerFacts) -> Seen:
    (result,) = done.results
    if hook.hook.return_arg is None or hook.hook.return_arg.type is not ArgType.FD:
        return result
    return facts.files.get(wrap(_number(made.arguments[0]), 32, signed=True)) if result >= 0 else None
