/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What no hook announced. strangers: HASH, cgroup id -> struct pg_stranger: cgroups that a container runtime's name
 * says are a container's; one that has a record in bindings as well was announced since. doors: ARRAY[1] of struct
 * pg_doors, what becomes of a process that calls execve in one. held: HASH, tgid -> struct pg_held: those that were
 * stopped for it, until they are identified. notices: RINGBUF of struct pg_notice, to the agent. hook: ARRAY[1] of
 * struct pg_hook: our own OCI hook, which calls execve in the container's cgroup to announce it.
 *
 * Whoever else may have to release what is held (a new agent, the event process, the NRI plugin) reads doors and held
 * by their pins, so their layout is part of the interface between versions.
 */
#ifndef PG_MAPS_DOORS_H
#define PG_MAPS_DOORS_H

#include "lib/kernel.h"

#define PG_NAME_MAX 128 /* of a cgroup: 64 hex digits, the longest prefix in use has 15 characters, ".scope" */

enum pg_treatment { PG_TREAT_REPORT = 0, PG_TREAT_STRICT = 1, PG_TREAT_HOLD = 2 };
enum pg_fallback { PG_FALL_OPEN = 0, PG_FALL_STRICT = 1, PG_FALL_KILL = 2 };
enum pg_notice_kind { PG_NOTICE_CGROUP = 1, PG_NOTICE_EXEC = 2 };

struct pg_doors {
	__u32 treatment;
	__u32 fallback;	 /* of what is held too long, and where there is nobody to release it */
	__u64 heartbeat; /* ns since boot: when the agent last said that it can release */
	__u64 stale;	 /* ns after which that counts no more */
	__u64 deadline;	 /* ns that a process is held at most */
	__u64 apart;	 /* 1: containers have mount namespaces of their own */
};
_Static_assert(sizeof(struct pg_doors) == 40, "doors value");

struct pg_stranger {
	__u64 seen; /* ns since boot */
	__u32 execs;
	__u32 reserved;
};
_Static_assert(sizeof(struct pg_stranger) == 16, "strangers value");

struct pg_held {
	__u64 cgroup;
	__u64 since; /* ns since boot */
	__u64 start; /* of the process, ns since boot */
};
_Static_assert(sizeof(struct pg_held) == 24, "held value");

struct pg_hook {
	__u64 inode;  /* 0: none is installed */
	__u32 device; /* MAJOR << 20 | MINOR (include/linux/kdev_t.h) */
	__u32 reserved;
};
_Static_assert(sizeof(struct pg_hook) == 16, "hook value");

struct pg_notice {
	__u32 kind;
	__u32 treatment; /* what the kernel did: enum pg_treatment */
	__u64 cgroup;
	__u64 above; /* the cgroup that it is in */
	__u64 time;
	__u32 pid;
	__u32 parent; /* tgid of the parent */
	__u32 ns_pid; /* in the process's own pid namespace */
	__u32 level;  /* of that namespace, 0 for the host's */
	char comm[16];
	char name[PG_NAME_MAX]; /* of the cgroup's directory */
};
_Static_assert(sizeof(struct pg_notice) == 192, "notice");

#endif
