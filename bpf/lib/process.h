/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a call can know of the process that makes it: its pids, namespaces and capabilities, whether they changed since
 * its execve, and the lineage that bpf/lib/lineage.h keeps. Conditions on lineage and change come in pairs: both of a
 * pair hold for a process of which nobody knows.
 */
#ifndef PG_LIB_PROCESS_H
#define PG_LIB_PROCESS_H

#include "lib/kernel.h"
#include "maps/process.h"

#define PG_PIDTYPE_TGID 1   /* include/linux/pid_types.h, enum pid_type */
#define PG_MAX_PID_LEVEL 32 /* include/linux/pid_namespace.h, MAX_PID_NS_LEVEL */

PG_INLINE struct task_struct *pg_current(void)
{
	return (struct task_struct *)bpf_get_current_task();
}

PG_INLINE __u32 pg_tgid(void)
{
	return bpf_get_current_pid_tgid() >> 32;
}

/*
 * What ends in _of asks of any process, by a thread of it; of NULL, or of one that ends meanwhile, it gets zeros.
 *
 * The process's number in the pid namespace that it is in, and that namespace.
 */
PG_INLINE void pg_innermost(struct upid *out, const struct task_struct *task)
{
	struct signal_struct *signal = NULL;
	unsigned int level = PG_MAX_PID_LEVEL;
	struct pid *pid = NULL;

	pg_read(signal, &task->signal);
	if (signal)
		pg_read(pid, &signal->pids[PG_PIDTYPE_TGID]);
	if (pid)
		pg_read(level, &pid->level);
	if (level < PG_MAX_PID_LEVEL)
		bpf_probe_read_kernel(out, sizeof(*out), &pid->numbers[level]);
}

PG_INLINE __u32 pg_ns_tgid_of(const struct task_struct *task)
{
	struct upid number = {};

	pg_innermost(&number, task);
	return number.nr;
}

PG_INLINE __u32 pg_ns_tgid(void)
{
	return pg_ns_tgid_of(pg_current());
}

/* The inode number of the namespace that a field points to; 0 when there is none. */
#define pg_inum_at(tag, field_address)                                                                                 \
	({                                                                                                             \
		struct tag *namespace_ = NULL;                                                                         \
		__u32 inum_ = 0;                                                                                       \
                                                                                                                       \
		pg_read(namespace_, field_address);                                                                    \
		if (namespace_)                                                                                        \
			pg_read(inum_, &namespace_->ns.inum);                                                          \
		inum_;                                                                                                 \
	})

PG_INLINE struct cred *pg_cred_of(const struct task_struct *task)
{
	struct cred *cred = NULL;

	pg_read(cred, &task->cred);
	return cred;
}

PG_INLINE __u32 pg_pid_inum_of(const struct task_struct *task)
{
	struct upid number = {};

	pg_innermost(&number, task);
	return pg_inum_at(pid_namespace, &number.ns);
}

/* Without CONFIG_TIME_NS there are only pointers to them. */
#ifdef PODGATE_LACKS_time_namespace
#define pg_time_inum(field_address) 0
#else
#define pg_time_inum(field_address) pg_inum_at(time_namespace, field_address)
#endif

PG_INLINE __u32 pg_proxy_inum(const struct nsproxy *proxy, int type)
{
	switch (type) {
	case PG_NS_UTS:
		return pg_inum_at(uts_namespace, &proxy->uts_ns);
	case PG_NS_IPC:
		return pg_inum_at(ipc_namespace, &proxy->ipc_ns);
	case PG_NS_MNT:
		return pg_inum_at(mnt_namespace, &proxy->mnt_ns);
	case PG_NS_PID_FOR_CHILDREN:
		return pg_inum_at(pid_namespace, &proxy->pid_ns_for_children);
	case PG_NS_NET:
		return pg_inum_at(net, &proxy->net_ns);
	case PG_NS_TIME:
		return pg_time_inum(&proxy->time_ns);
	case PG_NS_TIME_FOR_CHILDREN:
		return pg_time_inum(&proxy->time_ns_for_children);
	default:
		return pg_inum_at(cgroup_namespace, &proxy->cgroup_ns);
	}
}

/* type: enum pg_ns_type, a constant. 0: a thread that ends has none any more, nor has a kernel built without this type.
 */
PG_INLINE __u32 pg_ns_inum_of(const struct task_struct *task, int type)
{
	struct nsproxy *proxy = NULL;

	if (type == PG_NS_PID)
		return pg_pid_inum_of(task);
	if (type == PG_NS_USER)
		return pg_inum_at(user_namespace, &pg_cred_of(task)->user_ns);
	pg_read(proxy, &task->nsproxy);
	return proxy ? pg_proxy_inum(proxy, type) : 0;
}

PG_INLINE __u32 pg_ns_inum(int type)
{
	return pg_ns_inum_of(pg_current(), type);
}

