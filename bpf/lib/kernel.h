/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the rest of bpf/ needs of the compiler and of the kernel. The compiler is bcc today; nothing outside of this
 * file uses what only bcc has, and bcc's source rewriter finds nothing to rewrite: maps are file descriptors that the
 * loader defines (PG_FD_<name>), kernel and user memory is read through the macros below.
 */
#ifndef PG_LIB_KERNEL_H
#define PG_LIB_KERNEL_H

#include <uapi/linux/ptrace.h>

/*
 * The header that is made from the kernel's BTF defines PODGATE_LACKS_<name> for an optional structure or member that
 * this kernel does not have: agent/kernel/header_roots.py. What reads it is left out then, and a policy that needs it
 * is refused before anything is compiled.
 */

#define PG_INLINE static __always_inline

/*
 * bcc reads all of /proc/kallsyms for every call of these two that it meets, a tenth of a second each, to see whether
 * the kernel has them. Under a name of ours it lets them be; Linux has had them since 5.5.
 */
static long (*pg_probe_read_user)(void *, __u32, const void *) = (void *)BPF_FUNC_probe_read_user;
static long (*pg_probe_read_user_str)(void *, __u32, const void *) = (void *)BPF_FUNC_probe_read_user_str;
#define bpf_probe_read_user pg_probe_read_user
#define bpf_probe_read_user_str pg_probe_read_user_str

/* A map as a helper's argument: llvm.bpf.pseudo with BPF_PSEUDO_MAP_FD becomes a map reference when the program is
 * loaded. */
#define pg_map(name) ((void *)bpf_pseudo_fd(1, PG_FD_##name))

#define pg_lookup(name, key) bpf_map_lookup_elem(pg_map(name), (void *)(key))
#define pg_update(name, key, value, flags) bpf_map_update_elem(pg_map(name), (void *)(key), (void *)(value), flags)
#define pg_delete(name, key) bpf_map_delete_elem(pg_map(name), (void *)(key))

/* Goes on in another program of a PROG_ARRAY, for good; when there is none, the program goes on here. */
#define pg_tail_call(ctx, name, index) bpf_tail_call_((__u64)pg_map(name), ctx, index)

/* Copies one kernel field into a local of the same type; the local is zero when the read fails. */
#define pg_read(dst, field_address) bpf_probe_read_kernel(&(dst), sizeof(dst), field_address)

#define PG_EEXIST 17 /* include/uapi/asm-generic/errno-base.h */

/* A load that the compiler neither repeats nor moves. */
#define pg_once(lvalue) (*(volatile typeof(lvalue) *)&(lvalue))

/* Hides a value's origin, so that the mask after it survives the optimiser and the verifier sees the bound. */
#define pg_opaque(var) asm volatile("" : "+r"(var))

#endif
