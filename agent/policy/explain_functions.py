# SPDX-License-Identifier: Apache-2.0
"""What an author may not have thought of at hooks on the kernel's functions and its security hooks.

Names are those of functions; an LSM hook stands for the function `security_` and its name, by which it is called.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from agent.policy.access import Memory, PointHook
from agent.policy.explain_cost import HOT_FUNCTIONS, functions_of, is_function
from agent.policy.explain_words import either
from agent.policy.function_points import SECURITY
from agent.policy.model import ActionKind, ArgType, Hook, Operator, Policy, Selector

# What is worked on packets, also where it is in the middle of anybody's code.
_OF_PACKETS = re.compile(
    r"^(__)?(tcp|udp|udpv6|ip|ip6|ipv6|inet|inet6|icmp|netif|napi|dev|skb|sk|sock)_|_rcv(_|$)|_skb$"
)
_IN_INTERRUPTS = frozenset(
    {
        "security_inet_conn_established",
        "security_inet_conn_request",
        "security_inet_csk_clone",
        "security_sock_rcv_skb",
    }
)
# Of those that look so, what a process does by a call of its own.
_CALLED = """
inet_accept inet_bind inet_create inet_csk_accept inet_csk_listen_start inet_dgram_connect inet_ioctl inet_listen
inet_recvmsg inet_release inet_sendmsg inet_shutdown inet_stream_connect inet6_bind inet6_create inet6_ioctl
inet6_recvmsg inet6_release inet6_sendmsg ip_setsockopt ipv6_setsockopt sk_alloc sock_alloc_file sock_create
sock_recvmsg sock_sendmsg sock_setsockopt tcp_close tcp_connect tcp_disconnect tcp_getsockopt tcp_ioctl tcp_recvmsg
tcp_sendmsg tcp_set_ulp tcp_setsockopt tcp_shutdown tcp_v4_connect tcp_v6_connect udp_recvmsg udp_sendmsg
udpv6_recvmsg udpv6_sendmsg
"""
_BY_CALL = frozenset(_CALLED.split())
_PROGRAM_FILES = frozenset(
    {
        "security_bprm_check",
        "security_bprm_creds_for_exec",
        "security_bprm_creds_from_file",
    }
)
# What does not come by a function, and where it does: the first is what the policy hooks.
_ELSEWHERE = {
    "security_file_permission": (
        "memory that is mapped from a file is read and written without it, and truncating is no write: hook "
        "security_mmap_file and security_path_truncate (from Linux 6.2 on security_file_truncate as well) beside it"
    ),
    "vfs_read": "readv, preadv, sendfile and io_uring read without it: security_file_permission sees them all",
    "vfs_write": "writev, pwritev, sendfile and io_uring write without it: security_file_permission sees them all",
    "security_file_open": (
        "a descriptor that was opened before the policy, or that another process hands over, is not opened again: "
        "security_file_receive sees the latter, security_file_permission what is read and written"
    ),
    "security_bprm_creds_from_file": (
        "of a script it is given the interpreter: security_bprm_check is called for both, the script first"
    ),
    "security_kernel_read_file": (
        "init_module brings a module that it has in memory, without a file: security_kernel_load_data sees it"
    ),
    "security_kernel_load_data": "finit_module names a file: security_kernel_read_file sees it",
    "security_socket_connect": (
        "datagrams and TCP Fast Open need no connect: security_socket_sendmsg sees where sendto and sendmsg send"
    ),
    "tcp_connect": "TCP alone: a datagram, and a connection of another protocol, are sent without it",
    "commit_creds": (
        "every execve comes by here as well as setuid and the like; its argument has the new credentials, while "
        "matchCapabilities looks at those that the process still has"
    ),
}
_SEES_TOO = {
    "security_file_permission": frozenset({"security_mmap_file"}),
    "security_bprm_creds_from_file": frozenset({"security_bprm_check"}),
    "security_kernel_read_file": frozenset({"security_kernel_load_data"}),
    "security_kernel_load_data": frozenset({"security_kernel_read_file"}),
    "security_socket_connect": frozenset({"security_socket_sendmsg"}),
    "vfs_read": frozenset({"security_file_permission"}),
    "vfs_write": frozenset({"security_file_permission"}),
}
_FROM_ROOT = frozenset({Operator.EQUAL, Operator.NOT_EQUAL, Operator.PREFIX, Operator.NOT_PREFIX})
_SIGNALS = (ActionKind.SIGKILL, ActionKind.SIGNAL)
_SOCKETS = frozenset({ArgType.SOCK, ArgType.SOCKET, ArgType.SKB})


def function_traps(hook: Hook, policy: Policy, tracking: bool, found: Sequence[PointHook]) -> Iterator[str]:
    """Of one hook, of whatever kind. found: its places on a node, as far as they are known."""
    if not is_function(hook):
        return
    names = functions_of(hook)
    if asked := [name for name in names if _may_interrupt(name, hook)]:
        yield from _of_interrupts(asked, hook, tracking)
    hooked = frozenset(name for each in policy.hooks for name in functions_of(each))
    for name in names:
        if name in _ELSEWHERE and not hooked & _SEES_TOO.get(name, frozenset()):
            yield f"{name}: {_ELSEWHERE[name]}"
    if any(map(_compares_process_memory, found)):
        yield (
            "what it compares is in the process's memory, which another thread can change, and counts as unreadable "
            "where it is not resident: functions have no second check at their return"
        )
    inner = [name for name in names if not name.startswith(SECURITY)]
    if inner and not hook.ignore_missing and not hook.call_pattern:
        yield (
            f"{either(inner, 'and')} {_is_or_are(inner)} no interface of the kernel: another version may not have it, "
            "or inline it, and refuses the policy then"
        )


def function_selector_traps(hook: Hook, selector: Selector) -> Iterator[str]:
    """Of one selector of a hook of whatever kind."""
    if not is_function(hook):
        return
    for each in selector.args:
        is_dentry = any(hook.args[place].type is ArgType.DENTRY for place in each.positions)
        rooted = any(isinstance(value, bytes) and value.startswith(b"/") for value in each.values)
        if is_dentry and rooted and each.operator in _FROM_ROOT:
            yield (
                "a dentry does not know where its file system is mounted: its path begins at the root of that, and "
                "is the same wherever a volume is mounted. Compare a file or path where the hook has one"
            )
    programs = [name for name in functions_of(hook) if name in _PROGRAM_FILES]
    if programs and selector.binaries:
        yield "matchBinaries means who calls execve: the new program is in the arguments"


def failing_calls(policy: Policy) -> Iterator[str]:
    """What is to be known of all selectors together that override without a signal."""
    places = [
        f"{hook.section}.selectors[{number}]"
        for hook in policy.hooks
        for number, selector in enumerate(hook.selectors)
        if not hook.target and _has(selector, ActionKind.OVERRIDE) and not _has(selector, *_SIGNALS)
    ]
    if places:
        verb = "matches" if len(places) == 1 else "match"
        yield (
            f"where {either(places, 'and')} {verb}, the call fails and the process goes on: it may try again, and in "
            "other ways. Sigkill beside Override ends it"
        )


def hot_functions(hook: Hook) -> list[str]:
    """Those of a hook that are called all the time."""
    return sorted(name for name in functions_of(hook) if name in HOT_FUNCTIONS) if is_function(hook) else []


def _has(selector: Selector, *kinds: ActionKind) -> bool:
    return any(action.kind in kinds for action in selector.actions)


def _is_or_are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _may_interrupt(name: str, hook: Hook) -> bool:
    if name in _IN_INTERRUPTS:
        return True
    if name in _BY_CALL or name.startswith(SECURITY):
        return False
    takes_packets = any(arg.type is ArgType.SKB for arg in hook.args)
    return takes_packets or bool(_OF_PACKETS.search(name))


def _of_interrupts(names: Sequence[str], hook: Hook, tracking: bool) -> Iterator[str]:
    looks_at_sockets = any(arg.type in _SOCKETS for arg in (*hook.args, *hook.data))
    if looks_at_sockets and tracking:
        return
    remedy = ": TrackSock, at a call of the owner's, has its socket's events asked of it" if looks_at_sockets else ""
    yield (
        f"{either(names, 'and')} may run in an interrupt, as when a packet comes: policies, conditions, events and "
        f"signals are then those of the process that was interrupted, whoever it is{remedy}"
    )


def _compares_process_memory(rule: PointHook) -> bool:
    places = {place for selector in rule.hook.selectors for each in selector.args for place in each.positions}
    values = (rule.args[place][1] for place in places if place < len(rule.args))
    return any(value and value.memory is not Memory.KERNEL and not value.type.is_number for value in values)
