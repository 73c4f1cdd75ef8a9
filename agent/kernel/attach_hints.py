# SPDX-License-Identifier: Apache-2.0
"""What to do about a probe or program that the kernel did not let be attached, by the error's number."""

from __future__ import annotations

import errno

from agent.policy.access import TRAMPOLINES, HookPoint

MAX_PROGRAMS = 38  # BPF_MAX_TRAMP_LINKS of include/linux/bpf.h
ENOTSUPP = 524  # include/linux/errno.h: processes are given it although it is none of theirs

_LOCKED = "the kernel is locked down, or the agent has neither CAP_SYS_ADMIN nor CAP_BPF with CAP_PERFMON"
_GONE = "the kernel has no such function any more: it is of a module that was unloaded, or only parts of it are left"
_NO_FTRACE = "the function does not begin with a place for ftrace: only a kprobe can be attached to it"
_TRAMPOLINE = {
    errno.E2BIG: f"{MAX_PROGRAMS} programs are attached to that function, as many as the kernel takes: detach others",
    errno.EBUSY: "something else has taken the function over, such as a live patch or a program that replaces it",
    errno.EINVAL: "the kernel does not let programs of this kind be attached to that function",
    errno.ENOENT: _GONE,
    errno.ENXIO: _GONE,
    errno.ENODEV: _NO_FTRACE,
    ENOTSUPP: _NO_FTRACE,
    errno.EOPNOTSUPP: _NO_FTRACE,
    errno.EPERM: _LOCKED,
}
_KPROBE = {
    errno.ENOENT: _GONE,
    errno.EADDRNOTAVAIL: "the kernel has several functions of that name: hook one that they call, or that calls them",
    errno.EINVAL: "the kernel does not let that function be probed: see /sys/kernel/debug/kprobes/blacklist",
    errno.EILSEQ: "something else has changed the first instructions of that function",
    errno.EOPNOTSUPP: "something else has changed the first instructions of that function",
    errno.EPERM: _LOCKED,
    errno.EACCES: _LOCKED,
}


def function_hint(point: HookPoint, code: int) -> str:
    """Of a kernel function; "" when nothing is known."""
    return (_TRAMPOLINE if point.kind in TRAMPOLINES else _KPROBE).get(code, "")


def overrider_hint(*, loaded: bool) -> str:
    """Of a program that has a function return an error. loaded: it was refused at that function only."""
    if loaded:
        return "the kernel takes errors in the functions of /sys/kernel/debug/error_injection/list only"
    return "Override here needs a kernel with CONFIG_FUNCTION_ERROR_INJECTION=y and CONFIG_BPF_KPROBE_OVERRIDE=y"


def probe_hint(code: int) -> str:
    """Of a probe in a file; "" when nothing is known."""
    return {
        errno.ENOENT: "there is no such file",
        errno.EINVAL: "it must be a regular file with code at that offset; all probes of one offset have the same "
        "reference counter",
        errno.EIO: "the file system of that file has no pages to put a probe into",
    }.get(code, "")