PG_INLINE int pg_in_host_user_ns_of(const struct task_struct *task)
{
	struct user_namespace *user = NULL;
	int level = 0;

	pg_read(user, &pg_cred_of(task)->user_ns);
	if (user)
		pg_read(level, &user->level);
	return level == 0;
}

/* A set is 64 bits, of two words before Linux 6.3 and of one since: the same bytes. */
PG_INLINE __u64 pg_cred_caps_of(const struct task_struct *task, int type)
{
	struct cred *cred = pg_cred_of(task);
	const void *from = &cred->cap_effective;
	__u64 set = 0;

	if (type == PG_CAP_INHERITABLE)
		from = &cred->cap_inheritable;
	if (type == PG_CAP_PERMITTED)
		from = &cred->cap_permitted;
	pg_read(set, from);
	return set;
}

PG_INLINE int pg_in_host_user_ns(void)
{
	return pg_in_host_user_ns_of(pg_current());
}

PG_INLINE __u64 pg_own_caps(int type)
{
	return pg_cred_caps_of(pg_current(), type);
}

/* type: enum pg_cap_type. namespaced 0: those of another user namespace than the host's do not count. */
PG_INLINE __u64 pg_caps_of(const struct task_struct *task, int type, int namespaced)
{
	return namespaced || pg_in_host_user_ns_of(task) ? pg_cred_caps_of(task, type) : 0;
}

PG_INLINE __u64 pg_caps(int type, int namespaced)
{
	return pg_caps_of(pg_current(), type, namespaced);
}

/* When the process of a thread started, in ns since boot. */
PG_INLINE __u64 pg_start_of(const struct task_struct *task)
{
	struct task_struct *leader = NULL;
	__u64 start = 0;

	pg_read(leader, &task->group_leader);
	if (leader)
		pg_read(start, &leader->start_boottime);
	return start;
}

PG_INLINE struct pg_lineage *pg_record_of(__u32 tgid, __u64 start)
{
	struct pg_lineage *record = pg_lookup(lineage, &tgid);

	return record && pg_is_of(record, start) ? record : NULL;
}

PG_INLINE __u64 pg_own_start(void)
{
	return pg_start_of(pg_current());
}

PG_INLINE struct pg_lineage *pg_own_lineage(void)
{
	return pg_record_of(pg_tgid(), pg_own_start());
}

/* What is known of a predicate. */
#define PG_MISSED 0
#define PG_MET 1
#define PG_UNKNOWN 2

#define pg_bit_of(words, bit) (pg_once((words)[(bit) / 64]) >> ((bit) % 64) & 1)

PG_INLINE int pg_has_met(const struct pg_lineage *record, __u32 bit, __u64 since)
{
	return (pg_bit_of(record->bits, bit) && pg_once(record->written) >= since) ||
	       (pg_bit_of(record->before, bit) && pg_once(record->scanned) >= since);
}

PG_INLINE int pg_parent_had_met(const struct pg_lineage *record, __u32 bit, __u64 since)
{
	return (pg_bit_of(record->parent_bits, bit) && pg_once(record->written) >= since) ||
	       (pg_bit_of(record->parent_before, bit) && pg_once(record->scanned) >= since);
}

/*
 * Of a process by its tgid and start. A record that is not the current process's own can go while it is read, and its
 * memory be given to another one's: then its start differs afterwards.
 */
PG_INLINE int pg_knows(__u32 tgid, __u64 start, __u32 bit, __u64 since)
{
	struct pg_lineage *record = pg_record_of(tgid, start);
	int met, unknown;

	if (!record)
		return pg_is_lost(tgid) ? PG_UNKNOWN : PG_MISSED;
	met = pg_has_met(record, bit, since);
	unknown = pg_once(record->unknown);
	if (!pg_is_of(record, start))
		return PG_MISSED;
	return met ? PG_MET : unknown ? PG_UNKNOWN : PG_MISSED;
}

/* bit: a constant. since: ns since boot, from when on it stands for its predicate. */
PG_INLINE int pg_in_lineage_of(__u32 tgid, __u64 start, __u32 bit, __u64 since)
{
	return pg_knows(tgid, start, bit, since) != PG_MISSED;
}

PG_INLINE int pg_in_lineage(__u32 bit, __u64 since)
{
	return pg_in_lineage_of(pg_tgid(), pg_own_start(), bit, since);
}

PG_INLINE int pg_outside_lineage_of(__u32 tgid, __u64 start, __u32 bit, __u64 since)
{
	return pg_knows(tgid, start, bit, since) != PG_MET;
}

PG_INLINE int pg_outside_lineage(__u32 bit, __u64 since)
{
	return pg_outside_lineage_of(pg_tgid(), pg_own_start(), bit, since);
}

