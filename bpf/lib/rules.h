/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What compiled rules stand on, whatever they are attached to: reading numbers, noting hits, and what hits ask for. The
 * generated text (agent/policy/codegen.py) only calls these and the readers of bpf/lib.
 */
#ifndef PG_LIB_RULES_H
#define PG_LIB_RULES_H

#include "lib/automaton.h"
#include "lib/kernel.h"
#include "lib/net_sets.h"
#include "lib/path.h"
#include "lib/process.h"
#include "lib/sets.h"
#include "lib/types.h"
#include "maps/bindings.h"
#include "maps/call.h"
#include "maps/counters.h"
#include "maps/deferred.h"
#include "maps/events.h"
#include "maps/stats.h"
#include "maps/strings.h"

#define pg_rules_failed(result) pg_error_at((4 << 16) | __LINE__, result)

#define PG_SIGKILL 9
#define PG_EALREADY 114 /* include/uapi/asm-generic/errno.h: Override of a call that has been made */

/* When rules run. */
#define PG_AT_ENTRY 0
#define PG_AT_EXIT 1
#define PG_AT_EXEC 2 /* the exit of an execve that succeeded: the caller's memory is gone */

/* size bytes at an address, extended to 64 bits; size, is_signed and user are constants. 0 when they cannot be read. */
PG_INLINE long pg_load(__u64 *out, __u64 address, int size, int is_signed, int user)
{
	__u64 value = 0;
	long error;

	if (user)
		error = bpf_probe_read_user(&value, size, (const void *)address);
	else
		error = bpf_probe_read_kernel(&value, size, (const void *)address);
	if (error)
		value = 0;
	if (is_signed && size < 8)
		value = (__u64)((__s64)(value << (64 - 8 * size)) >> (64 - 8 * size));
	*out = value;
	return error;
}

PG_INLINE struct pg_hit *pg_hit(struct pg_call *call, __u32 policy, __u16 rule, __u16 selector, __u16 bit, __u32 flags,
				__u64 values, __u64 signals)
{
	struct pg_hit *hit = pg_next_hit(call);

	hit->head[0] = (__u64)policy | (__u64)rule << 32 | (__u64)selector << 48;
	hit->head[1] = PG_NO_SELECTOR | (__u64)bit << 16 | (__u64)flags << 32;
	hit->values = values;
	hit->signals = signals;
	return hit;
}

PG_INLINE __u64 pg_selector_key(const struct pg_hit *hit)
{
	__u64 selector = hit->flags & PG_HIT_AT_RETURN ? hit->return_selector | PG_STAT_RETURN : hit->selector;

	return (__u64)hit->policy << 32 | (__u64)hit->rule << 16 | selector;
}

#define PG_RATE_THREAD 0
#define PG_RATE_PROCESS 1
#define PG_RATE_GLOBAL 2

/* Takes the event from a hit that comes too soon after an equal one. */
PG_INLINE void pg_limit(struct pg_hit *hit, int scope, __u64 values, __u64 interval)
{
	__u64 id = bpf_get_current_pid_tgid();
	__u64 whose = scope == PG_RATE_THREAD ? id : scope == PG_RATE_PROCESS ? id >> 32 : 0;

	if (pg_is_limited(pg_selector_key(hit), whose, values, interval))
		hit->flags |= PG_HIT_LIMITED;
}

/* Writes four bytes of the process's memory: Set. */
PG_INLINE void pg_set(struct pg_hit *hit, __u64 address, __u32 value)
{
	long error;

	if (pg_monitors(hit->bit))
		return;
	error = bpf_probe_write_user((void *)address, &value, sizeof(value));
	if (!error)
		return;
	pg_rules_failed(error);
	hit->flags |= PG_HIT_SET_FAILED;
}

/* The rule is reported at the return. */
PG_INLINE void pg_await(struct pg_call *call, __u32 rule, __u16 selector)
{
	call->awaiting |= 1ULL << rule;
	call->waiting[rule] = selector;
}

/* Of a rule that waits, and whose event at the entry would have come too soon: it makes none at the return either. */
PG_INLINE void pg_limit_late(const struct pg_call *call, __u32 rule, struct pg_hit *hit)
{
	if (call->waiting[rule] & PG_WAITING_LIMITED)
		hit->flags |= PG_HIT_LIMITED;
}

PG_INLINE long pg_signal(__u32 signal)
{
	long error = bpf_send_signal(signal);

	if (error) {
		pg_rules_failed(error);
		pg_count(PG_COUNT_SIGNAL_FAILED);
	}
	return error;
}

