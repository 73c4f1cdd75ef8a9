/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The programs that run whatever the policies are: bindings follow cgroups, containers are armed at their entrypoint's
 * execve, and the agent can ask what BPF sees of it.
 */
#define PG_FILE 2

#include "lib/kernel.h"
#include "lib/straight.h"
#include "maps/bindings.h"
#include "maps/counters.h"
#include "maps/deferred.h"
#include "maps/doors.h"
#include "maps/process.h"

#define PG_DEV_FD_LEN 8 /* "/dev/fd/" */
#define PG_FD_DIGITS 10
#define PG_PF_FORKNOEXEC 0x40	  /* include/linux/sched.h, PF_FORKNOEXEC */
#define PG_SENT_NS 10000000000ULL /* from a helper's fork to its move: milliseconds, on a node that keeps up */

PG_INLINE __u64 pg_cgroup_id(const struct cgroup *cgroup)
{
	struct kernfs_node *node = NULL;
	__u64 id = 0;

	pg_read(node, &cgroup->kn);
	pg_read(id, &node->id);
	return id;
}

/* The unified hierarchy is cgroup_dfl_root, the one whose hierarchy_id is 0 (kernel/cgroup/cgroup.c, cgroup_init). */
PG_INLINE int pg_on_v2(const struct cgroup *cgroup)
{
	struct cgroup_root *root = NULL;
	int hierarchy = -1;

	pg_read(root, &cgroup->root);
	pg_read(hierarchy, &root->hierarchy_id);
	return hierarchy == 0;
}

/* The id of the cgroup above; 0 for the root. */
PG_INLINE int pg_parent_cgroup(const struct cgroup *cgroup, __u64 *id)
{
	struct cgroup_subsys_state *parent = NULL;

	pg_read(parent, &cgroup->self.parent);
	if (!parent)
		return 0;
	*id = pg_cgroup_id((const struct cgroup *)((const char *)parent - offsetof(struct cgroup, self)));
	return 1;
}

PG_INLINE void pg_search_from_now(void)
{
	__u32 *search = pg_search();

	if (search)
		pg_once(*search) = 1;
}

/* Counts one more record for a container; 0 when it has as many as it may have. */
PG_INLINE int pg_may_nest(__u64 owner)
{
	__u64 one = 1, *count = pg_lookup(nested, &owner);

	if (!count) {
		long error = pg_update(nested, &owner, &one, BPF_NOEXIST);

		if (error)
			pg_failed(error);
		return !error;
	}
	if (pg_once(*count) >= PG_NESTED_MAX)
		return 0;
	__sync_fetch_and_add(count, 1);
	return 1;
}

PG_INLINE void pg_nest(__u64 id, struct pg_binding *record)
{
	long error;

	if (pg_may_nest(record->owner)) {
		error = pg_update(bindings, &id, record, BPF_NOEXIST);
		if (!error)
			return;
		pg_failed(error);
	}
	pg_count(PG_COUNT_INHERIT_FAILED);
	pg_search_from_now();
}

/* cgroup_mkdir(struct cgroup *cgrp, const char *path): before the directory can be entered or listed. */
int pg_cgroup_mkdir(struct bpf_raw_tracepoint_args *ctx)
{
	const struct cgroup *cgroup = (const struct cgroup *)ctx->args[0];
	struct pg_binding *from, record = {};
	__u64 id, parent_id = 0;

	if (!pg_on_v2(cgroup) || !pg_parent_cgroup(cgroup, &parent_id))
		return 0;
	from = pg_lookup(bindings, &parent_id);
	if (!from || pg_once(from->flags) & PG_FLAG_POD)
		return 0;
	id = pg_cgroup_id(cgroup);
	record.self = id;
	record.owner = pg_once(from->owner);
	record.workload = pg_once(from->workload);
	record.state = PG_STATE_ARMED;
	if (pg_once(from->self) != parent_id) {
		/* Replaced under us: the container's own record is found by searching. */
		pg_count(PG_COUNT_STALE_BINDING);
		pg_search_from_now();
		return 0;
	}
	pg_nest(id, &record);
	return 0;
}

