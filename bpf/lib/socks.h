/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Sockets and their owners: TrackSock, UntrackSock, and the calls that are another process's than the one that runs.
 *
 * What a packet sets off runs in whatever the processor was doing. At a hook point whose rules look at a socket, such
 * a call is asked of the process that tracked the socket: its policies, its conditions, its name in the event. What can
 * only be done to the process that runs is then left out, and has failed. Only hook points with such rules, and only
 * while a policy tracks sockets, include this (agent/policy/codegen_sock.py).
 *
 * The first process that tracks a socket keeps it while it lives: an interrupt in the middle of somebody else's call
 * cannot take it away.
 */
#ifndef PG_LIB_SOCKS_H
#define PG_LIB_SOCKS_H

#include "lib/net.h"
#include "lib/path.h"
#include "lib/process.h"
#include "lib/rules.h"
#include "maps/bindings.h"
#include "maps/events.h"
#include "maps/socks.h"

#define pg_socks_failed(result) pg_error_at((5 << 16) | __LINE__, result)

#define PG_TCP_CLOSE 7 /* include/net/tcp_states.h */
#define PG_ESRCH 3
#define PG_EAGAIN 11
#define PG_EINVAL 22
#define PG_SUBJECT_THREADS 4 /* that are looked at: of those in the list only the first has ended for long */

/* struct sock of a struct socket, of a packet; NULL when there is none. */
PG_INLINE const struct sock *pg_sock_of_socket(__u64 address)
{
	const struct sock *sock = NULL;

	pg_read(sock, &((const struct socket *)address)->sk);
	return sock;
}

PG_INLINE const struct sock *pg_sock_of_skb(__u64 address)
{
	const struct sock *sock = NULL;

	pg_read(sock, &((const struct sk_buff *)address)->sk);
	return sock;
}

/* Of a socket that TCP keeps only the beginning of there is no owner. */
PG_INLINE int pg_is_whole_sock(const struct sock *sock)
{
	struct pg_net net = {};

	if (pg_read(net.family, &sock->__sk_common.skc_family))
		return 0;
	bpf_probe_read_kernel(&net.state, sizeof(net.state), (const __u8 *)&sock->__sk_common.skc_state);
	return !pg_is_mini_sock(&net);
}

PG_INLINE __u64 pg_sock_inode(const struct sock *sock)
{
	const struct socket *socket = NULL;
	const struct inode *inode = NULL;
	const struct file *file = NULL;
	unsigned long number = 0;

	pg_read(socket, &sock->sk_socket);
	if (socket)
		pg_read(file, &socket->file);
	if (file)
		pg_read(inode, &file->f_inode);
	if (inode)
		pg_read(number, &inode->i_ino);
	return number;
}

PG_INLINE __u64 pg_sock_tuple(const struct sock *sock)
{
	const struct sock_common *common = &sock->__sk_common;
	__u64 v4 = 0, v6[2] = {}, hash;
	__u32 ports = 0;

	bpf_probe_read_kernel(&v4, sizeof(v4), &common->skc_daddr);	  /* and skc_rcv_saddr */
	bpf_probe_read_kernel(&ports, sizeof(ports), &common->skc_dport); /* and skc_num */
#ifndef PODGATE_LACKS_sock_common_skc_v6_daddr
	bpf_probe_read_kernel(v6, sizeof(v6), &common->skc_v6_daddr);
#endif
	hash = pg_hash(pg_hash(PG_HASH_BEGIN, v4), ports);
	return pg_hash(pg_hash(hash, v6[0]), v6[1]);
}

/*
 * Whether what is at the address is still the socket that was tracked. While it has the file that it had, addresses and
 * ports may change, by connect(2); they are noted, for when the file is closed and the connection lives on.
 */
