# SPDX-License-Identifier: Apache-2.0
"""What a policy costs, in words and in the plan's own units; how long that takes is a matter of the machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.policy.access import HookPoint, PointHook, PointKind
from agent.policy.automaton import SUBSTRING_OPERATORS
from agent.policy.explain_words import count, either
from agent.policy.function_points import SECURITY
from agent.policy.lineage import needs_of
from agent.policy.model import ArgType, Hook, HookKind, Policy, Selector
from agent.policy.placed import PlacedPolicy, Rule
from agent.policy.plan import PointPlan, str_point
from agent.policy.sets import TextSet, look_ups, set_bytes, sets_of
from agent.policy.sockets import tracks
from agent.workload.identity import PolicyId

LIGHT, MODERATE = 100, 1500  # comparisons of eight bytes at a call: up to there

# What busy processes, or the kernel for them, call thousands of times a second.
_HOT = """
__fget_light __fput __kmalloc __netif_receive_skb_core __schedule apparmor_file_permission cap_capable dput do_filp_open
do_sys_openat2 fget filemap_read fput handle_mm_fault ip_rcv kfree kmem_cache_alloc kmem_cache_free ksys_read ksys_write
link_path_walk lookup_fast may_open path_openat rw_verify_area schedule security_capable security_cred_free
security_file_alloc security_file_free security_file_ioctl security_file_open security_file_permission
security_inode_follow_link security_inode_getattr security_inode_permission security_mmap_addr security_mmap_file
security_sock_rcv_skb security_socket_recvmsg security_socket_sendmsg sock_recvmsg sock_sendmsg tcp_ack
tcp_rcv_established tcp_recvmsg tcp_sendmsg tcp_v4_rcv tcp_write_xmit udp_recvmsg udp_sendmsg vfs_fstatat vfs_getattr
vfs_open vfs_read vfs_statx vfs_write
"""
HOT_FUNCTIONS = frozenset(_HOT.split())
_FUNCTIONS = frozenset({HookKind.KPROBE, HookKind.FENTRY, HookKind.LSM})
_CALLERS = {"bprm_check_security": "security_bprm_check"}  # of an LSM hook that the function is not named after
_NOWHERE = HookPoint(PointKind.SYSCALL, "")


@dataclass(frozen=True, slots=True)
class Cost:
    """hook_points: how many places are hooked; of a USDT hook and a pattern that is only known on a node. programs: how
    many are loaded, dispatchers left out; None when the node was not asked. weight: comparisons of eight bytes at the
    heaviest hook point, when every selector is tried, about. estimate: the same in words. notes: what else there is to
    pay.
    """

    hook_points: int
    programs: int | None
    weight: int
    compares_text: bool
    watches_return: bool
    estimate: str
    notes: tuple[str, ...]


def estimate_cost(policy: Policy, plans: Sequence[PointPlan]) -> Cost:
    """plans: of all hook points of the policy alone; none when the node was not asked."""
    if not plans:
        return _unplanned(policy)
    weights = [(sum(rule.weight for rule in plan.rules), str_point(plan.point)) for plan in plans]
    weight, where = max(weights, key=lambda pair: pair[0])
    return Cost(
        len(plans),
        sum(len(plan.chunks) * (1 + plan.has_return) for plan in plans),
        weight,
        any(not value.type.is_number for plan in plans for rule in plan.rules for value in rule.compared)
        or any(_asks_binaries(hook) for hook in policy.hooks),
        any(plan.has_return for plan in plans),
        _estimate(weight, where),
        (*_notes(policy), *_chunk_notes(plans)),
    )


def _unplanned(policy: Policy) -> Cost:
    weights = [(hook_weight(policy, hook), hook.call or hook.section) for hook in policy.hooks]
    weight, where = max(weights, key=lambda pair: pair[0])
    return Cost(
        sum(map(count_places, policy.hooks)) + len(policy.enforcers),
        None,
        weight,
        any(map(_compares_text, policy.hooks)),
        any(hook.returns or _may_wait(hook) for hook in policy.hooks) or bool(policy.enforcers),
        _estimate(weight, where),
        tuple(_notes(policy)),
    )


def hook_weight(policy: Policy, hook: Hook) -> int:
    """Of a hook by what it says alone, in the plan's unit."""
    return Rule(PlacedPolicy(policy, PolicyId(0), 0), 0, PointHook(_NOWHERE, 0, hook, ())).weight


