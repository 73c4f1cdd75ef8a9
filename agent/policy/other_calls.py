# SPDX-License-Identifier: Apache-2.0
"""System calls that do the same as others: who hooks one of them does not see the rest."""

from __future__ import annotations

from collections.abc import Iterator

from agent.policy.explain_words import either
from agent.policy.model import HookKind, Policy

# What is done -> the calls of x86_64 that do it (arch/x86/entry/syscalls/syscall_64.tbl).
_WAYS = {
    "open a file": "open openat openat2 creat open_by_handle_at",
    "run a program": "execve execveat",
    "read from a descriptor": "read readv pread64 preadv preadv2",
    "write to a descriptor": "write writev pwrite64 pwritev pwritev2",
    "remove a file": "unlink unlinkat",
    "make a directory": "mkdir mkdirat",
    "rename a file": "rename renameat renameat2",
    "link a file": "link linkat",
    "make a symbolic link": "symlink symlinkat",
    "make a device": "mknod mknodat",
    "change a file's mode": "chmod fchmod fchmodat fchmodat2",
    "change a file's owner": "chown fchown lchown fchownat",
    "truncate a file": "truncate ftruncate",
    "ask whether a file may be used": "access faccessat faccessat2",
    "send on a socket": "sendto sendmsg sendmmsg",
    "accept a connection": "accept accept4",
    "send a signal": "kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal",
    "make a process": "fork vfork clone clone3",
    "change the user": "setuid setreuid setresuid",
    "change the group": "setgid setregid setresgid",
    "load a kernel module": "init_module finit_module",
    "attach a file system": "mount move_mount",
}


def unseen_calls(policy: Policy) -> Iterator[str]:
    """One sentence for each thing that some of the policy's calls do, and others that it does not hook."""
    hooked = {call for hook in policy.hooks if hook.kind is HookKind.SYSCALL for call in hook.calls}
    for what, calls in _WAYS.items():
        seen = [call for call in calls.split() if call in hooked]
        if seen and (unseen := [call for call in calls.split() if call not in hooked]):
            yield f"to {what} there are other calls, which the policy does not hook: {either(unseen, 'and')}"