/* cgroup_release(struct cgroup *cgrp, const char *path): the last reference is gone, and with it the id. */
int pg_cgroup_release(struct bpf_raw_tracepoint_args *ctx)
{
	const struct cgroup *cgroup = (const struct cgroup *)ctx->args[0];
	struct pg_binding *binding;
	__u64 id, owner = 0, *count;

	if (!pg_on_v2(cgroup))
		return 0;
	id = pg_cgroup_id(cgroup);
	binding = pg_lookup(bindings, &id);
	if (!binding)
		return 0;
	owner = pg_once(binding->owner);
	count = pg_lookup(nested, &owner);
	if (owner != id && count && pg_once(*count))
		__sync_fetch_and_add(count, -1);
	pg_delete(bindings, &id);
	pg_delete(arming, &id);
	pg_delete(nested, &id);
	return 0;
}

PG_INLINE void pg_arm(void)
{
	__u64 id = bpf_get_current_cgroup_id();
	struct pg_binding *binding = pg_lookup(bindings, &id);
	__u32 *init_pid;

	if (!binding)
		return;
	if (pg_once(binding->owner) != PG_QUARANTINE)
		id = pg_once(binding->owner);
	init_pid = pg_lookup(arming, &id);
	if (!init_pid || *init_pid != bpf_get_current_pid_tgid() >> 32)
		return;
	pg_delete(arming, &id);
	pg_count(PG_COUNT_ARMED);
}

/*
 * Where the caller's path begins in bprm->filename. For a path relative to a descriptor the kernel made
 * "/dev/fd/N/path" of it (alloc_bprm of fs/exec.c), and "/dev/fd/N" for an empty one.
 */
PG_INLINE __u32 pg_exec_path_start(const struct linux_binprm *bprm, const struct pg_exec_text *text)
{
	const char *fdpath = NULL;
	__u32 at;

	pg_read(fdpath, &bprm->fdpath);
	if (!fdpath)
		return 0;
	for (at = PG_DEV_FD_LEN; at < PG_DEV_FD_LEN + PG_FD_DIGITS; at++)
		if (text->data[at] == '/' || !text->data[at])
			break;
	return text->data[at] == '/' ? at + 1 : at;
}

/*
 * An execve whose path was not resident at its entry: what the kernel read of it is kept for the check at the exit. A
 * thread that is not its group's leader takes the leader's id in execve (de_thread of fs/exec.c), and the entry moves
 * with it.
 */
PG_INLINE void pg_keep_exec(__u32 old_pid, const struct linux_binprm *bprm)
{
	__u64 now = bpf_get_current_pid_tgid();
	__u64 before = (now & 0xffffffff00000000ULL) | old_pid;
	struct pg_deferred *entry = pg_lookup(deferred, &before), copy;
	const char *filename = NULL;
	__u32 zero = 0, start;
	struct pg_exec_text *text = pg_lookup(exec_scratch, &zero);
	long error;

	if (!entry || !text)
		return;
	copy = *entry;
	pg_read(filename, &bprm->filename);
	bpf_probe_read_kernel_str(text->data, sizeof(text->data), filename);
	start = pg_exec_path_start(bprm, text);
	if (start)
		bpf_probe_read_kernel_str(text->data, sizeof(text->data), filename + start);
	error = pg_update(exec_text, &now, text, BPF_ANY);
	if (error)
		pg_failed(error);
	if (before == now)
		return;
	pg_delete(deferred, &before);
	error = pg_update(deferred, &now, &copy, BPF_ANY);
	if (error)
		pg_failed(error);
}

/* An entry of a map from one key to another; 0, or a negative errno and it is lost. */
#define pg_move(name, from, to)                                                                                        \
	({                                                                                                             \
		void *value_ = pg_lookup(name, from);                                                                  \
		long error_ = value_ ? pg_update(name, to, value_, BPF_ANY) : 0;                                       \
                                                                                                                       \
		if (error_)                                                                                            \
			pg_failed(error_);                                                                             \
		if (value_)                                                                                            \
			pg_delete(name, from);                                                                         \
		error_;                                                                                                \
	})

PG_INLINE long pg_move_return(const struct pg_return_key *from, const struct pg_return_key *to)
{
	struct pg_return *value = pg_lookup(returns, from);
	long error = 0;

	if (value) {
		error = pg_update(returns, to, value, BPF_ANY);
		pg_delete(returns, from);
	}
	pg_opaque(error);
	return error;
}