PG_INLINE int pg_is_tracked(struct pg_owner *stored, const struct pg_owner *copy, const struct sock *sock)
{
	__u64 inode = pg_sock_inode(sock), tuple = pg_sock_tuple(sock);

	if (copy->inode && inode) {
		if (copy->inode != inode)
			return 0;
		if (copy->tuple != tuple)
			pg_once(stored->tuple) = tuple;
		return 1;
	}
	if (copy->tuple != tuple)
		return 0;
	if (inode)
		pg_once(stored->inode) = inode;
	return 1;
}

/* Whose a socket is, when it is tracked. An owner that was found before stays. */
PG_INLINE void pg_find_owner(struct pg_owner *out, const struct sock *sock)
{
	__u64 key = (__u64)sock;
	struct pg_owner *stored;

	if (!key || out->sock)
		return;
	stored = pg_lookup(socks, &key);
	if (!stored)
		return;
	__builtin_memcpy(out, stored, sizeof(*out));
	if (out->sock != key || !pg_is_whole_sock(sock) || !pg_is_tracked(stored, out, sock) ||
	    pg_once(stored->sock) != key)
		out->sock = 0;
}

/* A thread of the owner's process by its place in the list of threads; NULL when it is none. */
PG_INLINE struct task_struct *pg_owner_thread(const struct pg_owner *owner, const struct list_head *node)
{
	struct task_struct *task = (void *)node - offsetof(struct task_struct, thread_node);
	struct signal_struct *process = NULL;
	pid_t tgid = 0;

	pg_read(process, &task->signal);
	pg_read(tgid, &task->tgid);
	return (__u64)process == owner->process && (__u32)tgid == owner->pid && pg_start_of(task) == owner->start
		       ? task
		       : NULL;
}

/*
 * A thread of the process that a call is asked of; NULL when it has ended. The first one may have ended alone: it stays
 * in the list without memory, binary and namespaces; others leave the list when they end. An execve makes another
 * thread the first one.
 */
PG_INLINE struct task_struct *pg_subject_task(const struct pg_owner *owner)
{
	const struct signal_struct *process = (const struct signal_struct *)owner->process;
	struct task_struct *task, *found = NULL;
	const struct list_head *node = NULL;
	const struct mm_struct *mm = NULL;
	int i;

	if (!owner->sock)
		return pg_current();
	pg_read(node, &process->thread_head.next);
#pragma clang loop unroll(disable)
	for (i = 0; i < PG_SUBJECT_THREADS && !mm; i++) {
		task = pg_owner_thread(owner, node);
		if (!task)
			break;
		found = task;
		pg_read(mm, &task->mm);
		pg_read(node, &node->next);
	}
	return found;
}

PG_INLINE __u32 pg_subject_tgid(const struct pg_owner *owner)
{
	return owner->sock ? owner->pid : pg_tgid();
}

PG_INLINE __u64 pg_subject_start(const struct pg_owner *owner)
{
	return owner->sock ? owner->start : pg_start_of(pg_current());
}

/* Whether the process that runs is another one. */
PG_INLINE int pg_is_foreign(const struct pg_owner *owner)
{
	return owner->sock && (owner->pid != pg_tgid() || owner->start != pg_start_of(pg_current()));
}

PG_INLINE struct pg_binding *pg_owner_binding(const struct pg_owner *owner, __u64 *key)
{
	__u64 id = owner->record, holder;
	struct pg_binding *binding;

	*key = 0;
	if (!id)
		return pg_host();
	binding = pg_lookup(bindings, &id);
	if (!binding)
		return NULL;
	holder = pg_once(binding->owner);
	if (pg_once(binding->self) != id)
		return NULL;
	*key = holder;
	return holder == id ? binding : pg_lookup(bindings, &holder);
}

/*
 * As pg_select, of whoever the call is asked of. Nobody's policies apply to a process whose container is gone: gives 0
 * then.
 */
