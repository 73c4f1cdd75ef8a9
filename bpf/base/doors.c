/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is done about containers that no hook announced, at their first execve; and the quarantine that a hook puts a
 * container into when the agent does not answer. Compiled behind base.c, in one unit.
 */
#undef PG_FILE
#define PG_FILE 3

#define PG_ALREADY_RUNS (~0ULL)

PG_INLINE __u32 pg_parent_tgid(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task(), *parent = NULL;
	pid_t tgid = 0;

	pg_read(parent, &task->real_parent);
	if (parent)
		pg_read(tgid, &parent->tgid);
	return tgid;
}

/*
 * Binds a cgroup to every policy. init_pid: of the process whose execve ends the setup, 0 when there is none to wait
 * for. A cgroup that is bound already stays what it is.
 */
PG_INLINE long pg_put_in_quarantine(__u64 id, __u32 init_pid)
{
	struct pg_binding record = {};
	long error;

	if (pg_lookup(bindings, &id))
		return 0;
	record.self = id;
	record.owner = PG_QUARANTINE;
	record.workload = PG_WORKLOAD_QUARANTINED;
	record.state = init_pid ? PG_STATE_PENDING : PG_STATE_ARMED;
	record.init_pid = init_pid;
	if (init_pid) {
		error = pg_update(arming, &id, &init_pid, BPF_ANY);
		if (error) {
			pg_failed(error);
			return error;
		}
	}
	error = pg_update(bindings, &id, &record, BPF_NOEXIST);
	if (error && error != -PG_EEXIST) {
		pg_failed(error);
		if (init_pid)
			pg_delete(arming, &id);
		return error;
	}
	return 0;
}

/*
 * Run by a hook through BPF_PROG_TEST_RUN. args[0]: the cgroup, 0 for the caller's own. args[1]: the held init process,
 * 0 for the caller's parent, PG_ALREADY_RUNS for none. Gives 0 or an errno below zero.
 */
int pg_quarantine(struct bpf_raw_tracepoint_args *ctx)
{
	__u64 id = ctx->args[0], init = ctx->args[1];
	__u32 init_pid = (__u32)init;

	if (!id)
		id = bpf_get_current_cgroup_id();
	if (init == PG_ALREADY_RUNS)
		init_pid = 0;
	else if (!init)
		init_pid = pg_parent_tgid();
	return (int)pg_put_in_quarantine(id, init_pid);
}

PG_INLINE void pg_name_process(struct pg_notice *notice)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct pid *pid = NULL;
	unsigned int level = 0;
	int number = 0;

	notice->pid = bpf_get_current_pid_tgid() >> 32;
	notice->parent = pg_parent_tgid();
	pg_read(pid, &task->thread_pid);
	if (pid)
		pg_read(level, &pid->level);
	if (pid && level < 32) /* MAX_PID_NS_LEVEL */
		pg_read(number, &pid->numbers[level].nr);
	notice->level = level;
	notice->ns_pid = number;
	bpf_get_current_comm(notice->comm, sizeof(notice->comm));
}

PG_INLINE void pg_name_cgroup(struct pg_notice *notice, const struct cgroup *cgroup)
{
	struct kernfs_node *node = NULL;
	const char *name = NULL;
	__u64 above = 0;

	pg_read(node, &cgroup->kn);
	pg_read(name, &node->name);
	bpf_probe_read_kernel_str(notice->name, sizeof(notice->name), name);
	pg_parent_cgroup(cgroup, &above);
	notice->above = above;
}

PG_INLINE void pg_notify(__u32 kind, __u32 treatment, __u64 id, const struct cgroup *cgroup)
{
	struct pg_notice notice = {.kind = kind, .treatment = treatment, .cgroup = id};

	notice.time = bpf_ktime_get_boot_ns();
	if (kind == PG_NOTICE_EXEC)
		pg_name_process(&notice);
	if (cgroup)
		pg_name_cgroup(&notice, cgroup);
	if (bpf_ringbuf_output(pg_map(notices), &notice, sizeof(notice), 0))
		pg_count(PG_COUNT_NOTICE_LOST);
}

PG_INLINE int pg_is_hex(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
}

#define PG_ID_LEN 64
#define PG_SCOPE_LEN 6	/* ".scope" */
#define PG_CONMON_LEN 7 /* "conmon-" */
#define pg_char(name, at) ((name)[(at) & (PG_NAME_MAX - 1)])

