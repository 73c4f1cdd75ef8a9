# SPDX-License-Identifier: Apache-2.0
"""The loader process: the only place that imports bcc. Started by loader.py as `python -I -m agent.kernel.loader_main
SOCKET MEMORY`.

bcc chdir()s while it compiles and puts `-I <cwd>` first, so the process stands in / ; it writes the compiler's and
the verifier's words to standard error, which the agent reads. It ends as soon as the answer is sent.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import resource
import socket
import struct
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from agent.kernel import bpf
from agent.kernel.errors import KernelError
from agent.kernel.instructions import FARTHEST, INSTRUCTION
from agent.kernel.loops import REFUSED, JumpError, close_by_jumps
from agent.kernel.symbols import shorten_symbols
from rthook.priority import set_priority

SHORT_SYMBOLS = Path(__file__).resolve().parents[2] / "bpf" / "kallsyms"
LENGTH = struct.Struct("<I")
# A jump's offset has 16 bits. LLVM wraps one that is longer without a word, and what the verifier then sees may
# pass as another program.
MAX_INSTRUCTIONS = FARTHEST
# The verifier's other bound, 8,192 branches that it has still to follow (push_stack of kernel/bpf/verifier.c: EFAULT).
TOO_COMPLEX = "jumps is too complex"
# Those that bcc loads again by itself: the others are for one function, of which it knows the name only.
EXPLAINED = frozenset({bpf.ProgType.KPROBE, bpf.ProgType.TRACEPOINT, bpf.ProgType.RAW_TRACEPOINT})
Form = tuple[int, int, int, int]  # of loader.ProgramForm: type, attach type, id in BTF, descriptor of the BTF or 0
NO_DEBUG = "-g0"  # bcc asks the compiler for debug information, which takes a sixth of its time
ONE_PIPELINE = ("-Xclang", "-disable-llvm-passes")  # clang's own passes: bcc runs all of LLVM's after them once more
NO_ALIASING = "-fno-strict-aliasing"  # as the kernel itself is compiled, and in less time
PATIENCE_S = 8.0  # of the agent's 30, and a second attempt takes longer than the first
MAX_THREADS = 4  # each has a verifier at work, which takes some MiB of the kernel
NO_CORE = (0, 0)
NICE = -10  # an administrator waits, and half a second of work ends it


def receive(channel: socket.socket) -> dict[str, Any]:
    """A request, with descriptors in place of what it calls them: in its flags and its programs' forms."""
    size = LENGTH.unpack(_exactly(channel, LENGTH.size))[0]
    request: dict[str, Any] = json.loads(_exactly(channel, size))
    fds = _descriptors(channel, request["descriptors"])
    request["flags"] += [f"-DPG_FD_{name}={fd}" for name, fd in zip(request["maps"], fds, strict=False)]
    for form in request["programs"].values():
        form[-1] = 0 if form[-1] is None else fds[form[-1]]
    return request


def _descriptors(channel: socket.socket, number: int) -> list[int]:
    found: list[int] = []
    while len(found) < number:
        part, fds, flags, _ = socket.recv_fds(channel, 1, number - len(found))
        if not part:
            raise EOFError("the agent is gone")
        if flags & socket.MSG_CTRUNC:
            raise OSError(errno.EMFILE, "a descriptor of the agent's did not come")
        found += fds
    return found


def _exactly(channel: socket.socket, size: int) -> bytes:
    parts, missing = [], size
    while missing:
        part = channel.recv(min(missing, 1 << 20))
        if not part:
            raise EOFError("the agent is gone")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def answer(channel: socket.socket, message: dict[str, object], fds: list[int]) -> None:
    data = json.dumps(message).encode()
    packet = LENGTH.pack(len(data)) + data
    if fds:
        sent = socket.send_fds(channel, [packet], fds)
        packet = packet[sent:]
    channel.sendall(packet)


def compile_and_load(request: dict[str, Any]) -> tuple[dict[str, object], list[bpf.Fd]]:
    """The answer and the descriptors. What the kernel refuses of a quick compilation is compiled once more, with all
    passes: older verifiers take fewer shapes of a program. What took long is not: whoever asked makes it smaller.
    """
    begin = time.monotonic()
    if not request["thorough"]:
        found, fds = _compile_and_load(request, ONE_PIPELINE)
        if fds or found["stage"] != "load" or time.monotonic() - begin > PATIENCE_S:
            return found, fds
    return _compile_and_load(request, ())


