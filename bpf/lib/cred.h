/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Credentials, user namespaces and capability sets. Ids are those of the host's user namespace. A set is a number, bit
 * n for capability n: two words of 32 bits before Linux 6.3, one of 64 since, which is the same in little endian.
 */
#ifndef PG_LIB_CRED_H
#define PG_LIB_CRED_H

#include "lib/buffers.h"
#include "lib/kernel.h"
#include "maps/strings.h"

_Static_assert(sizeof(kernel_cap_t) == sizeof(__u64), "kernel_cap_t");

struct pg_user_namespace {
	__s32 level; /* 0: the host's */
	__u32 owner;
	__u32 group;
	__u32 inode;
};
_Static_assert(sizeof(struct pg_user_namespace) == 16, "pg_user_namespace");

struct pg_cred {
	__u32 uid;
	__u32 gid;
	__u32 euid;
	__u32 egid;
	__u32 suid;
	__u32 sgid;
	__u32 fsuid;
	__u32 fsgid;
	__u32 securebits;
	__u32 reserved;
	__u64 inheritable;
	__u64 permitted;
	__u64 effective;
	__u64 bounding;
	__u64 ambient;
	struct pg_user_namespace user_ns;
};
_Static_assert(sizeof(struct pg_cred) == 96, "pg_cred");

PG_INLINE long pg_copy_user_namespace(struct pg_user_namespace *to, const struct user_namespace *from)
{
	pg_read(to->owner, (const __u32 *)&from->owner);
	pg_read(to->group, (const __u32 *)&from->group);
	pg_read(to->inode, &from->ns.inum);
	return pg_read(to->level, &from->level);
}

/* struct user_namespace. */
PG_INLINE long pg_read_user_namespace(struct pg_string *out, __u64 address)
{
	struct pg_user_namespace *to = (struct pg_user_namespace *)out->data;
	long error = pg_copy_user_namespace(to, (const struct user_namespace *)address);

	if (error)
		return pg_no_value(out, error);
	out->len = sizeof(*to);
	out->flags = 0;
	out->mode = 0;
	return 0;
}

PG_INLINE void pg_copy_ids(struct pg_cred *to, const struct cred *from)
{
	pg_read(to->uid, &from->uid);
	pg_read(to->gid, &from->gid);
	pg_read(to->euid, &from->euid);
	pg_read(to->egid, &from->egid);
	pg_read(to->suid, &from->suid);
	pg_read(to->sgid, &from->sgid);
	pg_read(to->fsuid, &from->fsuid);
	pg_read(to->fsgid, &from->fsgid);
}

PG_INLINE void pg_copy_sets(struct pg_cred *to, const struct cred *from)
{
	pg_read(to->inheritable, &from->cap_inheritable);
	pg_read(to->permitted, &from->cap_permitted);
	pg_read(to->effective, &from->cap_effective);
	pg_read(to->bounding, &from->cap_bset);
	pg_read(to->ambient, &from->cap_ambient);
}

/* struct cred. */
PG_INLINE long pg_read_cred(struct pg_string *out, __u64 address)
{
	const struct cred *from = (const struct cred *)address;
	struct pg_cred *to = (struct pg_cred *)out->data;
	const struct user_namespace *namespace = NULL;
	long error = pg_read(to->securebits, &from->securebits);

	if (error)
		return pg_no_value(out, error);
	to->reserved = 0;
	pg_copy_ids(to, from);
	pg_copy_sets(to, from);
	pg_read(namespace, &from->user_ns);
	pg_copy_user_namespace(&to->user_ns, namespace);
	out->len = sizeof(*to);
	out->flags = 0;
	out->mode = 0;
	return 0;
}

/* kernel_cap_t. Each puts a number, 0 when it cannot be read, and gives 0 or a negative errno. */
PG_INLINE long pg_cap_set(__u64 *set, __u64 address)
{
	return bpf_probe_read_kernel(set, sizeof(*set), (const void *)address);
}

/* struct cred. */
PG_INLINE long pg_cap_inheritable(__u64 *set, __u64 address)
{
	return pg_cap_set(set, address + offsetof(struct cred, cap_inheritable));
}

PG_INLINE long pg_cap_permitted(__u64 *set, __u64 address)
{
	return pg_cap_set(set, address + offsetof(struct cred, cap_permitted));
}

PG_INLINE long pg_cap_effective(__u64 *set, __u64 address)
{
	return pg_cap_set(set, address + offsetof(struct cred, cap_effective));
}

#endif
