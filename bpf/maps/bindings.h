/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * bindings: HASH, cgroup id -> struct pg_binding. A container has one record; each cgroup below it has a record that
 * only names the container's (owner), written here at cgroup_mkdir. So one update changes the policies of a container
 * with all its nested cgroups, and a cgroup created at that moment cannot keep the old ones.
 *
 * nested: HASH, cgroup id of a container -> how many records name it. It has PG_NESTED_MAX at most.
 *
 * search: ARRAY[1] of u32, 1 once a cgroup could not get its record, for that limit or for want of room: from then on a
 * miss asks the cgroups above, so nothing is gained by filling the map.
 *
 * host: ARRAY[1] of struct pg_binding: every process in a cgroup without a record.
 *
 * A quarantined cgroup has a record whose owner is PG_QUARANTINE: the one record under that key has every policy's bit,
 * so one update changes what all quarantined containers are subject to.
 *
 * A pod's own cgroup has a record with PG_FLAG_POD. The containers' cgroups below it are not nested in it: they come
 * into being before their runtime announces them, and are set up first.
 *
 * entering: HASH, tgid -> struct pg_entering: processes of the host in a container's cgroup that have not called execve
 * there: the runtime's helper of an exec sets itself up in it. They count as the host's. entered: ARRAY[1] of u32, how
 * many there are. Those that look like a helper have an entry from their fork on, for a while: the kernel tells of a
 * move when the process is in the cgroup already, and its next call does not wait for that.
 *
 * arming: HASH, cgroup id -> pid of the init process that the runtime holds. The entry says "pending"; its removal, at
 * that process's execve, arms the container. The binding's state is only a hint that saves the look-up: user space may
 * write an old state back with an update of the policies, and nothing is lost. Programs never write into a record.
 */
#ifndef PG_MAPS_BINDINGS_H
#define PG_MAPS_BINDINGS_H

#include "lib/kernel.h"
#include "maps/counters.h"

#define PG_POLICY_WORDS 32
#define PG_CGROUP_LEVELS 16
#define PG_NESTED_MAX 1024
#define PG_QUARANTINE (~0ULL)		    /* no cgroup has this id */
#define PG_WORKLOAD_QUARANTINED 0xffffffffU /* never given out */
#define PG_FLAG_POD 1

enum pg_binding_state { PG_STATE_PENDING = 1, PG_STATE_ARMED = 2 };

/*
 * self is the record's own key, and stands where a copy begins: an element that was recycled for another key under a
 * reader gives itself away to one that looks at self last.
 */
struct pg_binding {
	__u64 self;
	__u64 owner;			 /* key of the record that holds the policies; self for a container */
	__u64 policies[PG_POLICY_WORDS]; /* bit n: policy n selects this workload */
	__u32 workload;
	__u32 state;
	__u32 init_pid;
	__u32 flags;
};
_Static_assert(sizeof(struct pg_binding) == 288, "bindings value");

/*
 * until: 0 of a helper that was put into a container's cgroup. Of one that only looks like a helper, when it ceases to,
 * in ns of the monotonic clock; cgroup is where it was made then: while it is there, nobody has put it anywhere.
 */
struct pg_entering {
	__u64 cgroup;
	__u64 until;
};

PG_INLINE struct pg_binding *pg_host(void)
{
	__u32 zero = 0;

	return pg_lookup(host, &zero);
}

PG_INLINE __u32 *pg_search(void)
{
	__u32 zero = 0;

	return pg_lookup(search, &zero);
}

/*
 * True while the container's setup runs: its init process has not called execve for the entrypoint yet. On a hook point
 * of execve itself the init process's own call is the entrypoint's, and is the container's already.
 */
PG_INLINE int pg_pending(const struct pg_binding *binding, __u64 id, int exec_hook)
{
	__u32 *init_pid;

	if (pg_once(binding->state) != PG_STATE_PENDING)
		return 0;
	init_pid = pg_lookup(arming, &id);
	return init_pid && !(exec_hook && *init_pid == bpf_get_current_pid_tgid() >> 32);
}