def _compile_and_load(request: dict[str, Any], passes: tuple[str, ...]) -> tuple[dict[str, object], list[bpf.Fd]]:
    from bcc import BPF, lib

    programs: dict[str, Form] = {name: tuple(form) for name, form in request["programs"].items()}
    try:
        module = BPF(text=request["text"], cflags=[*request["flags"], *passes, NO_DEBUG, NO_ALIASING])
    except Exception as error:  # noqa: BLE001 - bcc raises bare Exception; its words are the answer
        return _refusal("compile", _words(error)), []
    sizes = {name: lib.bpf_function_size(module.module, name.encode()) // INSTRUCTION.size for name in programs}
    long = [name for name, size in sizes.items() if size > MAX_INSTRUCTIONS]
    if long:
        reason = f"{long[0]} has {sizes[long[0]]} instructions, at most {MAX_INSTRUCTIONS}"
        return _refusal("compile", reason, long), []
    absent = [name for name, size in sizes.items() if not size]
    if absent:
        return _refusal("load", f"no program {absent[0]} in the text"), []
    debugging = partial(BPF, text=request["text"], cflags=[*request["flags"], *passes, NO_ALIASING])
    return load({name: module.dump_func(name) for name in programs}, programs, debugging)


def load(
    codes: dict[str, bytes], programs: dict[str, Form], compile_for_debugging: Callable[[], Any]
) -> tuple[dict[str, object], list[bpf.Fd]]:
    """All of them are tried, several at a time: the kernel verifies each on the processor of the thread that asks."""

    def attempt(name: str) -> bpf.Fd | KernelError | JumpError:
        kind, *target = programs[name]
        try:
            return load_code(bpf.ProgType(kind), codes[name], name, *target)
        except (KernelError, JumpError) as error:
            return error

    with ThreadPoolExecutor(MAX_THREADS) as pool:
        found = dict(zip(programs, pool.map(attempt, programs), strict=True))
    fds, large = [], []
    for name, result in found.items():
        if isinstance(result, JumpError) or (isinstance(result, KernelError) and _is_too_large(result)):
            large.append(name)
        elif isinstance(result, KernelError):
            return _explain(compile_for_debugging, name, programs[name][0], result), []
        else:
            fds.append(result)
    if large:
        return _refusal("load", f"the verifier gave up on {large[0]}: it is too large", large), []
    return {"programs": list(programs)}, fds


def _is_too_large(error: KernelError) -> bool:
    return error.code == errno.E2BIG or TOO_COMPLEX in error.hint


def load_code(kind: bpf.ProgType, code: bytes, name: str, *target: int) -> bpf.Fd:
    """Its loops as they are, or closed by jumps. Raises KernelError or JumpError."""
    try:
        return bpf.load_program(kind, code, name, *target)
    except KernelError as error:
        if REFUSED not in error.hint:
            raise
    return bpf.load_program(kind, close_by_jumps(code), name, *target)


def _explain(compile_for_debugging: Callable[[], Any], name: str, kind: int, refused: KernelError) -> dict[str, object]:
    """Compiled again, with debug information, and loaded by bcc, which has the compiler's line numbers: the verifier's
    words are on standard error with the lines of C that they are about. Of a program that it cannot load they are the
    error's hint.
    """
    if kind not in EXPLAINED:
        return _refusal("load", f"{name}: {refused}") | {"programs": [name]}
    try:
        compile_for_debugging().load_func(name, kind)
    except Exception as error:  # noqa: BLE001
        return _refusal("load", _words(error))
    return _refusal("load", str(refused))


def _refusal(stage: str, reason: str, large: list[str] | None = None) -> dict[str, object]:
    return {"stage": stage, "error": reason, "too_large": bool(large), "programs": large or []}


def _words(error: Exception) -> str:
    """bcc quotes the whole C text in some of its messages: the first line says what happened."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def main() -> int:
    channel = socket.socket(fileno=int(sys.argv[1]))
    for reason in set_priority(NICE):
        print(f"loader: {reason}", file=sys.stderr)
    if reason := shorten_symbols(SHORT_SYMBOLS):
        print(f"loader: {reason}", file=sys.stderr)
    resource.setrlimit(resource.RLIMIT_CORE, NO_CORE)
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
    importlib.import_module("bcc")  # while the agent may still be at what it asks for
    message, fds = compile_and_load(receive(channel))
    answer(channel, message, [fd.fileno() for fd in fds])
    sys.stderr.flush()
    os._exit(0 if fds else 1)  # bcc's own tear-down is of no use to anyone


if __name__ == "__main__":
    main()
