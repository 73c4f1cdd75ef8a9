# SPDX-License-Identifier: Apache-2.0
"""The files of a kernel header tree that bcc accepts, with the running kernel's own types and nothing else.

bcc compiles with the directory that BCC_KERNEL_SOURCE names as its working directory, forces include/linux/kconfig.h in
before everything else, and its own prelude includes a dozen kernel headers. So kconfig.h here is the whole tree: it
declares everything, and each other header only includes it. Defining the guard of uapi/linux/bpf.h keeps bcc's bundled
copy out: the enums of helpers, map types and flags are then the kernel's.

Includes are relative to the including file, so that nothing in another directory of the search path can take their
place.
"""

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from agent.kernel.btf_c import CText
from agent.kernel.helper_ids import missing_helpers

# Machine names of uname(2) and the kernel's directories under arch/, as bcc maps them; little-endian, 64-bit only.
_ARCHITECTURES: Final = {
    "x86_64": "x86",
    "aarch64": "arm64",
    "ppc64le": "powerpc",
    "riscv64": "riscv",
    "loongarch64": "loongarch",
}
# Tags that the prototypes in bcc's helpers.h mention; those without a definition here are only pointed to.
_FORWARD: Final = """
    bpf_cgroup_storage_key bpf_dynptr bpf_fib_lookup bpf_flow_keys bpf_map bpf_perf_event_data bpf_redir_neigh
    bpf_sk_lookup bpf_sock_addr bpf_sock_ops bpf_sockopt bpf_spin_lock bpf_sysctl bpf_tcp_sock bpf_timer bpf_tunnel_key
    bpf_xdp_sock bpf_xfrm_state ctl_table in6_addr iphdr ipv6_sr_hdr ipv6hdr mptcp_sock perf_branch_entry seq_file
    sk_msg_buff sk_reuseport_md sockaddr socket tcp6_sock tcp_request_sock tcp_sock tcp_timewait_sock tcphdr udp6_sock
    unix_sock xdp_buff xdp_md xdp_rxq_info
"""
_KCONFIG: Final = "include/linux/kconfig.h"
_DECLARATIONS: Final = "include/podgate_btf.h"
_VERSION: Final = "include/generated/uapi/linux/version.h"
_AUTOCONF: Final = "include/generated/autoconf.h"
# What bcc's prelude includes, and what programs written for a full header tree usually do.
_THIN: Final = """
    linux/bpf.h linux/bpf_common.h linux/cgroup.h linux/compiler.h linux/cred.h linux/fs.h linux/in.h linux/in6.h
    linux/kernel.h linux/mm_types.h linux/nsproxy.h linux/pid_namespace.h linux/ptrace.h linux/sched.h linux/socket.h
    linux/types.h net/sock.h uapi/linux/bpf.h uapi/linux/bpf_common.h uapi/linux/if_ether.h uapi/linux/if_packet.h
    uapi/linux/ptrace.h uapi/linux/types.h
"""
_THIN_ARCH: Final = "include/asm/page.h include/asm/ptrace.h include/asm/types.h include/uapi/asm/ptrace.h"
_LICENSE: Final = "/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */\n"
_PRELUDE: Final = """
#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif
#ifndef NULL
#define NULL ((void *)0)
#endif
#ifndef offsetof
#define offsetof(type, member) __builtin_offsetof(type, member)
#endif
#define __aligned_u64 __u64 __attribute__((aligned(8)))
"""
_LOG2: Final = """#define roundup_pow_of_two(n) ((n) <= 1 ? 1UL : 1UL << (64 - __builtin_clzl((unsigned long)(n) - 1)))
"""


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """What the tree says about the kernel besides its types; `release` and `machine` are those of uname(2)."""

    release: str
    machine: str
    page_size: int


def tree_files(declarations: CText, kernel: KernelFacts) -> dict[str, str]:
    """Paths below the tree, and the files' text. Raises ValueError for a machine or release that it does not know."""
    architecture = _ARCHITECTURES.get(kernel.machine)
    if architecture is None:
        known = ", ".join(_ARCHITECTURES)
        raise ValueError(f"machine {kernel.machine!r} is not supported, only {known}")
    files = {
        _DECLARATIONS: _guarded("PODGATE_BTF_H", declarations.text),
        _AUTOCONF: "#define CONFIG_BPF_SYSCALL 1\n",
        _VERSION: _version(kernel.release),
        _KCONFIG: _guarded("PODGATE_KCONFIG_H", "".join(_kconfig(declarations, kernel.page_size))),
        "include/linux/version.h": f'#include "{posixpath.relpath(_VERSION, "include/linux")}"\n',
        "include/linux/log2.h": _guarded("PODGATE_LOG2_H", _LOG2),
    }
    thin = [f"include/{p}" for p in _THIN.split()] + [f"arch/{architecture}/{p}" for p in _THIN_ARCH.split()]
    files.update((path, _includes_kconfig(path)) for path in thin)
    return {path: _LICENSE + text for path, text in files.items()}


def _kconfig(declarations: CText, page_size: int) -> Iterator[str]:
    yield '#include "../generated/autoconf.h"\n'
    yield '#include "../podgate_btf.h"\n'
    yield "#define _UAPI__LINUX_BPF_H__\n#define _UAPI_LINUX_TYPES_H\n#define _LINUX_TYPES_H\n"
    yield _PRELUDE
    yield from (f"#define PODGATE_LACKS_{name} 1\n" for name in declarations.lacking)
    yield f"#define PAGE_SHIFT {page_size.bit_length() - 1}\n#define PAGE_SIZE {page_size}\n"
    if "TASK_COMM_LEN" not in declarations.enumerators:
        # A macro before Linux 5.17, which BTF does not carry.
        yield "#define TASK_COMM_LEN 16\n"
    if "true" not in declarations.enumerators:
        yield "enum { false = 0, true = 1 };\n"
    if missing := missing_helpers(declarations.enumerators):
        yield f"enum {{ {', '.join(f'{name} = {number}' for name, number in missing)} }};\n"
    yield from (f"struct {tag};\n" for tag in _FORWARD.split())


def _version(release: str) -> str:
    numbers = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
    if numbers is None:
        raise ValueError(f"{release!r} is not a kernel release")
    major, minor, patch = (int(n or 0) for n in numbers.groups())
    # The patch level has eight bits and stops at 255: stable kernels passed that with 4.14.256.
    code = (major << 16) + (minor << 8) + min(patch, 255)
    macro = "#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))\n"
    return _guarded("PODGATE_VERSION_H", f"#define LINUX_VERSION_CODE {code}\n{macro}")


def _includes_kconfig(path: str) -> str:
    return f'#include "{posixpath.relpath(_KCONFIG, posixpath.dirname(path))}"\n'


def _guarded(guard: str, text: str) -> str:
    return f"#ifndef {guard}\n#define {guard}\n{text}#endif\n"