/*
 * Whether a directory's name is a container's: ID, PREFIX-ID.scope, with 64 hex digits. conmon, which watches a
 * container from outside, has a scope with the container's id too.
 */
PG_INLINE int pg_names_container(const char *name, long length)
{
	__u32 end = (__u32)length - 1, start, i;

	if (length <= PG_ID_LEN || length > PG_NAME_MAX - 1)
		return 0;
	if (pg_char(name, end - 2) == 'p' && pg_char(name, end - PG_SCOPE_LEN) == '.')
		end -= PG_SCOPE_LEN;
	if (end < PG_ID_LEN)
		return 0;
	start = end - PG_ID_LEN;
	for (i = 0; i < PG_ID_LEN; i++)
		if (!pg_is_hex(pg_char(name, start + i)))
			return 0;
	if (start >= PG_CONMON_LEN && pg_char(name, start - 7) == 'c' && pg_char(name, start - 4) == 'm' &&
	    pg_char(name, start - 2) == 'n')
		return 0;
	return start == 0 || pg_char(name, start - 1) == '-';
}

/* "container": the one cgroup below the container's in which some versions of crun start it. */
PG_INLINE int pg_is_inner(const char *name, long length)
{
	return length == 10 && name[0] == 'c' && name[1] == 'o' && name[2] == 'n' && name[3] == 't' && name[4] == 'a' &&
	       name[5] == 'i' && name[6] == 'n' && name[7] == 'e' && name[8] == 'r';
}

/*
 * cgroup_mkdir: notes a container's cgroup before any process is in it. One below a container's record is nested in
 * that one, whatever its name.
 */
int pg_watch_cgroup(struct bpf_raw_tracepoint_args *ctx)
{
	const struct cgroup *cgroup = (const struct cgroup *)ctx->args[0];
	struct pg_stranger stranger = {};
	struct pg_binding *above;
	struct pg_doors *doors;
	struct kernfs_node *node = NULL;
	const char *name = NULL;
	char text[PG_NAME_MAX] = {};
	__u64 id, parent_id = 0;
	__u32 zero = 0;
	long length;

	if (!pg_on_v2(cgroup) || !pg_parent_cgroup(cgroup, &parent_id))
		return 0;
	above = pg_lookup(bindings, &parent_id);
	if (above && !(pg_once(above->flags) & PG_FLAG_POD))
		return 0;
	pg_read(node, &cgroup->kn);
	pg_read(name, &node->name);
	length = bpf_probe_read_kernel_str(text, sizeof(text), name);
	if (!pg_names_container(text, length) && !(pg_is_inner(text, length) && pg_lookup(strangers, &parent_id)))
		return 0;
	id = pg_cgroup_id(cgroup);
	stranger.seen = bpf_ktime_get_boot_ns();
	if (pg_update(strangers, &id, &stranger, BPF_ANY)) {
		pg_count(PG_COUNT_UNWATCHED);
		return 0;
	}
	doors = pg_lookup(doors, &zero);
	if (doors && pg_once(doors->treatment) == PG_TREAT_HOLD)
		pg_notify(PG_NOTICE_CGROUP, PG_TREAT_REPORT, id, cgroup);
	return 0;
}

int pg_forget_cgroup(struct bpf_raw_tracepoint_args *ctx)
{
	const struct cgroup *cgroup = (const struct cgroup *)ctx->args[0];
	__u64 id;

	if (!pg_on_v2(cgroup))
		return 0;
	id = pg_cgroup_id(cgroup);
	pg_delete(strangers, &id);
	return 0;
}

/*
 * What is to be done now: a hold that nobody would end is none. Nor is anyone killed for want of an agent: the agent's
 * own container could not start.
 */
PG_INLINE __u32 pg_treatment(const struct pg_doors *doors)
{
	__u32 treatment = pg_once(doors->treatment);
	__u64 heartbeat =
		pg_once(doors->heartbeat); /* before the clock: a beat in between is not one from the future */

	if (treatment != PG_TREAT_HOLD || bpf_ktime_get_boot_ns() - heartbeat <= pg_once(doors->stale))
		return treatment;
	return pg_once(doors->fallback) == PG_FALL_OPEN ? PG_TREAT_REPORT : PG_TREAT_STRICT;
}

/*
 * Stopped, and bound to every policy: whoever else continues it gains nothing. Gives what became of it: one that could
 * not be stopped is bound all the same.
 */
