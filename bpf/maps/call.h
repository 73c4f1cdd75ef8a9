/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * calls: PERCPU_ARRAY of struct pg_call, one for each context of a CPU: the call at hand, the numbers that were read
 * for it and the rules that it hit.
 *
 * A context belongs to one call from its first program to its last. Programs of other kinds can come in between, from
 * an interrupt or, for uprobes, from a thread that the scheduler put in between: each claims a context that is free. A
 * claim is an addition and a look: who finds 1 has it, who finds more takes it back. On one CPU that cannot give it to
 * two. A call whose rules do not fit into one program goes on in further ones, by tail calls; each finds its context
 * by the place that the one before wrote into it.
 */
#ifndef PG_MAPS_CALL_H
#define PG_MAPS_CALL_H

#include "lib/kernel.h"
#include "maps/bindings.h"
#include "maps/counters.h"
#include "maps/strings.h"

#define PG_INPUTS 12
#define PG_NUMBERS 40
#define PG_MAX_HITS 64 /* rules of one program */
#define PG_NO_SELECTOR 0xffff

/* What a hit asks for. */
#define PG_HIT_POST 1
#define PG_HIT_KERNEL_STACK 2
#define PG_HIT_USER_STACK 4
#define PG_HIT_NOTIFY 8	      /* the enforcer is told of this thread */
#define PG_HIT_CLEANUP 16     /* and not any more */
#define PG_HIT_MONITORED 32   /* monitor mode: enforcing actions are only counted */
#define PG_HIT_LIMITED 64     /* above its rate: no event */
#define PG_HIT_AT_RETURN 128  /* the selector is one of the return's */
#define PG_HIT_SET 256	      /* Set, done or only counted */
#define PG_HIT_SET_FAILED 512 /* the process's memory could not be written */
#define PG_HIT_AWAITS 1024    /* its event comes at the return */
#define PG_HIT_OVERRIDE 2048  /* the call gives an error instead of being made */
#define PG_HIT_SIGNALS 4096   /* only of what hits may ask for: that some have signals */

#define PG_WAITING_LIMITED 0x8000 /* no event: one came too soon before */

struct pg_hit {
	union {
		struct {
			__u32 policy; /* the agent's serial number of it: never used again */
			__u16 rule;
			__u16 selector;
			__u16 return_selector;
			__u16 bit;
			__u32 flags;
		};
		__u64 head[2]; /* the same: what is written at once is compiled in less time */
	};
	__u64 values;  /* bit n: value n of this program is reported */
	__u64 signals; /* bit n: signal n + 1 is sent */
	__u32 notify_signal;
	__s32 override; /* a negative errno */
};
_Static_assert(sizeof(struct pg_hit) == 40, "hit");

struct pg_call {
	__u32 claims;
	__u32 context; /* written by user space, never changed */
	__u64 owner;   /* pid_tgid */
	__u64 place;   /* the program that goes on: attachment << 32 | side << 16 | chunk */
	__u64 in[PG_INPUTS];
	__u64 number[PG_NUMBERS];
	__u64 unreadable; /* bit n: number n could not be read */
	__s64 ret;
	__u64 policies[PG_POLICY_WORDS];
	__u32 workload;
	__u32 hits;
	__u64 filled;	/* bit n: slot n was read for this program's rules, bit PG_SLOTS + n: number n */
	__u64 values;	/* what the hits report, and what was read for them */
	__u64 awaiting; /* bit n: rule n of this program waits for the return */
	__u64 sent;	/* signals that were sent for this call */
	__s64 error;	/* of them */
	__u32 first;	/* at the exit: the first chunk that has not checked the call */
	__u32 again;	/* at the exit: rules changed since the entry, those that wait are found anew */
	__u32 kept;	/* at the exit: the record has the entry's part already */
	__u32 slot;	/* of the program that goes on: from memory, so that no jump to it is built into this one */
	__s32 override; /* what the call gives instead of being made: a negative errno, of all its programs */
	__u32 ended;	/* at the exit: the call has been made */
	__u16 waiting[PG_MAX_HITS]; /* of the rules that wait: the selector that matched at the entry,
				       PG_WAITING_LIMITED */
	__u64 hash[PG_MAX_HITS];    /* of the rules that wait: of what they report, where a rate is asked for */
	struct pg_hit hit[PG_MAX_HITS];
};
_Static_assert(sizeof(struct pg_call) == 368 + 8 * PG_INPUTS + 8 * PG_NUMBERS + 50 * PG_MAX_HITS, "calls value");

PG_INLINE struct pg_call *pg_call_of(__u32 context)
{
	return pg_lookup(calls, &context);
}

#define pg_place(attachment, side, chunk) ((__u64)(attachment) << 32 | (side) << 16 | (chunk))

PG_INLINE void pg_release(struct pg_call *call)
{
	pg_once(call->place) = 0;
	__sync_fetch_and_add(&call->claims, -1);
}

PG_INLINE int pg_claim(struct pg_call *call)
{
	__sync_fetch_and_add(&call->claims, 1);
	if (pg_once(call->claims) == 1)
		return 1;
	__sync_fetch_and_add(&call->claims, -1);
	return 0;
}

/* A context for a call that begins; none when all are taken: the call goes unchecked, and that is counted. */
PG_INLINE struct pg_call *pg_begin(void)
{
	struct pg_call *call;
	__u32 context;

#pragma unroll
	for (context = 0; context < PG_CONTEXT_BASE; context++) {
		call = pg_call_of(context);
		if (call && pg_claim(call)) {
			call->owner = bpf_get_current_pid_tgid();
			call->hits = 0;
			call->filled = 0;
			call->values = 0;
			call->unreadable = 0;
			call->awaiting = 0;
			call->sent = 0;
			call->error = 0;
			call->first = 0;
			call->again = 0;
			call->kept = 0;
			call->override = 0;
			call->ended = 0;
			return call;
		}
	}
	pg_count(PG_COUNT_NO_CONTEXT);
	return NULL;
}

/* The context of a call that goes on in this program. */
PG_INLINE struct pg_call *pg_continue(__u64 place)
{
	__u64 owner = bpf_get_current_pid_tgid();
	struct pg_call *call;
	__u32 context;

#pragma unroll
	for (context = 0; context < PG_CONTEXT_BASE; context++) {
		call = pg_call_of(context);
		if (call && pg_once(call->place) == place && pg_once(call->owner) == owner) {
			call->hits = 0;
			call->filled = 0;
			call->values = 0;
			call->unreadable = 0;
			call->awaiting = 0;
			call->kept = 0;
			return call;
		}
	}
	pg_count(PG_COUNT_NO_CONTEXT);
	return NULL;
}

PG_INLINE struct pg_hit *pg_next_hit(struct pg_call *call)
{
	__u32 n = call->hits;

	call->hits = n + 1;
	pg_opaque(n);
	return &call->hit[n & (PG_MAX_HITS - 1)];
}

PG_INLINE void pg_keep_number(struct pg_call *call, __u32 index, __u64 value, long error)
{
	call->number[index] = value;
	call->filled |= 1ULL << (PG_SLOTS + index);
	if (error)
		call->unreadable |= 1ULL << index;
}

#endif
