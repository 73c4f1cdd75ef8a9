# SPDX-License-Identifier: Apache-2.0
"""System calls that do the same as others: who hooks one of them does not see the rest, but at a function of the kernel
that all of them come by.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.policy.explain_cost import functions_of
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
# Functions that all calls of one kind come by.
_COMMON = {
    "open a file": "security_file_open",
    "run a program": "security_bprm_check security_bprm_creds_from_file security_bprm_creds_for_exec",
    "read from a descriptor": "security_file_permission rw_verify_area",
    "write to a descriptor": "security_file_permission rw_verify_area",
    "remove a file": "security_inode_unlink security_path_unlink vfs_unlink",
    "make a directory": "security_inode_mkdir security_path_mkdir vfs_mkdir",
    "rename a file": "security_inode_rename security_path_rename vfs_rename",
    "link a file": "security_inode_link security_path_link vfs_link",
    "make a symbolic link": "security_inode_symlink security_path_symlink vfs_symlink",
    "make a device": "security_inode_mknod security_path_mknod vfs_mknod",
    "change a file's mode": "security_path_chmod security_inode_setattr notify_change",
    "change a file's owner": "security_path_chown security_inode_setattr notify_change",
    "truncate a file": "security_inode_setattr notify_change",
    "send on a socket": "security_socket_sendmsg",
    "accept a connection": "security_socket_accept",
    "send a signal": "security_task_kill",
    "make a process": "security_task_alloc kernel_clone",
    "change the user": "security_task_fix_setuid commit_creds",
    "change the group": "security_task_fix_setgid commit_creds",
    "load a kernel module": "load_module do_init_module",
}


def unseen_calls(policy: Policy) -> Iterator[str]:
    """One sentence for each thing that some of the policy's calls do, and others that it does not hook."""
    hooked = {call for hook in policy.hooks if hook.kind is HookKind.SYSCALL for call in hook.calls}
    functions = {name for hook in policy.hooks for name in functions_of(hook)}
    for what, calls in _WAYS.items():
        if not functions.isdisjoint(_COMMON.get(what, "").split()):
            continue
        seen = [call for call in calls.split() if call in hooked]
        if seen and (unseen := [call for call in calls.split() if call not in hooked]):
            yield f"to {what} there are other calls, which the policy does not hook: {either(unseen, 'and')}"
