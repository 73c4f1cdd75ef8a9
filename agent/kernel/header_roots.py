# SPDX-License-Identifier: Apache-2.0
"""Which kernel types BPF programs may use: the roots of the header that is made from the kernel's BTF.

A type that is only pointed to by these is declared but not defined. Add a type here when a program reads its members.
Of what is optional and not there the header defines PODGATE_LACKS_<name>: what reads it is left out of bpf/ then.
"""

from typing import Final

from agent.kernel.btf_c import Roots

_BASE_TYPES: Final = """
    s8 u8 s16 u16 s32 u32 s64 u64 __s8 __u8 __s16 __u16 __s32 __u32 __s64 __u64 __be16 __be32 __be64
    __le16 __le32 __le64 __sum16 __wsum bool size_t ssize_t pid_t uid_t gid_t umode_t loff_t dev_t
    bpf_func_id bpf_map_type bpf_prog_type bpf_attach_type
"""

# What any kernel that runs BPF and cgroups has, since Linux 5.10.
_REQUIRED: Final = """
    task_struct cred signal_struct nsproxy pid upid pid_namespace mm_struct
    linux_binprm file files_struct fdtable fs_struct inode dentry dentry_operations qstr path
    super_block mount vfsmount css_set cgroup cgroup_root cgroup_subsys_state kernfs_node
    ns_common proc_ns_operations kiocb filename iov_iter iter_type
    pt_regs iovec sk_buff bpf_raw_tracepoint_args
    bpf_perf_event_value btf_ptr bpf_pidns_info bpf_sock bpf_sock_tuple __sk_buff
"""

# What depends on the kernel's version, configuration or architecture.
_OPTIONAL: Final = """
    mnt_namespace uts_namespace ipc_namespace user_namespace net cgroup_namespace time_namespace
    trace_event_raw_sys_enter trace_event_raw_sys_exit syscall_trace_enter syscall_trace_exit
    trace_event_raw_sched_process_exec trace_event_raw_sched_process_fork trace_event_raw_sched_process_template
    user_arg_ptr kernel_siginfo kernel_cap_t user_pt_regs user_regs_struct vm_area_struct
    sock sock_common inet_sock socket sockaddr sockaddr_in sockaddr_in6 sockaddr_un in_addr in6_addr
    iphdr ipv6hdr tcphdr udphdr net_device module load_info bpf_attr bpf_map bpf_prog bpf_prog_aux
    perf_event pmu trace_event_call tracepoint
    bpf_stack_build_id bpf_iter__task bpf_map_info bpf_prog_info bpf_link_info
"""

# What the event formats of tracepoints mention besides: bcc writes a struct from a format. Types private to one file
# system or driver are left out.
_EVENT_TYPES: Final = """
    off_t mode_t nlink_t ino_t key_t qid_t qsize_t clockid_t timer_t clock_t time64_t ktime_t sector_t blkcnt_t
    gfp_t fmode_t rwf_t sigset_t old_sigset_t cap_user_header_t cap_user_data_t aio_context_t mqd_t key_serial_t
    siginfo_t stack_t fd_set kuid_t kgid_t kprojid_t projid_t atomic_t atomic64_t dma_addr_t phys_addr_t resource_size_t
    uintptr_t ptrdiff_t uuid_t guid_t u_int ushort uint ulong __poll_t __kernel_size_t __kernel_pid_t __kernel_time_t
    __kernel_timespec __kernel_old_timeval timespec64 rusage rlimit rlimit64
    int8_t int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t __kernel_old_time_t tid_t fl_owner_t gfn_t gpa_t
    gva_t initcall_t dma_data_direction zone_type migrate_mode compact_priority lru_list hrtimer_mode skb_drop_reason
    sk_rst_reason numa_vmaskip_reason thermal_trip_type error_detector pm_qos_req_action dev_pm_qos_req_type
    landlock_rule_type blk_opf_t
"""

KERNEL_ROOTS: Final = Roots(
    required=tuple((_BASE_TYPES + _REQUIRED).split()),
    optional=tuple((_OPTIONAL + _EVENT_TYPES).split()),
    # What bpf/ reads and a kernel without IPv6 lacks.
    members=(("sock_common", "skc_v6_daddr"), ("sock_common", "skc_v6_rcv_saddr")),
    # `false` brings the enum of false and true; BPF_ the flags of maps and helpers, macros before Linux 5.8.
    constants=("BPF_*", "TASK_COMM_LEN", "TRACE_EVENT_FL_TRACEPOINT", "false"),
)
