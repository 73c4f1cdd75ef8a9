/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The two ends of a call.
 *
 * A text argument that is not resident at a system call's entry cannot be read there (a tracepoint must not fault). The
 * call is then kept in the map deferred and checked at its exit, when the kernel itself has faulted the page in; a
 * signal reaches the process at the same point either way, on its way back to user mode. Programs before the one that
 * could not read have checked the call already: it and those after it go on at the exit.
 *
 * A rule that is reported at the return leaves what it has in the map returns. When the rules of the hook point have
 * changed in between, all of them look at the entry's inputs again, for the sake of those that wait.
 */
#ifndef PG_LIB_SYSCALL_H
#define PG_LIB_SYSCALL_H

#include "lib/rules.h"

#ifndef PG_FILE
#define PG_FILE 1
#endif

/* struct syscall_trace_enter and _exit of kernel/trace/trace.h, as BPF sees them; attach checks them against the format
 * file. */
struct pg_sys_enter {
	__u64 common;
	__u64 nr;
	__u64 args[6];
};

struct pg_sys_exit {
	__u64 common;
	__u64 nr;
	__s64 ret;
};

/* Keeps a call for its exit. Gives 0 when there is no room: then it is checked at once, with what can be read. */
PG_INLINE int pg_defer(const struct pg_call *call, __u32 attachment, __u32 generation, __u32 chunk)
{
	struct pg_deferred value = {.attachment = attachment, .generation = generation, .chunk = chunk};
	__u64 key = bpf_get_current_pid_tgid();
	long error;

	__builtin_memcpy(value.in, call->in, sizeof(value.in));
	error = pg_update(deferred, &key, &value, BPF_ANY);
	if (error) {
		pg_failed(error);
		pg_count(PG_COUNT_UNREADABLE);
		return 0;
	}
	pg_count(PG_COUNT_DEFERRED);
	return 1;
}

/* A text argument that could not be read: at a system call's entry the whole call waits for its exit. A null pointer is
 * a value, not a fault. */
PG_INLINE int pg_unreadable(long error, __u64 address, int waits)
{
	if (!error || !address)
		return 0;
	if (!waits)
		pg_count(PG_COUNT_UNREADABLE);
	return waits;
}

/* The path of a successful execve is in no user memory any more: bpf/base/base.c kept the kernel's copy, for all
 * programs of the hook point. */
PG_INLINE long pg_read_exec_string(struct pg_string *out)
{
	__u64 key = bpf_get_current_pid_tgid();
	struct pg_exec_text *text = pg_lookup(exec_text, &key);
	long n = -2;

	if (text)
		n = bpf_probe_read_kernel_str(out->data, PG_STRING_MAX + 1, text->data);
	out->flags = n < 1 ? PG_STRING_UNREADABLE : 0;
	out->len = n < 1 ? 0 : n - 1;
	out->mode = 0;
	return n < 0 ? n : 0;
}

PG_INLINE int pg_is_leader(__u64 thread)
{
	return (__u32)thread == thread >> 32;
}

/* The last program of the hook point has checked it. */
PG_INLINE void pg_forget_exec(void)
{
	__u64 key = bpf_get_current_pid_tgid();

	pg_delete(exec_text, &key);
	if (!pg_is_leader(key))
		pg_delete(exec_awaited, &key);
}

PG_INLINE void pg_return_lost(long error)
{
	pg_failed(error);
	pg_count(PG_COUNT_RETURN_LOST);
}

/* Keeps the rules that wait, and their event when there is one, until the call returns. */
PG_INLINE void pg_keep_return(struct pg_call *call, const struct pg_event *event, struct pg_return_key key,
			      __u32 generation)
{
	struct pg_awaited awaited = {.generation = generation};
	__u32 zero = 0, size = event ? pg_once(event->size) : 0;
	struct pg_return *value = pg_lookup(return_scratch, &call->context);
	long error;

	if (!value)
		return;
	if (size > PG_RETURN_DATA)
		size = 0;
	value->rules = call->awaiting;
	value->size = size;
	__builtin_memcpy(value->waiting, call->waiting, sizeof(value->waiting));
	bpf_probe_read_kernel(value->hash, sizeof(value->hash), call->hash);
	if (event && size) {
		pg_opaque(size);
		size &= PG_RETURN_DATA * 2 - 1;
		if (size <= PG_RETURN_DATA)
			bpf_probe_read_kernel(value->event, size, event);
	}
	error = pg_update(returns, &key, value, BPF_ANY);
	if (error) {
		pg_return_lost(error);
		return;
	}
	key.chunk = zero;
	__builtin_memcpy(awaited.in, call->in, sizeof(awaited.in));
	error = pg_update(awaited, &key, &awaited, BPF_ANY);
	if (error)
		pg_return_lost(error);
}

/* The same for an execve: bpf/base/base.c has to find it when the thread gets another id. */
PG_INLINE void pg_keep_exec_return(struct pg_call *call, const struct pg_event *event, struct pg_return_key key,
				   __u32 generation)
{
	struct pg_exec_awaited value = {.attachment = key.attachment, .chunks = key.chunk + 1};
	long error = 0;

	if (!pg_is_leader(key.pid_tgid))
		error = pg_update(exec_awaited, &key.pid_tgid, &value, BPF_ANY);
	if (error)
		pg_return_lost(error);
	else
		pg_keep_return(call, event, key, generation);
}

/* Takes up what a chunk kept at the entry. */
PG_INLINE void pg_take_return(struct pg_call *call, const struct pg_return_key *key)
{
	struct pg_return *value = pg_lookup(returns, key);
	struct pg_event *event = pg_event_of(call->context);
	__u32 size;

	if (!value || !event)
		return;
	call->awaiting = value->rules;
	__builtin_memcpy(call->waiting, value->waiting, sizeof(call->waiting));
	bpf_probe_read_kernel(call->hash, sizeof(call->hash), value->hash);
	size = value->size;
	pg_opaque(size);
	size &= PG_RETURN_DATA * 2 - 1;
	if (size && size <= PG_RETURN_DATA && !bpf_probe_read_kernel(event, size, value->event))
		call->kept = 1;
	pg_delete(returns, key);
}

PG_INLINE void pg_resume_deferred(struct pg_call *call, const struct pg_deferred *late, __u32 generation)
{
	__builtin_memcpy(call->in, late->in, sizeof(call->in));
	call->first = late->generation == generation ? late->chunk : 0;
}

/* The context of a call that ends, when anything of it is left to do. defers and returns are constants. */
PG_INLINE struct pg_call *pg_resume(__u32 attachment, __u32 generation, __u64 frame, int defers, int returns)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct pg_return_key key = {.pid_tgid = thread, .frame = frame, .attachment = attachment};
	struct pg_deferred *late = defers ? pg_lookup(deferred, &thread) : NULL;
	struct pg_awaited *awaited = returns ? pg_lookup(awaited, &key) : NULL;
	struct pg_call *call;

	if (late && late->attachment != attachment) {
		pg_delete(deferred, &thread);
		late = NULL;
	}
	if (!late && !awaited)
		return NULL;
	call = pg_begin();
	if (!call)
		return NULL;
	call->first = PG_ALL_CHUNKS;
	call->ended = 1;
	if (awaited) {
		__builtin_memcpy(call->in, awaited->in, sizeof(call->in));
		call->again = awaited->generation != generation;
		pg_delete(awaited, &key);
	}
	if (late) {
		pg_resume_deferred(call, late, generation);
		pg_delete(deferred, &thread);
	}
	return call;
}

#endif
