# SPDX-License-Identifier: Apache-2.0
"""What an author of a policy may not have thought of: each trap with its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.policy.access import PointHook
from agent.policy.explain_cost import compared_types, functions_of, is_function
from agent.policy.explain_functions import failing_calls, function_selector_traps, function_traps, hot_functions
from agent.policy.explain_selectors import describe_arg
from agent.policy.explain_words import either
from agent.policy.function_points import SECURITY
from agent.policy.model import (
    Action,
    ActionKind,
    ArgFilter,
    ArgType,
    Hook,
    HookKind,
    Operator,
    Policy,
    PolicyKind,
    Selector,
    Source,
    posts,
)
from agent.policy.other_calls import unseen_calls
from agent.policy.sockets import tracks

# Calls that busy processes make thousands of times a second, and what is hit by every call of anything.
_HOT = """
brk clock_nanosleep close epoll_pwait epoll_wait fcntl fstat futex getpid gettid ioctl lseek madvise mmap mprotect
munmap newfstatat openat poll ppoll pread64 preadv pselect6 pwrite64 pwritev read readv recvfrom recvmsg rt_sigaction
rt_sigprocmask rt_sigreturn sched_yield select sendmsg sendto stat statx write writev raw_syscalls/sys_enter
raw_syscalls/sys_exit sched/sched_switch sched/sched_wakeup sched/sched_waking sched/sched_stat_runtime
timer/hrtimer_start timer/hrtimer_expire_entry irq/softirq_entry irq/softirq_exit kmem/kmalloc kmem/kfree
kmem/kmem_cache_alloc kmem/kmem_cache_free kmem/mm_page_alloc kmem/mm_page_free exceptions/page_fault_user
net/net_dev_queue net/netif_receive_skb skb/kfree_skb skb/consume_skb
"""
HOT_CALLS = frozenset(_HOT.split())
_ALL_TABLES = frozenset({"raw_syscalls/sys_enter", "raw_syscalls/sys_exit"})
# Which argument is the call's number: the first of the record's own fields; the second parameter, behind the registers.
_CALL_NUMBERS = {HookKind.TRACEPOINT: 4, HookKind.RAW_TRACEPOINT: 1}
_SIGNALLING = frozenset({ActionKind.SIGKILL, ActionKind.SIGNAL, ActionKind.NOTIFY_ENFORCER})
_OF_PROCESS_MEMORY = frozenset(
    {
        ArgType.STRING,
        ArgType.CHAR_BUF,
        ArgType.CHAR_IOVEC,
        ArgType.SOCKADDR,
        ArgType.SOCKADDR_UN,
        ArgType.BPF_ATTR,
    }
)
_OWNED = frozenset({ArgType.SOCK, ArgType.SOCKET, ArgType.SKB})
_BY_PATH = frozenset({Operator.EQUAL, Operator.NOT_EQUAL, Operator.PREFIX, Operator.NOT_PREFIX})


@dataclass(frozen=True, slots=True)
class Trap:
    """where: the hook's field, with the selector's number when it is one selector's; empty for the whole policy."""

    where: str
    source: Source
    text: str


def find_traps(policy: Policy, places: Sequence[Sequence[PointHook]] = ()) -> tuple[Trap, ...]:
    """Those of the policy, those of its hooks in order, and what it does not hook. places: of each hook those on a
    node, when it was asked.
    """
    found = [Trap("", policy.source, text) for text in _of_policy(policy)]
    tracking = tracks(policy)
    for number, hook in enumerate(policy.hooks):
        here = places[number] if places else ()
        texts = (*_of_hook(hook, tracking), *function_traps(hook, policy, tracking, here))
        found += [Trap(hook.section, hook.source, text) for text in texts]
        for place, text in _of_selectors(hook):
            found.append(Trap(f"{hook.section}.selectors[{place}]", hook.source, text))
    found += [Trap("", policy.source, text) for text in (*failing_calls(policy), *unseen_calls(policy))]
    return tuple(found)


def _of_policy(policy: Policy) -> Iterator[str]:
    if policy.kind is PolicyKind.CLUSTER and policy.workloads.is_unset and policy.enforces:
        yield (
            "it enforces on every process of the node, container runtimes and kubelet included: "
            "podSelector: {} leaves host processes out"
        )