/* Of the parent there is now, and of who forked the process: either may have met it. */
PG_INLINE int pg_parent_knows(const struct task_struct *task, __u32 tgid, __u64 start, __u32 bit, __u64 since)
{
	struct pg_lineage *own = pg_record_of(tgid, start);
	struct task_struct *parent = NULL;
	int known = PG_MISSED;
	pid_t above = 0;

	if (own && pg_parent_had_met(own, bit, since))
		return PG_MET;
	pg_read(parent, &task->real_parent);
	if (parent) {
		pg_read(above, &parent->tgid);
		known = pg_knows(above, pg_start_of(parent), bit, since);
	}
	if (known == PG_MISSED && (own ? pg_once(own->unknown) : pg_is_lost(tgid)))
		return PG_UNKNOWN;
	return known;
}

PG_INLINE int pg_parent_in_lineage_of(const struct task_struct *task, __u32 tgid, __u64 start, __u32 bit, __u64 since)
{
	return pg_parent_knows(task, tgid, start, bit, since) != PG_MISSED;
}

PG_INLINE int pg_parent_in_lineage(__u32 bit, __u64 since)
{
	return pg_parent_in_lineage_of(pg_current(), pg_tgid(), pg_own_start(), bit, since);
}

PG_INLINE int pg_parent_outside_lineage_of(const struct task_struct *task, __u32 tgid, __u64 start, __u32 bit,
					   __u64 since)
{
	return pg_parent_knows(task, tgid, start, bit, since) != PG_MET;
}

PG_INLINE int pg_parent_outside_lineage(__u32 bit, __u64 since)
{
	return pg_parent_outside_lineage_of(pg_current(), pg_tgid(), pg_own_start(), bit, since);
}

/* The record, when it has what the process was at its execve. */
PG_INLINE struct pg_lineage *pg_at_execve(__u32 tgid, __u64 start)
{
	struct pg_lineage *record = pg_record_of(tgid, start);

	return record && pg_once(record->snapshot) && !pg_once(record->unknown) ? record : NULL;
}

/* types: a constant, bit n for enum pg_ns_type n. */
PG_INLINE int pg_ns_differs(const struct task_struct *task, const struct pg_lineage *then, __u32 types)
{
	int type, differs = 0;

#pragma unroll
	for (type = 0; type < PG_NS_TYPES; type++)
		if (types & (1u << type))
			differs |= pg_ns_inum_of(task, type) != pg_once(then->ns[type]);
	return differs;
}

/* What is known of a process that has ended is nothing: both hold. */
PG_INLINE int pg_ns_changed_of(const struct task_struct *task, __u32 tgid, __u64 start, __u32 types)
{
	struct pg_lineage *then = pg_at_execve(tgid, start);

	return !task || !then || pg_ns_differs(task, then, types);
}

PG_INLINE int pg_ns_changed(__u32 types)
{
	struct pg_lineage *then = pg_at_execve(pg_tgid(), pg_own_start());

	return !then || pg_ns_differs(pg_current(), then, types);
}

PG_INLINE int pg_ns_unchanged_of(const struct task_struct *task, __u32 tgid, __u64 start, __u32 types)
{
	struct pg_lineage *then = pg_at_execve(tgid, start);

	return !task || !then || !pg_ns_differs(task, then, types);
}

PG_INLINE int pg_ns_unchanged(__u32 types)
{
	struct pg_lineage *then = pg_at_execve(pg_tgid(), pg_own_start());

	return !then || !pg_ns_differs(pg_current(), then, types);
}

PG_INLINE __u64 pg_caps_difference(const struct task_struct *task, const struct pg_lineage *then, int type,
				   int namespaced)
{
	__u64 had = 0;

	if (namespaced || pg_once(then->snapshot) == PG_SNAPSHOT_HOST_USER)
		had = pg_once(then->caps[type]);
	return had ^ pg_caps_of(task, type, namespaced);
}

/* One of mask was gained or lost since the execve. */
PG_INLINE int pg_caps_changed_of(const struct task_struct *task, __u32 tgid, __u64 start, int type, __u64 mask,
				 int namespaced)
{
	struct pg_lineage *then = pg_at_execve(tgid, start);

	return !task || !then || pg_caps_difference(task, then, type, namespaced) & mask;
}

PG_INLINE int pg_caps_changed(int type, __u64 mask, int namespaced)
{
	struct pg_lineage *then = pg_at_execve(pg_tgid(), pg_own_start());

	return !then || pg_caps_difference(pg_current(), then, type, namespaced) & mask;
}

PG_INLINE int pg_caps_unchanged_of(const struct task_struct *task, __u32 tgid, __u64 start, int type, __u64 mask,
				   int namespaced)
{
	struct pg_lineage *then = pg_at_execve(tgid, start);

	return !task || !then || !(pg_caps_difference(task, then, type, namespaced) & mask);
}

PG_INLINE int pg_caps_unchanged(int type, __u64 mask, int namespaced)
{
	struct pg_lineage *then = pg_at_execve(pg_tgid(), pg_own_start());

	return !then || !(pg_caps_difference(pg_current(), then, type, namespaced) & mask);
}

#endif