PG_INLINE int pg_select_subject(__u64 *p, __u32 *workload, __u32 words, const struct pg_owner *owner)
{
	struct pg_binding *binding;
	int attempt, word, n;
	__u64 key;

	if (!owner->sock)
		return pg_select(p, workload, words, 0);
	for (attempt = 0; attempt < 3; attempt++) {
		binding = pg_owner_binding(owner, &key);
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
	return 0;
}

/* The binary of whoever the call is asked of. One that ends meanwhile, or calls execve, has none. */
PG_INLINE long pg_read_subject_binary(struct pg_string *out, const struct pg_owner *owner)
{
	struct task_struct *task = pg_subject_task(owner);
	const struct mm_struct *mm = NULL, *then = NULL;
	long error = -PG_EFAULT;

	if (task) {
		pg_read(mm, &task->mm);
		error = pg_read_binary_of(out, task);
		pg_read(then, &task->mm);
	}
	return !error && mm && mm == then && task == pg_subject_task(owner) ? 0 : pg_no_value(out, -PG_EFAULT);
}

PG_INLINE long pg_read_subject_parent_binary(struct pg_string *out, const struct pg_owner *owner)
{
	struct task_struct *task = pg_subject_task(owner);
	long error = task ? pg_read_parent_binary_of(out, task) : -PG_EFAULT;

	return !error && task == pg_subject_task(owner) ? 0 : pg_no_value(out, -PG_EFAULT);
}

/* The head of an event whose process is the owner. */
PG_INLINE void pg_event_subject(struct pg_event *event, const struct pg_owner *owner)
{
	if (!owner->sock)
		return;
	event->flags |= PG_EVENT_SOCKET;
	event->cgroup = owner->cgroup;
	event->pid = owner->pid;
	event->tid = owner->tid;
	event->uid = owner->uid;
	event->start = owner->start;
	__builtin_memcpy(event->comm, owner->comm, sizeof(event->comm));
}

/* As pg_limit, among the events of whoever the call is asked of. */
PG_INLINE void pg_limit_subject(struct pg_hit *hit, const struct pg_owner *owner, int scope, __u64 values,
				__u64 interval)
{
	__u64 id = owner->sock ? (__u64)owner->pid << 32 | owner->tid : bpf_get_current_pid_tgid();
	__u64 whose = scope == PG_RATE_THREAD ? id : scope == PG_RATE_PROCESS ? id >> 32 : 0;

	if (pg_is_limited(pg_selector_key(hit), whose, values, interval))
		hit->flags |= PG_HIT_LIMITED;
}

/* What a hit would do to the process that runs, which is not the one that is meant. */
PG_INLINE int pg_withhold_hit(struct pg_hit *hit)
{
	struct pg_stat *stat;

	hit->flags &= ~PG_HIT_CLEANUP;
	if ((!hit->signals && !(hit->flags & PG_HIT_NOTIFY)) || pg_monitors(hit->bit))
		return 0;
	stat = pg_stat(pg_selector_key(hit));
	if (hit->signals & (1ULL << (PG_SIGKILL - 1)))
		pg_tally(stat, PG_STAT_SIGKILL);
	if (hit->signals & ~(1ULL << (PG_SIGKILL - 1)))
		pg_tally(stat, PG_STAT_SIGNAL);
	if (hit->flags & PG_HIT_NOTIFY)
		pg_tally(stat, PG_STAT_NOTIFY_ENFORCER);
	pg_tally(stat, PG_STAT_FAILED);
	hit->flags &= ~PG_HIT_NOTIFY;
	hit->signals = 0;
	return 1;
}

/* As pg_settle, of a call that may be another process's than the one that runs. */
PG_INLINE __u32 pg_settle_subject(struct pg_call *call, const struct pg_owner *owner, __u32 rules, __u32 may,
				  __u64 *signals)
{
	int withheld = 0;
	__u32 i, flags;

	if (may & (PG_HIT_SIGNALS | PG_HIT_NOTIFY | PG_HIT_CLEANUP) && pg_is_foreign(owner)) {
		for (i = 0; i < rules; i++) {
			if (i >= pg_once(call->hits))
				break;
			withheld |= pg_withhold_hit(&call->hit[i & (PG_MAX_HITS - 1)]);
		}
	}
	flags = pg_settle(call, rules, may, signals);
	if (withheld)
		call->error = -PG_ESRCH;
	return flags;
}

/* Under which key the policies of the process that runs are found, now and later. Gives 0 when there is no answer. */
PG_INLINE int pg_own_key(__u64 *key)
{
	int attempt;
	__u64 own;

	for (attempt = 0; attempt < 3; attempt++) {
		if (!pg_subject(key, 0))
			continue;
		if (*key == PG_QUARANTINE && pg_own_record(&own))
			*key = own; /* it will be identified, or stay in quarantine */
		return 1;
	}
	pg_count(PG_COUNT_STALE_BINDING);
	return 0;
}

PG_INLINE long pg_write_owner(struct pg_owner *out, const struct sock *sock)
{
	const struct signal_struct *process = NULL;
	__u64 id = bpf_get_current_pid_tgid();
	struct task_struct *task = pg_current();
	const struct mm_struct *mm = NULL;

	pg_read(process, &task->signal);
	pg_read(mm, &task->mm);
	if (!process || !mm)
		return -PG_ESRCH; /* a kernel thread: an interrupt in the middle of it */
	if (!pg_own_key(&out->record))
		return -PG_EAGAIN;
	out->sock = (__u64)sock;
	out->inode = pg_sock_inode(sock);
	out->tuple = pg_sock_tuple(sock);
	out->cgroup = bpf_get_current_cgroup_id();
	out->process = (__u64)process;
	out->start = pg_start_of(task);
	out->pid = id >> 32;
	out->tid = (__u32)id;
	out->uid = (__u32)bpf_get_current_uid_gid();
	out->reserved = 0;
	bpf_get_current_comm(out->comm, sizeof(out->comm));
	return 0;
}

/* Not one that has ended and that its parent has not waited for yet. */
PG_INLINE int pg_owner_lives(const struct pg_owner *owner)
{
	const struct task_struct *task = pg_subject_task(owner);
	const struct mm_struct *mm = NULL;

	if (task)
		pg_read(mm, &task->mm);
	return mm != NULL;
}

/*
 * The socket is that of the process that runs from now on, unless it is another's who lives, or nobody's file any more.
 */
PG_INLINE long pg_track(__u32 context, const struct sock *sock)
{
	struct pg_owner *owner = pg_owner_draft(context);
	__u64 key = (__u64)sock;
	long error;

	if (!owner || !key || !pg_is_whole_sock(sock))
		return -PG_EINVAL;
	owner->sock = 0;
	pg_find_owner(owner, sock);
	if (owner->sock && (pg_owner_lives(owner) || !pg_sock_inode(sock)))
		return 0;
	error = pg_write_owner(owner, sock);
	return error ?: pg_update(socks, &key, owner, BPF_ANY);
}

/* TrackSock of a hit. */
PG_INLINE void pg_track_hit(const struct pg_call *call, const struct pg_hit *hit, const struct sock *sock)
{
	struct pg_stat *stat = pg_stat(pg_selector_key(hit));
	long error = pg_track(call->context, sock);

	pg_tally(stat, PG_STAT_TRACK_SOCK);
	if (!error)
		return;
	pg_socks_failed(error);
	pg_tally(stat, PG_STAT_FAILED);
}

/* UntrackSock of a hit. */
PG_INLINE void pg_untrack_hit(const struct pg_hit *hit, const struct sock *sock)
{
	__u64 key = (__u64)sock;

	pg_delete(socks, &key);
	pg_tally(pg_stat(pg_selector_key(hit)), PG_STAT_TRACK_SOCK);
}

/* Of the raw tracepoint inet_sock_set_state(sk, oldstate, newstate), after all rules: a socket that was closed. */
PG_INLINE void pg_forget_closed(const struct bpf_raw_tracepoint_args *ctx)
{
	__u64 key = ctx->args[0];

	if ((__u32)ctx->args[2] == PG_TCP_CLOSE)
		pg_delete(socks, &key);
}

#endif
