/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * System calls through the tracepoints syscalls/sys_enter_* and sys_exit_*: what the compiled rules of
 * agent/policy/codegen.py stand on. A text argument that is not resident at the entry cannot be read there (a
 * tracepoint must not fault). The call is then kept in the map deferred and checked at its exit, when the kernel itself
 * has faulted the page in; a signal reaches the process at the same point either way, on its way back to user mode.
 */
#ifndef PG_LIB_SYSCALL_H
#define PG_LIB_SYSCALL_H

#include "lib/kernel.h"
#include "maps/bindings.h"
#include "maps/counters.h"
#include "maps/deferred.h"
#include "maps/events.h"
#include "maps/strings.h"

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
PG_INLINE int pg_defer(const struct pg_call *call, __u64 hook)
{
	struct pg_deferred value = {.hook = hook};
	__u64 key = bpf_get_current_pid_tgid();
	long error;

	__builtin_memcpy(value.args, call->args, sizeof(value.args));
	error = pg_update(deferred, &key, &value, BPF_ANY);
	if (error) {
		pg_failed(error);
		pg_count(PG_COUNT_UNREADABLE);
		return 0;
	}
	pg_count(PG_COUNT_DEFERRED);
	return 1;
}

/* Takes back what pg_defer kept for this thread on this hook point. Gives 0 when there is nothing. */
PG_INLINE int pg_resume(__u64 hook, __u64 *args)
{
	__u64 key = bpf_get_current_pid_tgid();
	struct pg_deferred *value = pg_lookup(deferred, &key);
	int found;

	if (!value)
		return 0;
	found = value->hook == hook;
	__builtin_memcpy(args, value->args, sizeof(value->args));
	pg_delete(deferred, &key);
	return found;
}

#define PG_SIGKILL 9

/* When a call is checked. */
#define PG_AT_ENTRY 0
#define PG_AT_EXIT 1
#define PG_AT_EXEC 2 /* the exit of an execve that succeeded: the caller's memory is gone */

/* A text argument that could not be read: at the entry the whole call waits for its exit. A null pointer is a value,
 * not a fault. */
PG_INLINE int pg_unreadable(long error, __u64 address, int when)
{
	if (!error || !address)
		return 0;
	if (when != PG_AT_ENTRY)
		pg_count(PG_COUNT_UNREADABLE);
	return when == PG_AT_ENTRY;
}

/* The path of a successful execve is in no user memory any more: bpf/base/base.c kept the kernel's copy. */
PG_INLINE long pg_read_exec_string(struct pg_string *out)
{
	__u64 key = bpf_get_current_pid_tgid();
	struct pg_exec_text *text = pg_lookup(exec_text, &key);
	long n = -2;

	if (text) {
		n = bpf_probe_read_kernel_str(out->data, PG_STRING_MAX + 1, text->data);
		pg_delete(exec_text, &key);
	}
	out->flags = n < 1 ? PG_STRING_UNREADABLE : 0;
	out->len = n < 1 ? 0 : n - 1;
	return n < 0 ? n : 0;
}

PG_INLINE __s64 pg_arg_s32(const struct pg_call *call, int index)
{
	return (__s32)call->args[index];
}

PG_INLINE __u64 pg_arg_u32(const struct pg_call *call, int index)
{
	return (__u32)call->args[index];
}

PG_INLINE __s64 pg_arg_s64(const struct pg_call *call, int index)
{
	return (__s64)call->args[index];
}

PG_INLINE __u64 pg_arg_u64(const struct pg_call *call, int index)
{
	return call->args[index];
}

PG_INLINE void pg_want_signals(struct pg_call *call, __u64 mask)
{
	call->signals |= mask;
}

PG_INLINE long pg_signal(__u32 signal)
{
	long error = bpf_send_signal(signal);

	if (error) {
		pg_failed(error);
		pg_count(PG_COUNT_SIGNAL_FAILED);
	}
	return error;
}

/*
 * Sends what the rules of a call want sent, once each: bit n for signal n + 1. SIGKILL goes alone, nothing comes after
 * it, and the kernel can have one signal at a time under way on a processor (bpf_send_signal_common of
 * kernel/trace/bpf_trace.c). Gives 0, or the errno with which the kernel refused: then that was not enforced, and the
 * event says so.
 */
PG_INLINE long pg_send_signals(const struct pg_call *call)
{
	__u64 wanted = call->signals;
	long error = 0;
	__u32 signal;

	if (wanted & (1ULL << (PG_SIGKILL - 1)))
		return pg_signal(PG_SIGKILL);
	for (signal = 1; signal <= 64 && wanted; signal++) {
		if (wanted & 1)
			error = pg_signal(signal) ?: error;
		wanted >>= 1;
	}
	return error;
}

#endif
