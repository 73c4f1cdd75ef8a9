# SPDX-License-Identifier: Apache-2.0
"""The kernel's words for numbers in structures, by number. Pure.

Source: enumerations of the kernel's stable interface (include/uapi/linux), and the taints of include/linux/panic.h.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from agent.policy.kernel_names import FAMILIES, PROTOCOLS, STATES


def _numbered(prefix: str, names: str, first: int = 0) -> Mapping[int, str]:
    return MappingProxyType({number: prefix + name for number, name in enumerate(names.split(), first)})


def _reversed(numbers: Mapping[str, int]) -> Mapping[int, str]:
    """Of several names of a number the first."""
    return MappingProxyType({number: name for name, number in reversed(tuple(numbers.items()))})


FAMILY: Final = _reversed(FAMILIES)
PROTOCOL: Final = _reversed(PROTOCOLS)
STATE: Final = MappingProxyType({**_reversed(STATES), 13: "TCP_BOUND_INACTIVE"})

# include/linux/net.h
SOCKET_TYPE: Final = MappingProxyType(
    {
        1: "SOCK_STREAM",
        2: "SOCK_DGRAM",
        3: "SOCK_RAW",
        4: "SOCK_RDM",
        5: "SOCK_SEQPACKET",
        6: "SOCK_DCCP",
        10: "SOCK_PACKET",
    }
)

# include/uapi/linux/bpf.h, up to Linux 7.3
MAP_TYPE: Final = _numbered(
    "BPF_MAP_TYPE_",
    """
    UNSPEC HASH ARRAY PROG_ARRAY PERF_EVENT_ARRAY PERCPU_HASH PERCPU_ARRAY STACK_TRACE CGROUP_ARRAY LRU_HASH
    LRU_PERCPU_HASH LPM_TRIE ARRAY_OF_MAPS HASH_OF_MAPS DEVMAP SOCKMAP CPUMAP XSKMAP SOCKHASH CGROUP_STORAGE
    REUSEPORT_SOCKARRAY PERCPU_CGROUP_STORAGE QUEUE STACK SK_STORAGE DEVMAP_HASH STRUCT_OPS RINGBUF INODE_STORAGE
    TASK_STORAGE BLOOM_FILTER USER_RINGBUF CGRP_STORAGE ARENA INSN_ARRAY RHASH
    """,
)
PROG_TYPE: Final = _numbered(
    "BPF_PROG_TYPE_",
    """
    UNSPEC SOCKET_FILTER KPROBE SCHED_CLS SCHED_ACT TRACEPOINT XDP PERF_EVENT CGROUP_SKB CGROUP_SOCK LWT_IN LWT_OUT
    LWT_XMIT SOCK_OPS SK_SKB CGROUP_DEVICE SK_MSG RAW_TRACEPOINT CGROUP_SOCK_ADDR LWT_SEG6LOCAL LIRC_MODE2
    SK_REUSEPORT FLOW_DISSECTOR CGROUP_SYSCTL RAW_TRACEPOINT_WRITABLE CGROUP_SOCKOPT TRACING STRUCT_OPS EXT LSM
    SK_LOOKUP SYSCALL NETFILTER
    """,
)

# enum perf_type_id of include/uapi/linux/perf_event.h
PERF_TYPE: Final = _numbered("PERF_TYPE_", "HARDWARE SOFTWARE TRACEPOINT HW_CACHE RAW BREAKPOINT")

# include/uapi/linux/securebits.h
SECURE_BITS: Final = _numbered(
    "SECBIT_",
    """
    NOROOT NOROOT_LOCKED NO_SETUID_FIXUP NO_SETUID_FIXUP_LOCKED KEEP_CAPS KEEP_CAPS_LOCKED NO_CAP_AMBIENT_RAISE
    NO_CAP_AMBIENT_RAISE_LOCKED
    """,
)

TAINT: Final = _numbered(
    "TAINT_",
    """
    PROPRIETARY_MODULE FORCED_MODULE CPU_OUT_OF_SPEC FORCED_RMMOD MACHINE_CHECK BAD_PAGE USER DIE
    OVERRIDDEN_ACPI_TABLE WARN CRAP FIRMWARE_WORKAROUND OOT_MODULE UNSIGNED_MODULE SOFTLOCKUP LIVEPATCH AUX RANDSTRUCT
    TEST FWCTL
    """,
)


def name_or_number(names: Mapping[int, str], number: int) -> str | int:
    """The word, or for a number without one the number."""
    return names.get(number, number)


def bit_names(names: Mapping[int, str], mask: int) -> list[str | int]:
    """Of the bits that are set, the lowest first; of one without a word its place."""
    return [name_or_number(names, bit) for bit in range(mask.bit_length()) if mask >> bit & 1]