def _of_hook(hook: Hook, tracking: bool) -> Iterator[str]:
    if any(map(_only_signals, hook.selectors)):
        yield _late_signal(hook)
    sends = any(action.kind in _SIGNALLING for action in _actions(hook))
    if sends and tracking and any(arg.type in _OWNED for arg in (*hook.args, *hook.data)):
        yield (
            "where the socket is tracked and a process runs that is not its owner, no signal is sent: the event "
            "says so, and it counts as failed"
        )
    enforced = any(action.kind.enforces for action in _actions(hook))
    if _is_native(hook) and enforced:
        yield "what is no native system call is not seen: 32-bit calls, x32 calls, and requests to io_uring"
    if _mixes_tables(hook):
        yield (
            "32-bit calls come here too, with the numbers of a table of their own: 19 is lseek there and readv in the "
            "native one. type: syscall64 tells them apart"
        )
    if hook.kind in (HookKind.SYSCALL, HookKind.UPROBE, HookKind.USDT):
        yield from _changing_values(hook)


def _only_signals(selector: Selector) -> bool:
    """Whether it sends a signal for a call that is carried out."""
    overrides = any(action.kind is ActionKind.OVERRIDE for action in selector.actions)
    sends = any(action.kind in _SIGNALLING for action in selector.actions)
    return (sends and not overrides) or any(action.kind in _SIGNALLING for action in selector.return_actions)


def _is_native(hook: Hook) -> bool:
    """Whether the kernel leaves out calls of other tables (perf_syscall_enter of kernel/trace/trace_syscalls.c)."""
    of_calls = hook.kind is HookKind.TRACEPOINT and any(call.startswith("syscalls/") for call in hook.calls)
    return hook.kind is HookKind.SYSCALL or of_calls


def _mixes_tables(hook: Hook) -> bool:
    """Whether a call's number is compared where calls of all tables pass, as a number that does not say its table."""
    place = _CALL_NUMBERS.get(hook.kind)
    compared = {n for selector in hook.selectors for each in selector.args for n in each.positions}
    numbers = (hook.args[n] for n in compared if hook.args[n].index == place and not hook.args[n].resolve)
    return not _ALL_TABLES.isdisjoint(hook.calls) and any(arg.type is not ArgType.SYSCALL64 for arg in numbers)


def _late_signal(hook: Hook) -> str:
    if hook.kind is HookKind.SYSCALL:
        return (
            "kill is not prevent: the signal comes when the call is done, so what the call did stays done; the process "
            "runs no instruction after it when it is SIGKILL"
        )
    late = (
        "kill is not prevent: the signal comes on the way back to the process's own code; what it did before stays done"
    )
    names = functions_of(hook)
    can_override = names and all(name.startswith(SECURITY) for name in names)
    return f"{late}. Override beside it keeps the call from being made" if can_override else late


def _changing_values(hook: Hook) -> Iterator[str]:
    types = compared_types(hook)
    if kinds := sorted(kind.value for kind in types & _OF_PROCESS_MEMORY):
        yield (
            f"{either(kinds, 'and')} is read before the kernel reads it: another thread can put something else there "
            "in between (time of check, time of use), which it cannot with numbers in registers"
        )
    if ArgType.FD in types:
        yield "another thread can put another file behind a descriptor (dup2) between the comparison and its use"
    if hook.kind is HookKind.SYSCALL and types & _OF_PROCESS_MEMORY and _overrides(hook):
        yield (
            "Override comes too late for what is not in memory at the entry of the call: that is compared at its exit. "
            "The kernel's own function has no such moment: security_file_open for the file of an openat"
        )
    if hook.kind is HookKind.SYSCALL and any(_compares_paths(each, hook) for s in hook.selectors for each in s.args):
        yield (
            "a string is compared as the process wrote it: a relative path, `..`, `//` or a symbolic link reaches the "
            "same file with another text"
        )


def _overrides(hook: Hook) -> bool:
    return any(action.kind is ActionKind.OVERRIDE for action in _actions(hook))


def _compares_paths(each: ArgFilter, hook: Hook) -> bool:
    is_string = any(hook.args[place].type is ArgType.STRING for place in each.positions)
    absolute = any(isinstance(value, bytes) and value.startswith(b"/") for value in each.values)
    return is_string and absolute and each.operator in _BY_PATH


def _of_selectors(hook: Hook) -> Iterator[tuple[int, str]]:
    for number, selector in enumerate(hook.selectors):
        if (hider := _hider(hook.selectors, number)) is None:
            yield from ((number, text) for text in _of_selector(hook, selector))
            continue
        why = "always holds" if not _conditions(hook.selectors[hider]) else "holds whenever this one does"
        rest = "; at the return it is asked" if selector.asks_return else ""
        yield number, f"is never reached: selectors[{hider}] is tried first and {why}{rest}"
    yield from _hidden_returns(hook)