PG_INLINE __u32 pg_hold(__u64 id)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct pg_held held = {.cgroup = id};
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	long error;

	held.since = bpf_ktime_get_boot_ns();
	pg_read(held.start, &task->start_boottime);
	pg_put_in_quarantine(id, 0);
	error = pg_update(held, &tgid, &held, BPF_ANY);
	if (error) {
		pg_failed(error);
		return PG_TREAT_STRICT;
	}
	error = bpf_send_signal(19); /* SIGSTOP */
	if (!error) {
		pg_count(PG_COUNT_HELD);
		return PG_TREAT_HOLD;
	}
	pg_failed(error);
	pg_count(PG_COUNT_SIGNAL_FAILED);
	pg_delete(held, &tgid);
	return PG_TREAT_STRICT;
}

PG_INLINE int pg_is_our_hook(const struct linux_binprm *bprm)
{
	__u32 zero = 0;
	struct pg_hook *hook = pg_lookup(hook, &zero);
	struct super_block *super = NULL;
	struct inode *inode = NULL;
	struct file *file = NULL;
	unsigned long number = 0;
	dev_t device = 0;

	if (!hook || !hook->inode)
		return 0;
	pg_read(file, &bprm->file);
	pg_read(inode, &file->f_inode);
	pg_read(number, &inode->i_ino);
	pg_read(super, &inode->i_sb);
	pg_read(device, &super->s_dev);
	return number == hook->inode && device == hook->device;
}

/* Of a task; NULL when it is gone. */
PG_INLINE const struct mnt_namespace *pg_mounts_of(const struct task_struct *task)
{
	struct mnt_namespace *mounts = NULL;
	struct nsproxy *proxy = NULL;

	pg_read(proxy, &task->nsproxy);
	if (proxy)
		pg_read(mounts, &proxy->mnt_ns);
	return mounts;
}

/*
 * An execve before the container's first one: by the runtime, which starts itself anew while it is put into the cgroup
 * (runc 1.1), or by another's hook, a child of the process that sets the container up. Both share their parent's mount
 * namespace, where an entrypoint's parent is outside of the container.
 */
PG_INLINE int pg_is_setup(const struct pg_doors *doors, const struct pg_stranger *stranger)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task(), *parent = NULL;
	const struct mnt_namespace *mounts;

	if (!pg_once(doors->apart) || !pg_once(stranger->seen) || pg_once(stranger->execs))
		return 0;
	pg_read(parent, &task->real_parent);
	mounts = pg_mounts_of(task);
	return parent && mounts && mounts == pg_mounts_of(parent);
}

/* sched_process_exec in the cgroup of a container that no hook announced. It has run nothing of the new image yet. */
int pg_door(struct bpf_raw_tracepoint_args *ctx)
{
	__u64 id = bpf_get_current_cgroup_id(), found;
	struct pg_stranger *stranger = pg_lookup(strangers, &id);
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct css_set *set = NULL;
	struct cgroup *cgroup = NULL;
	struct pg_binding *binding;
	struct pg_doors *doors;
	__u32 zero = 0, treatment, before;

	if (!stranger)
		return 0;
	doors = pg_lookup(doors, &zero);
	if (!doors)
		return 0;
	treatment = pg_treatment(doors);
	if (pg_is_our_hook((const struct linux_binprm *)ctx->args[2]) || pg_is_setup(doors, stranger))
		return 0;
	binding = pg_own_record(&found);
	if (binding && !(treatment == PG_TREAT_HOLD && pg_once(binding->owner) == PG_QUARANTINE))
		return 0;
	before = pg_once(stranger->execs);
	__sync_fetch_and_add(&stranger->execs, 1);
	if (!before)
		pg_count(PG_COUNT_UNANNOUNCED);
	else if (treatment == PG_TREAT_REPORT)
		return 0;
	if (treatment == PG_TREAT_HOLD)
		treatment = pg_hold(id);
	else if (treatment == PG_TREAT_STRICT && pg_put_in_quarantine(id, 0))
		treatment = PG_TREAT_REPORT; /* it runs unguarded, and is told as such */
	pg_read(set, &task->cgroups);
	pg_read(cgroup, &set->dfl_cgrp);
	pg_notify(PG_NOTICE_EXEC, treatment, id, cgroup);
	return 0;
}