/* One of the signals that the rules of a call want sent. */
PG_INLINE void pg_send_if(struct pg_call *call, __u64 wanted, __u32 signal)
{
	long error;

	if (!(wanted & (1ULL << (signal - 1))))
		return;
	error = pg_signal(signal);
	if (error)
		call->error = error;
}

/*
 * What of a call's signals has not been sent yet, and is to be: bit n for signal n + 1. Each goes once. SIGKILL goes
 * alone: nothing comes after it, and the kernel can have one signal at a time under way on a processor
 * (bpf_send_signal_common of kernel/trace/bpf_trace.c). When the kernel refuses one, that was not enforced: call->error
 * and the event say so.
 */
PG_INLINE __u64 pg_signals_left(struct pg_call *call, __u64 wanted)
{
	const __u64 kill = 1ULL << (PG_SIGKILL - 1);

	call->error = 0;
	wanted &= ~call->sent;
	if (call->sent & kill)
		return 0;
	call->sent |= wanted;
	return wanted & kill ? kill : wanted;
}

PG_INLINE void pg_notify_enforcer(const struct pg_hit *hit)
{
	__u64 key = bpf_get_current_pid_tgid();
	__u32 signal = hit->notify_signal;
	long error = pg_update(enforcer, &key, &signal, BPF_ANY);

	if (error)
		pg_rules_failed(error);
}

/* The call that NotifyEnforcer meant has come. */
PG_INLINE void pg_enforce(void)
{
	__u64 key = bpf_get_current_pid_tgid();
	__u32 *signal = pg_lookup(enforcer, &key), number;

	if (!signal)
		return;
	number = *signal;
	pg_delete(enforcer, &key);
	if (number)
		pg_signal(number);
}

/* The first rule that holds says which error it is. For a call that has been made it is too late: its event says so. */
PG_INLINE void pg_settle_override(struct pg_call *call, const struct pg_hit *hit, struct pg_stat *stat, __u32 offset)
{
	pg_tally(stat, PG_STAT_OVERRIDE + offset);
	if (offset)
		return;
	if (call->ended)
		pg_tally(stat, PG_STAT_FAILED);
	if (!call->override)
		call->override = hit->override;
}

/*
 * Whether a hit asks for something. may: all that the hits of its program may ask for, a constant: what none of them
 * does is not compiled, and not verified for each of them.
 */
PG_INLINE __u32 pg_asks(const struct pg_hit *hit, __u32 may, __u32 flag)
{
	return may & flag ? hit->flags & flag : 0;
}

PG_INLINE __u64 pg_signals_of(const struct pg_hit *hit, __u32 may)
{
	return may & PG_HIT_SIGNALS ? hit->signals : 0;
}

PG_INLINE void pg_settle_signals(struct pg_hit *hit, __u32 may, struct pg_stat *stat, __u32 offset)
{
	__u64 signals = pg_signals_of(hit, may);

	if (signals & (1ULL << (PG_SIGKILL - 1)))
		pg_tally(stat, PG_STAT_SIGKILL + offset);
	if (signals & ~(1ULL << (PG_SIGKILL - 1)))
		pg_tally(stat, PG_STAT_SIGNAL + offset);
	if (pg_asks(hit, may, PG_HIT_NOTIFY)) {
		pg_tally(stat, PG_STAT_NOTIFY_ENFORCER + offset);
		if (!offset)
			pg_notify_enforcer(hit);
	}
	if (pg_asks(hit, may, PG_HIT_SET)) {
		pg_tally(stat, PG_STAT_SET + offset);
		if (hit->flags & PG_HIT_SET_FAILED)
			pg_tally(stat, PG_STAT_FAILED);
	}
}

/* Counts what one hit does, and gives the signals that it wants sent. */
PG_INLINE __u64 pg_settle_hit(struct pg_call *call, struct pg_hit *hit, __u32 may)
{
	struct pg_stat *stat = pg_stat(pg_selector_key(hit));
	__u64 signals = pg_signals_of(hit, may);
	int enforces = signals || pg_asks(hit, may, PG_HIT_NOTIFY | PG_HIT_SET | PG_HIT_OVERRIDE);
	__u32 offset = 0;

	if (enforces && pg_monitors(hit->bit)) {
		hit->flags |= PG_HIT_MONITORED;
		offset = PG_STAT_MONITOR;
	}
	if (enforces)
		pg_settle_signals(hit, may, stat, offset);
	if (pg_asks(hit, may, PG_HIT_OVERRIDE))
		pg_settle_override(call, hit, stat, offset);
	if (pg_asks(hit, may, PG_HIT_CLEANUP)) {
		__u64 key = bpf_get_current_pid_tgid();

		pg_delete(enforcer, &key);
	}
	if (pg_asks(hit, may, PG_HIT_LIMITED)) {
		pg_tally(stat, PG_STAT_RATE_LIMITED);
	} else if (hit->flags & PG_HIT_POST) {
		pg_tally(stat, PG_STAT_POST);
		call->values |= hit->values;
	} else if (!(hit->flags & PG_HIT_AWAITS)) {
		pg_tally(stat, PG_STAT_NOPOST);
	}
	return offset ? 0 : signals;
}

