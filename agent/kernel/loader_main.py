# SPDX-License-Identifier: Apache-2.0
"""The loader process: the only place that imports bcc. Started by loader.py as `python -I -m agent.kernel.loader_main
SOCKET MEMORY`.

bcc chdir()s while it compiles and puts `-I <cwd>` first, so the process stands in / ; it writes the compiler's and
the verifier's words to standard error, which the agent reads. It ends as soon as the answer is sent.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import struct
import sys
from typing import Any

from rthook.priority import set_priority

LENGTH = struct.Struct("<I")
INSTRUCTION_BYTES = 8
# A jump's offset has 16 bits. LLVM wraps one that is longer without a word, and what the verifier then sees may
# pass as another program.
MAX_INSTRUCTIONS = (1 << 15) - 1
NO_CORE = (0, 0)
NICE = -10  # an administrator waits, and half a second of work ends it


def receive(channel: socket.socket) -> dict[str, Any]:
    size = LENGTH.unpack(_exactly(channel, LENGTH.size))[0]
    request: dict[str, Any] = json.loads(_exactly(channel, size))
    return request


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


def compile_and_load(request: dict[str, Any]) -> tuple[dict[str, object], list[int], object]:
    """The answer, the descriptors, and the bcc object that must live until they are sent."""
    from bcc import BPF, lib

    try:
        module = BPF(text=request["text"], cflags=request["flags"])
    except Exception as error:  # noqa: BLE001 - bcc raises bare Exception; its words are the answer
        return {"stage": "compile", "error": _words(error)}, [], None
    for name in request["programs"]:
        size = lib.bpf_function_size(module.module, name.encode()) // INSTRUCTION_BYTES
        if size > MAX_INSTRUCTIONS:
            reason = (
                f"{name} has {size} instructions, at most {MAX_INSTRUCTIONS}: use fewer or shorter values on this call"
            )
            return {"stage": "compile", "error": reason}, [], None
    try:
        fds = [module.load_func(name, kind).fd for name, kind in request["programs"].items()]
    except Exception as error:  # noqa: BLE001
        return {"stage": "load", "error": _words(error)}, [], None
    return {"programs": list(request["programs"])}, fds, module


def _words(error: Exception) -> str:
    """bcc quotes the whole C text in some of its messages: the first line says what happened."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def main() -> int:
    channel = socket.socket(fileno=int(sys.argv[1]))
    for reason in set_priority(NICE):
        print(f"loader: {reason}", file=sys.stderr)
    resource.setrlimit(resource.RLIMIT_CORE, NO_CORE)
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
    message, fds, module = compile_and_load(receive(channel))
    answer(channel, message, fds)
    sys.stderr.flush()
    os._exit(0 if module else 1)  # bcc's own tear-down is of no use to anyone


if __name__ == "__main__":
    main()