def _of_selector(hook: Hook, selector: Selector) -> Iterator[str]:
    if hot := _hot_calls(hook, selector):
        yield (
            f"an event for nearly every call of {either(hot, 'and')}, which busy processes make all the time: add "
            "conditions, or a rateLimit to Post"
        )
    for each in selector.args:
        if each.operator.negative and (unreadable := _may_be_unreadable(each, hook)):
            names = either(describe_arg(hook.args[place], hook.kind) for place in each.positions)
            yield f"{each.operator.value} holds too when {names} {unreadable}"
    yield from function_selector_traps(hook, selector)
    tracked = any(action.kind is ActionKind.TRACK_SOCK for action in selector.actions)
    if tracked and all(each.operator.negative for each in selector.args):
        yield (
            "TrackSock takes the process that runs for the owner, and in an interrupt that is anybody: add a condition "
            "that holds in the owner's own calls only, as that of the new state TCP_SYN_SENT"
        )
    if any(each.operator.negative for each in selector.data):
        yield "a negative operator in matchData holds too when the value cannot be read"
    if any(each.operator.negative for each in (*selector.binaries, *selector.parent_binaries)):
        yield "a negative operator on a binary holds too when its path cannot be read or was cut"
    for each_pid in selector.pids:
        if not each_pid.namespace_pid:
            yield "matchPIDs means the host's process ids: isNamespacePID: true is for those inside a container"


def _may_be_unreadable(each: ArgFilter, hook: Hook) -> str:
    args = [hook.args[place] for place in each.positions]
    if any(not arg.type.is_number for arg in args):
        return "cannot be read or was cut"
    return "cannot be read" if any(arg.resolve for arg in args) else ""


def _hot_calls(hook: Hook, selector: Selector) -> list[str]:
    """Those of which the selector posts nearly all."""
    limited = any(action.rate_ms for action in (*selector.actions, *selector.return_actions))
    narrowed = any(True for _ in _narrowing(selector))
    if limited or narrowed or not posts(selector.actions):
        return []
    if is_function(hook):
        return hot_functions(hook)
    return sorted(call for call in hook.calls if call in HOT_CALLS)


def _narrowing(selector: Selector) -> Iterator[object]:
    """The conditions that hold for few: those that name what is meant."""
    values: tuple[ArgFilter, ...] = (*selector.args, *selector.data, *selector.return_args)
    binaries = (*selector.binaries, *selector.parent_binaries)
    yield from (each for each in values if not each.operator.negative)
    yield from (each for each in selector.pids if not each.operator.negative)
    yield from (each for each in binaries if not each.operator.negative)
    yield from (each for each in selector.namespace_changes if not each.operator.negative)
    yield from (each for each in selector.capability_changes if not each.operator.negative)
    yield from selector.workloads


def _conditions(selector: Selector) -> frozenset[object]:
    """What must hold at the entry."""
    return frozenset(
        (
            *(("args", each) for each in selector.args),
            *(("data", each) for each in selector.data),
            *selector.pids,
            *(("binaries", each) for each in selector.binaries),
            *(("parent", each) for each in selector.parent_binaries),
            *selector.namespaces,
            *selector.namespace_changes,
            *selector.capabilities,
            *selector.capability_changes,
            *selector.workloads,
        )
    )


def _hider(selectors: tuple[Selector, ...], number: int) -> int | None:
    """The first selector before this one that holds whenever this one does: its conditions are among this one's."""
    wanted = _conditions(selectors[number])
    return next((n for n in range(number) if _conditions(selectors[n]) <= wanted), None)


def _hidden_returns(hook: Hook) -> Iterator[tuple[int, str]]:
    late = [(number, frozenset(selector.return_args)) for number, selector in hook.return_selectors]
    for place, (number, wanted) in enumerate(late):
        hider = next((n for n, conditions in late[:place] if conditions <= wanted), None)
        if hider is not None:
            why = f"selectors[{hider}] is tried first and holds whenever this one does"
            yield number, f"is never asked at the return: {why}"


def _actions(hook: Hook) -> Iterator[Action]:
    for selector in hook.selectors:
        yield from selector.actions
        yield from selector.return_actions
