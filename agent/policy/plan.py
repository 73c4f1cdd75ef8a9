# SPDX-License-Identifier: Apache-2.0
"""From policies to hook plans: for each system call, all rules of all policies on it, and the texts that they read.

A rule is one hook of one policy. A text (string, bytes or the path behind a descriptor) is read once for a call
whatever the number of rules that look at it; each distinct one has a slot. A slot that a selector compares is read
before the rules run, one that is only reported is read after a hit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from agent.policy.model import Arg, ArgType, Policy, Selector, SyscallHook
from agent.workload.identity import PolicyId

MAX_RULES = 1024  # PG_MAX_HITS of bpf/maps/events.h: every rule of a call may hit
MAX_SLOTS = 7  # bpf/maps/strings.h: the slot after them is the process's binary
# System calls whose length argument is an int in their SYSCALL_DEFINE, and which one that is.
INT_LENGTHS = {
    "bind": {2},
    "connect": {2},
    "getsockopt": {4},
    "sendto": {5},
    "setdomainname": {1},
    "sethostname": {1},
    "setsockopt": {4},
    "syslog": {2},
}
EXEC_PATH_ARG = {"execve": 0, "execveat": 1}


class PlanError(Exception):
    """The policies of one system call cannot be compiled together."""

    def __init__(self, syscall: str, reason: str) -> None:
        super().__init__(syscall, reason)
        self.syscall = syscall
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.syscall}: {self.reason}"


@dataclass(frozen=True, slots=True)
class PlacedPolicy:
    """A policy with its bit in the bindings and its serial number, which no other policy of this agent ever had."""

    policy: Policy
    bit: PolicyId
    serial: int


@dataclass(frozen=True, slots=True, order=True)
class Slot:
    """One text of a call. kind: string, char_buf or fd.

    size_arg: which argument has a char_buf's length in bytes; size_bits: how many of its bits the system call looks
    at, 32 of an int. The rest of the register is the caller's to fill with anything.
    """

    index: int
    kind: str
    size_arg: int = -1
    size_bits: int = 64


@dataclass(frozen=True, slots=True)
class Rule:
    """One hook of one policy. number: its place among the policy's hooks. slots: of each argument that is text, by
    index.
    """

    bit: PolicyId
    serial: int
    number: int
    types: dict[int, ArgType]
    slots: dict[int, int]
    selectors: tuple[Selector, ...]

    @property
    def compared(self) -> frozenset[int]:
        """Slots that the selectors look at."""
        indexes = {match.index for selector in self.selectors for match in selector.match_args}
        return frozenset(slot for index, slot in self.slots.items() if index in indexes)


@dataclass(frozen=True, slots=True)
class HookPlan:
    syscall: str
    slots: tuple[Slot, ...]
    rules: tuple[Rule, ...]

    @property
    def reads_text(self) -> bool:
        """Whether an argument may be unreadable at the entry, so that the exit has to be watched too."""
        compared = {slot for rule in self.rules for slot in rule.compared}
        return any(self.slots[slot].kind != ArgType.FD.value for slot in compared)

    @property
    def is_exec(self) -> bool:
        return self.syscall in EXEC_PATH_ARG


def hooked_syscalls(policy: Policy) -> frozenset[str]:
    return frozenset(hook.syscall for hook in policy.hooks)


def plan_hooks(policies: Iterable[PlacedPolicy], syscalls: Iterable[str]) -> dict[str, HookPlan]:
    """The plans of the system calls named; one that no policy hooks has no entry. Raises PlanError."""
    wanted = frozenset(syscalls)
    hooks: dict[str, list[tuple[PlacedPolicy, int, SyscallHook]]] = defaultdict(list)
    for placed in sorted(policies, key=lambda p: p.serial):
        for number, hook in enumerate(placed.policy.hooks):
            if hook.syscall in wanted:
                hooks[hook.syscall].append((placed, number, hook))
    return {syscall: _plan(syscall, entries) for syscall, entries in sorted(hooks.items())}


def _plan(syscall: str, entries: list[tuple[PlacedPolicy, int, SyscallHook]]) -> HookPlan:
    if len(entries) > MAX_RULES:
        raise PlanError(syscall, f"{len(entries)} kprobes over all policies on this call, at most {MAX_RULES}")
    slots = sorted({slot for _, _, hook in entries for arg in hook.args if (slot := slot_of(hook, arg))})
    if len(slots) > MAX_SLOTS:
        raise PlanError(
            syscall, f"{len(slots)} different text arguments over all policies on this call, at most {MAX_SLOTS}"
        )
    numbers = {slot: number for number, slot in enumerate(slots)}
    return HookPlan(syscall, tuple(slots), tuple(_rule(*entry, numbers) for entry in entries))


def _rule(placed: PlacedPolicy, number: int, hook: SyscallHook, numbers: dict[Slot, int]) -> Rule:
    texts = {arg.index: numbers[slot] for arg in hook.args if (slot := slot_of(hook, arg))}
    types = {arg.index: arg.type for arg in hook.args}
    return Rule(placed.bit, placed.serial, number, types, texts, hook.selectors)


def slot_of(hook: SyscallHook, arg: Arg) -> Slot | None:
    """None for a number. A length that the policy declares as an int is one, whatever the table says."""
    if arg.type.is_number:
        return None
    if arg.size_arg is None:
        return Slot(arg.index, arg.type.value)
    declared = {each.index: each.type.bits for each in hook.args if each.type.is_number}
    bits = 32 if arg.size_arg in INT_LENGTHS.get(hook.syscall, ()) else declared.get(arg.size_arg, 64)
    return Slot(arg.index, arg.type.value, arg.size_arg, bits)