PG_INLINE int pg_may_enter(struct pg_entering *found)
{
	__u64 until = pg_once(found->until);

	return !until || (bpf_ktime_get_ns() < until && pg_once(found->cgroup) != bpf_get_current_cgroup_id());
}

/*
 * True for a process of the host that was put into a container's cgroup, or is being put there, and has not called
 * execve. On a hook point of execve itself the call is the container's already.
 */
PG_INLINE int pg_is_entering(int exec_hook)
{
	__u32 zero = 0, *entered, tgid;
	struct pg_entering *found;

	if (exec_hook)
		return 0;
	entered = pg_lookup(entered, &zero);
	if (!entered || !pg_once(*entered))
		return 0;
	tgid = bpf_get_current_pid_tgid() >> 32;
	found = pg_lookup(entering, &tgid);
	return found && pg_may_enter(found);
}

/* The nearest cgroup above the current one that has a container's record. */
PG_INLINE struct pg_binding *pg_above(__u64 *id)
{
	struct pg_binding *binding, *nearest = NULL;
	__u64 above;
	int level;

	for (level = 1; level < PG_CGROUP_LEVELS; level++) {
		above = bpf_get_current_ancestor_cgroup_id(level);
		if (!above)
			break;
		binding = pg_lookup(bindings, &above);
		if (binding && !(pg_once(binding->flags) & PG_FLAG_POD)) {
			nearest = binding;
			*id = above;
		}
	}
	return nearest;
}

/* The record of the current process's cgroup, or of one above it, and its key. */
PG_INLINE struct pg_binding *pg_own_record(__u64 *id)
{
	struct pg_binding *binding;
	__u32 *search;

	*id = bpf_get_current_cgroup_id();
	binding = pg_lookup(bindings, id);
	if (binding)
		return binding;
	search = pg_search();
	return search && *search ? pg_above(id) : NULL;
}

/*
 * The record whose policies apply to the current process, and its key (0 for the host's). NULL when the record changed
 * under the reader: look again.
 */
PG_INLINE struct pg_binding *pg_subject(__u64 *key, int exec_hook)
{
	__u64 id, owner, held;
	struct pg_binding *binding = pg_own_record(&id), *holder = binding;

	*key = 0;
	if (!binding)
		return pg_host();
	owner = pg_once(binding->owner);
	if (pg_once(binding->self) != id)
		return NULL;
	held = owner == PG_QUARANTINE ? id : owner;
	if (owner != id) {
		binding = pg_lookup(bindings, &owner);
		if (!binding) {
			pg_count(PG_COUNT_ORPHAN);
			return pg_host();
		}
	}
	if (owner != PG_QUARANTINE)
		holder = binding;
	if (pg_pending(holder, held, exec_hook) || pg_is_entering(exec_hook))
		return pg_host();
	*key = owner;
	return binding;
}

/*
 * The policies that select the current process: the words of its record whose bits are set in words, a constant, one
 * after the other in p. Gives 0 when there is no answer. A record can be replaced, and its memory given to another one,
 * between the look-up and the last load: then its key differs.
 */
PG_INLINE int pg_select(__u64 *p, __u32 *workload, __u32 words, int exec_hook)
{
	struct pg_binding *binding;
	int attempt, word, n;
	__u64 key;

	for (attempt = 0; attempt < 3; attempt++) {
		binding = pg_subject(&key, exec_hook);
		if (!binding)
			continue;
		n = 0;
#pragma unroll
		for (word = 0; word < PG_POLICY_WORDS; word++)
			if (words & (1u << word))
				p[n++] = pg_once(binding->policies[word]);
		*workload = pg_once(binding->workload);
		if (pg_once(binding->self) == key)
			return 1;
	}
	pg_count(PG_COUNT_STALE_BINDING);
	return 0;
}

#endif