/*
 * Does what a program's hits ask for, all but their signals and events. rules: how many it has, a constant that bounds
 * the loop. may: as above. signals: those that are to be sent. Gives the flags of the hits that post.
 */
PG_INLINE __u32 pg_settle(struct pg_call *call, __u32 rules, __u32 may, __u64 *signals)
{
	__u64 wanted = 0;
	__u32 i, flags = 0;

	for (i = 0; i < rules; i++) {
		struct pg_hit *hit = &call->hit[i & (PG_MAX_HITS - 1)];

		/* Read anew: two bounds merged into one countdown are none to Linux 6.1. */
		if (i >= pg_once(call->hits))
			break;
		wanted |= pg_settle_hit(call, hit, may);
		if (hit->flags & PG_HIT_POST && !pg_asks(hit, may, PG_HIT_LIMITED))
			flags |= hit->flags;
	}
	*signals = pg_signals_left(call, wanted);
	if (call->ended && call->override)
		call->error = -PG_EALREADY;
	return flags;
}

/* Sends one event for each hit that posts. */
PG_INLINE void pg_send_hits(struct pg_call *call, struct pg_event *event, __u32 rules, __u32 may)
{
	__u32 i;

	if (call->error && call->error != -PG_EALREADY) /* at the return the record has that of the entry */
		event->error = (__s32)call->error;
	for (i = 0; i < rules; i++) {
		struct pg_hit *hit = &call->hit[i & (PG_MAX_HITS - 1)];

		if (i >= pg_once(call->hits))
			break;
		if (call->error && call->error != -PG_EALREADY && pg_signals_of(hit, may) &&
		    !(hit->flags & PG_HIT_MONITORED))
			pg_tally(pg_stat(pg_selector_key(hit)), PG_STAT_FAILED);
		if (call->error == -PG_EALREADY)
			event->error = pg_asks(hit, may, PG_HIT_OVERRIDE) ? -PG_EALREADY : 0;
		if (hit->flags & PG_HIT_POST && !pg_asks(hit, may, PG_HIT_LIMITED))
			pg_send_event(event, hit);
	}
}

/* Numbers that could be read. */
PG_INLINE int pg_is_known(const struct pg_call *call, __u32 index)
{
	return !(call->unreadable >> index & 1);
}

PG_INLINE int pg_is_filled(const struct pg_call *call, __u32 slot)
{
	return call->filled >> slot & 1;
}

PG_INLINE void pg_fill(struct pg_call *call, __u32 slot)
{
	call->filled |= 1ULL << slot;
}

#define PG_TS_COMPAT 2		 /* arch/x86/include/asm/thread_info.h: in a 32-bit system call */
#define PG_IS_32_BIT 0x80000000U /* of a number: it is one of the i386 table. x32 has __X32_SYSCALL_BIT by itself */

/* The number of a system call, with the table that it is of. */
PG_INLINE __u64 pg_syscall_of(__u64 number)
{
	const struct task_struct *task = (const struct task_struct *)bpf_get_current_task();
	__u32 status = 0;

	pg_read(status, &task->thread_info.status);
	return status & PG_TS_COMPAT ? number | PG_IS_32_BIT : number;
}

#define PG_FILE_TYPE 0170000 /* S_IFMT, include/uapi/linux/stat.h */

/* Of a path: what kind of file it leads to. */
PG_INLINE int pg_is_file_type(const struct pg_string *path, __u32 type)
{
	return (path->mode & PG_FILE_TYPE) == type;
}

#define pg_context_u64(ctx, offset) (*(const __u64 *)((const char *)(ctx) + (offset)))

PG_INLINE void pg_unknown(struct pg_string *string)
{
	string->len = 0;
	string->flags = PG_STRING_UNREADABLE;
	string->mode = 0;
}

/* The member of the process's registers at a byte offset; 0 for a kernel thread. */
PG_INLINE __u64 pg_user_register(__u32 offset)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task_btf();
	const void *registers = (const void *)bpf_task_pt_regs(task);
	__u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), registers + offset);
	return value;
}

#endif