/* Each round ends as it began, whatever was found: to the verifier of Linux 6.1 the rounds would else be a tree. */
PG_INLINE void pg_move_returns(const struct pg_exec_awaited *kept, __u64 before, __u64 now)
{
	struct pg_return_key from = {.pid_tgid = before, .attachment = kept->attachment};
	struct pg_return_key to = {.pid_tgid = now, .attachment = kept->attachment};
	long error = pg_move(awaited, &from, &to), result;
	__u32 chunk;

	pg_opaque(error);
	for (chunk = 0; chunk < PG_MAX_CHUNKS; chunk++) {
		/* Read anew: two bounds merged into one countdown are none to Linux 6.1. */
		if (chunk >= pg_once(kept->chunks))
			break;
		from.chunk = chunk;
		to.chunk = chunk;
		result = pg_move_return(&from, &to);
		error = (long)pg_choose(pg_is_error(result), (__u64)result, (__u64)error);
	}
	if (!error)
		return;
	pg_failed(error);
	pg_count(PG_COUNT_RETURN_LOST);
}

/* What waits for the return of an execve, or for the enforcer's call, under the id that the thread had before. */
PG_INLINE void pg_move_thread(__u32 old_pid)
{
	__u64 now = bpf_get_current_pid_tgid();
	__u64 before = (now & 0xffffffff00000000ULL) | old_pid;
	struct pg_exec_awaited *found, kept;

	if (before == now)
		return;
	pg_move(enforcer, &before, &now);
	found = pg_lookup(exec_awaited, &before);
	if (!found)
		return;
	kept = *found;
	pg_delete(exec_awaited, &before);
	pg_move_returns(&kept, before, now);
}

PG_INLINE void pg_add_entered(__u32 number)
{
	__u32 zero = 0, *entered = pg_lookup(entered, &zero);

	if (entered)
		__sync_fetch_and_add(entered, number);
}

/* One that cannot be noted is the container's from now on: its setup may meet a policy. */
PG_INLINE void pg_enter(__u32 tgid, __u64 id, __u64 until)
{
	struct pg_entering value = {.cgroup = id, .until = until};
	long error;

	pg_add_entered(1); /* before it is there: whoever looks for it asks this first */
	error = pg_update(entering, &tgid, &value, BPF_NOEXIST);
	if (!error)
		return;
	pg_add_entered(-1);
	if (error != -PG_EEXIST)
		pg_failed(error);
}

PG_INLINE void pg_leave_entering(__u32 tgid)
{
	__u32 zero = 0, *entered = pg_lookup(entered, &zero);

	if (entered && pg_once(*entered) && !pg_delete(entering, &tgid))
		__sync_fetch_and_add(entered, -1);
}

/* How many pid namespaces are above the task's own; that of nobody where it cannot be told. */
PG_INLINE unsigned int pg_pid_level(const struct task_struct *task)
{
	struct pid *pid = NULL;
	unsigned int level = ~0U;

	pg_read(pid, &task->thread_pid);
	if (pid)
		pg_read(level, &pid->level);
	return level;
}

PG_INLINE int pg_in_host_pid_ns(const struct task_struct *task)
{
	return pg_pid_level(task) == 0;
}

/*
 * A process that a process of the host forked into a container's pid namespace, and that has not called execve: runc
 * puts its helper into the cgroup only when it is there. One of the container's own has a parent in the container, or
 * has called execve.
 */
PG_INLINE int pg_is_sent_in(const struct task_struct *task)
{
	struct task_struct *parent = NULL;
	unsigned int flags = 0;

	pg_read(flags, &task->flags);
	if (!(flags & PG_PF_FORKNOEXEC))
		return 0;
	pg_read(parent, &task->real_parent);
	return parent && pg_in_host_pid_ns(parent);
}

/*
 * cgroup_attach_task(struct cgroup *dst_cgrp, const char *path, struct task_struct *task, bool threadgroup): task is in
 * dst_cgrp now. A process of the host that another one of the host puts into a container's cgroup is the runtime's
 * helper of an exec until it calls execve. One of a container is not: it has a pid namespace of its own, and who moves
 * it within the container is in the container too. Nor is one that moves itself: it may come from the container.
 */
int pg_cgroup_attach(struct bpf_raw_tracepoint_args *ctx)
{
	const struct cgroup *cgroup = (const struct cgroup *)ctx->args[0];
	const struct task_struct *task = (const struct task_struct *)ctx->args[2];
	struct pg_entering *found;
	__u64 id, mine;
	pid_t tgid = 0;

	if (!pg_on_v2(cgroup))
		return 0;
	id = pg_cgroup_id(cgroup);
	if (!pg_lookup(bindings, &id))
		return 0;
	pg_read(tgid, &task->tgid);
	found = pg_lookup(entering, &tgid);
	if ((pg_in_host_pid_ns(task) || pg_is_sent_in(task)) && tgid != bpf_get_current_pid_tgid() >> 32 &&
	    !pg_own_record(&mine)) {
		if (found)
			pg_once(found->until) = 0;
		else
			pg_enter(tgid, id, 0);
	} else if (found && pg_once(found->until)) {
		pg_leave_entering(tgid);
	}
	return 0;
}

