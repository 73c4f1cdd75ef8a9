# SPDX-License-Identifier: Apache-2.0
"""Symbols of addresses, by bcc's symbol caches: `python -I -m agent.events.symbols_main SOCKET`. See stacks.py for what
is asked and answered, symbols.py for who asks. It ends when the socket does.

It reads files that containers made. So it has no capability but those that reading takes, cannot get new ones, has
limited memory, looks at no debug files that such a file names, and takes no name apart (demangling).
"""

from __future__ import annotations

import socket
import sys

from agent.events.caches import Caches, ProcessGoneError
from agent.events.confine import confine
from agent.events.stacks import Symbols, Trace, encode_answer, parse_request
from rthook.priority import set_priority

NICE = 10
MEMORY = 1 << 30  # address space; bcc brings LLVM along, and some 260 MiB are mapped before anything is asked
MAX_PACKET = 256 << 10
NO_SYMBOLS = "the kernel's symbols are hidden (kernel.kptr_restrict)"

# include/uapi/linux/capability.h: DAC_READ_SEARCH for files, SYS_PTRACE for /proc/PID, SYSLOG for /proc/kallsyms
KEPT = 1 << 2 | 1 << 19 | 1 << 34


def symbolise(caches: Caches, trace: Trace) -> Symbols:
    """What is known of a trace."""
    kernel = caches.kernel(trace.kernel)
    reasons = [NO_SYMBOLS] if trace.kernel and kernel is None else []
    user = None
    try:
        user = caches.user(trace) if trace.user else None
    except ProcessGoneError as error:
        reasons.append(str(error))
    return Symbols(kernel, user, "; ".join(reasons))


def serve(channel: socket.socket, caches: Caches) -> None:
    while data := channel.recv(MAX_PACKET):
        number, trace = parse_request(data)
        channel.send(encode_answer(number, symbolise(caches, trace)))


def main() -> int:
    channel = socket.socket(fileno=int(sys.argv[1]))
    for reason in (*set_priority(NICE), *confine(MEMORY, KEPT)):
        print(f"symbol process: {reason}", file=sys.stderr, flush=True)
    try:
        serve(channel, Caches())
    except OSError as error:
        print(f"symbol process: {error}", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
