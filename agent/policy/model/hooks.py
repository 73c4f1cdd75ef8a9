# SPDX-License-Identifier: Apache-2.0
"""What a policy hooks."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, unique

from agent.policy.model.actions import ActionKind
from agent.policy.model.selectors import Selector
from agent.policy.model.source import Source
from agent.policy.model.types import Arg


@unique
class HookKind(Enum):
    """What a hook stands on, by the field of the specification that it is written in; kprobes with and without
    `syscall: true`, tracepoints with and without `raw: true` are two each.
    """

    SYSCALL = "syscall"
    KPROBE = "kprobe"
    FENTRY = "fentry"
    LSM = "lsmhook"
    TRACEPOINT = "tracepoint"
    RAW_TRACEPOINT = "raw tracepoint"
    UPROBE = "uprobe"
    USDT = "usdt"


@dataclass(frozen=True, slots=True)
class UprobeTarget:
    """Where in a file. addresses: file offsets (`offsets`) or virtual addresses (`addrs`) as `by_address` says; of
    symbols each may be `name+0x10`. ref_counters: as many as probes, or none. digests: `algorithm:hex`.
    """

    path: str
    symbols: tuple[str, ...] = ()
    offsets: tuple[int, ...] = ()
    addresses: tuple[int, ...] = ()
    ref_counters: tuple[int, ...] = ()
    digests: tuple[str, ...] = ()
    ignore_digest: bool = False
    btf_path: str = ""


@dataclass(frozen=True, slots=True)
class Hook:
    """One entry of kprobes, tracepoints, uprobes, usdts, lsmhooks or fentries.

    calls: what it hooks, at least one: names of system calls in the kernel's table (`openat`), kernel functions, LSM
    hooks, `subsystem/event` of a tracepoint, `provider/name` of a USDT probe; empty for a uprobe. call: the policy's
    own text (`sys_openat`, `list:files`), for people. section: the field that it stands in, `kprobes[0]`. return_arg:
    its index is of no meaning. With `ignore_missing`, calls may have names that are in no table. generated: calls come
    from a `generated_syscalls` list, and mean those that a node has. call_pattern: of a `generated_ftrace` list; calls
    is then empty, and the kernel's functions that match are meant.
    """

    kind: HookKind
    calls: tuple[str, ...]
    call: str
    args: tuple[Arg, ...]
    selectors: tuple[Selector, ...]
    source: Source = field(compare=False)
    section: str = ""
    data: tuple[Arg, ...] = ()
    returns: bool = False
    return_arg: Arg | None = None
    return_arg_action: ActionKind | None = None
    message: str = ""
    tags: tuple[str, ...] = ()
    ignore_missing: bool = False
    generated: bool = False
    target: UprobeTarget | None = None
    call_pattern: str = ""

    @property
    def return_selectors(self) -> tuple[tuple[int, Selector], ...]:
        """The second list: each with its number in `selectors`."""
        return tuple((n, selector) for n, selector in enumerate(self.selectors) if selector.asks_return)