def is_function(hook: Hook) -> bool:
    """Whether it is on functions of the kernel, by whatever field."""
    return hook.kind in _FUNCTIONS


def functions_of(hook: Hook) -> tuple[str, ...]:
    """The functions that a hook names; of an LSM hook the one that calls it. None of a pattern."""
    if hook.kind is HookKind.LSM:
        return tuple(_CALLERS.get(name, f"{SECURITY}{name}") for name in hook.calls)
    return hook.calls if is_function(hook) else ()


def count_places(hook: Hook) -> int:
    """How many hook points a hook names; of a pattern that is only known on a node."""
    target = hook.target
    if target is None or hook.kind is HookKind.USDT:
        return max(len(hook.calls), 1)
    return len(target.symbols) + len(target.offsets) + len(target.addresses)


def compared_types(hook: Hook) -> frozenset[ArgType]:
    """The declared types of what the selectors' filters look at, at the entry."""
    pairs = ((s.args, hook.args) for s in hook.selectors), ((s.data, hook.data) for s in hook.selectors)
    return frozenset(
        declared[place].type
        for group in pairs
        for filters, declared in group
        for each in filters
        for place in each.positions
    )


def _compares_text(hook: Hook) -> bool:
    return any(not kind.is_number and kind is not ArgType.AUTO for kind in compared_types(hook)) or _asks_binaries(hook)


def _asks_binaries(hook: Hook) -> bool:
    return any(selector.binaries or selector.parent_binaries for selector in hook.selectors)


def _may_wait(hook: Hook) -> bool:
    """Whether what is compared may not be in memory yet when the call begins."""
    in_process = {kind for kind in compared_types(hook) if not kind.is_number} - {ArgType.FD}
    return hook.kind is HookKind.SYSCALL and bool(in_process)


def _estimate(weight: int, where: str) -> str:
    word = "light" if weight <= LIGHT else "moderate" if weight <= MODERATE else "heavy"
    return (
        f"{word}: trying all selectors takes about as long as {count(weight, 'comparison')} of eight bytes, at {where}"
    )


def _notes(policy: Policy) -> Iterator[str]:
    yield "a call of a process that the policy does not apply to costs the look-up of that alone"
    selectors = [selector for hook in policy.hooks for selector in hook.selectors]
    if hot := sorted({name for hook in policy.hooks for name in functions_of(hook)} & HOT_FUNCTIONS):
        yield f"{either(hot, 'and')}: called all the time, and every process of the node pays for the hook itself"
    if any(map(_may_wait, policy.hooks)):
        yield "the exit of the call is watched too: text that is not in memory at the entry is compared there"
    if any(map(_asks_binaries, policy.hooks)):
        yield "the path of a binary is put together by a walk up the file tree, once all other conditions hold"
    if any(kind.is_path for hook in policy.hooks for kind in compared_types(hook)):
        yield "the path of a file is put together by a walk up the file tree, for each call that gets as far"
    if tracks(policy):
        yield (
            "while it is in force, every hit of a tracepoint or function that looks at a socket, in whatever policy, "
            "looks up its owner, and every change of a TCP socket's state is looked at"
        )
    if any(map(_searches, selectors)):
        yield "SubString looks at each byte of the text"
    yield from _set_notes(policy)
    if any(map(_follows, selectors)):
        yield "forks and execves of all processes are followed, for followChildren, followForks or a change filter"


def _set_notes(policy: Policy) -> Iterator[str]:
    sets = sets_of(policy)
    if not sets:
        return
    values = sum(len(each.values if isinstance(each, TextSet) else each.prefixes) for each in sets)
    looks = sum(map(look_ups, sets))
    memory = -(-sum(map(set_bytes, sets)) // 1024)
    yield (
        f"{count(values, 'value')} are in {count(len(sets), 'set')} in maps, {memory:,} KiB of kernel memory: "
        f"{count(looks, 'look-up')} when all are asked, each about 0.1 µs however many values there are"
    )


def _searches(selector: Selector) -> bool:
    return any(each.operator in SUBSTRING_OPERATORS for each in (*selector.args, *selector.data, *selector.return_args))


def _follows(selector: Selector) -> bool:
    return not needs_of((selector,)).is_empty


def _chunk_notes(plans: Sequence[PointPlan]) -> Iterator[str]:
    for plan in plans:
        if len(plan.chunks) > 1:
            yield f"the rules at {str_point(plan.point)} take {len(plan.chunks)} programs, one after the other"