/*
 * Whether the current process makes a child as runtimes make the helper of an exec: in another pid namespace than its
 * own, or for its own parent (CLONE_PARENT).
 */
PG_INLINE int pg_is_sending(const struct task_struct *child)
{
	const struct task_struct *me = (const struct task_struct *)bpf_get_current_task();
	struct task_struct *parent = NULL;
	unsigned int level;

	pg_read(parent, &child->real_parent);
	level = pg_pid_level(child);
	return parent != me || (level && level != pg_pid_level(me));
}

/*
 * The helper's children are helpers too, and so is a child that the host makes in the container's cgroup at once
 * (CLONE_INTO_CGROUP). One that is about to be put there has a while for it, of which the move makes an end.
 */
PG_INLINE void pg_fork_helper(const struct task_struct *child, __u32 tgid, __u32 parent_tgid)
{
	struct pg_entering *from = pg_lookup(entering, &parent_tgid);
	struct css_set *set = NULL;
	struct cgroup *cgroup = NULL;
	__u64 mine, id;
	int into;

	pg_read(set, &child->cgroups);
	pg_read(cgroup, &set->dfl_cgrp);
	id = pg_cgroup_id(cgroup);
	if (from && !pg_once(from->until)) {
		pg_enter(tgid, id, 0);
		return;
	}
	into = id != bpf_get_current_cgroup_id() && pg_lookup(bindings, &id);
	if ((into || pg_is_sending(child)) && !pg_own_record(&mine))
		pg_enter(tgid, id, into ? 0 : bpf_ktime_get_ns() + PG_SENT_NS);
}

/* sched_process_fork(struct task_struct *parent, struct task_struct *child): not of a new thread. */
int pg_fork(struct bpf_raw_tracepoint_args *ctx)
{
	const struct task_struct *child = (const struct task_struct *)ctx->args[1];
	__u32 parent_tgid = bpf_get_current_pid_tgid() >> 32;
	pid_t tgid = 0;

	pg_read(tgid, &child->tgid);
	if (tgid == parent_tgid)
		return 0;
	pg_fork_helper(child, tgid, parent_tgid);
	pg_follow(ctx, PG_LINEAGE_FORK);
	return 0;
}

/* sched_process_exit(struct task_struct *p): the process is gone with its last thread, and its id is anybody's. */
int pg_exit(struct bpf_raw_tracepoint_args *ctx)
{
	const struct task_struct *task = (const struct task_struct *)ctx->args[0];
	struct signal_struct *signal = NULL;
	int live = 1;

	pg_read(signal, &task->signal);
	if (signal)
		pg_read(live, &signal->live.counter);
	if (live)
		return 0;
	pg_leave_entering(bpf_get_current_pid_tgid() >> 32);
	pg_follow(ctx, PG_LINEAGE_EXIT);
	return 0;
}

/*
 * sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm): the new image is in place and
 * has run nothing yet. Only the init process that the binding names arms the container.
 */
int pg_exec(struct bpf_raw_tracepoint_args *ctx)
{
	pg_arm();
	pg_leave_entering(bpf_get_current_pid_tgid() >> 32);
	pg_keep_exec((__u32)ctx->args[1], (const struct linux_binprm *)ctx->args[2]);
	pg_move_thread((__u32)ctx->args[1]);
	pg_follow(ctx, PG_LINEAGE_EXEC);
	return 0;
}

/* selfcheck: ARRAY[1]: what BPF sees of whoever runs this program through BPF_PROG_TEST_RUN. */
struct pg_selfcheck {
	__u64 cgroup;
	__u64 pid_tgid;
};
_Static_assert(sizeof(struct pg_selfcheck) == 16, "selfcheck value");

int pg_self(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 zero = 0;
	struct pg_selfcheck *out = pg_lookup(selfcheck, &zero);

	if (!out)
		return 0;
	out->cgroup = bpf_get_current_cgroup_id();
	out->pid_tgid = bpf_get_current_pid_tgid();
	return 0;
}
