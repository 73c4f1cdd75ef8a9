/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * events: RINGBUF. call: PERCPU_ARRAY[1] of struct pg_call, the call at hand and the rules that it hit. record:
 * PERCPU_ARRAY[1] of struct pg_event, the record under construction: it is made once for a call, and sent once for each
 * hit.
 */
#ifndef PG_MAPS_EVENTS_H
#define PG_MAPS_EVENTS_H

#include "lib/kernel.h"
#include "lib/path.h"
#include "maps/counters.h"
#include "maps/strings.h"

#define PG_MAX_HITS 1024 /* one for each policy that a binding can name */
#define PG_EVENT_DATA 16384
#define PG_EVENT_SLOTS 8

#define PG_EVENT_POLICY 1
#define PG_EVENT_DEFERRED 1 /* checked at the system call's exit */
#define PG_SLOT_ABSENT 0xffff

/* What a slot holds, whatever its number: an argument and how it was read, or the binary. Rules come and go, events in
 * the ring stay. */
#define PG_TEXT_STRING 0x10
#define PG_TEXT_BYTES 0x20
#define PG_TEXT_FD 0x30
#define PG_TEXT_BINARY 0x40

struct pg_hit {
	__u32 policy; /* the agent's serial number of it: never used again */
	__u16 rule;
	__u16 selector;
};
_Static_assert(sizeof(struct pg_hit) == 8, "hit");

struct pg_call {
	__u64 args[6];
	__u32 hits;
	__u32 slots; /* bit n: string slot n was filled for this call */
	__u8 slot_id[PG_EVENT_SLOTS];
	__u64 signals; /* bit n: a rule wants signal n + 1 sent */
	struct pg_hit hit[PG_MAX_HITS];
};
_Static_assert(sizeof(struct pg_call) == 72 + 8 * PG_MAX_HITS, "call value");

struct pg_event {
	__u32 size; /* of the record, all strings included */
	__u16 kind;
	__u16 flags;
	__u64 time; /* ns since boot, suspend included */
	__u64 cgroup;
	__u64 args[6];
	__u32 pid;
	__u32 tid;
	__u32 uid;
	__u32 workload; /* 0: the host */
	__u32 policy;
	__u16 rule;
	__u16 selector;
	__s32 error; /* of the call's signals */
	__u32 reserved;
	char comm[16];
	__u16 len[PG_EVENT_SLOTS]; /* of each slot's text in data, in order; PG_SLOT_ABSENT */
	__u8 slot_flags[PG_EVENT_SLOTS];
	__u8 slot_id[PG_EVENT_SLOTS];
	char data[PG_EVENT_DATA + PG_STRING_ROOM];
};
_Static_assert(offsetof(struct pg_event, data) == 152, "event header");

PG_INLINE struct pg_call *pg_call(const __u64 *args)
{
	__u32 zero = 0;
	struct pg_call *call = pg_lookup(call, &zero);

	if (!call)
		return NULL;
	call->args[0] = args[0];
	call->args[1] = args[1];
	call->args[2] = args[2];
	call->args[3] = args[3];
	call->args[4] = args[4];
	call->args[5] = args[5];
	call->hits = 0;
	call->slots = 0;
	call->signals = 0;
	return call;
}

/* Notes that a slot was filled for this call, and with what: PG_TEXT_* | argument. */
PG_INLINE void pg_filled(struct pg_call *call, __u32 slot, __u8 id)
{
	call->slots |= 1u << slot;
	call->slot_id[slot] = id;
}

PG_INLINE void pg_hit(struct pg_call *call, __u32 policy, __u16 rule, __u16 selector)
{
	__u32 n = call->hits;
	struct pg_hit *hit;

	call->hits = n + 1;
	pg_opaque(n);
	hit = &call->hit[n & (PG_MAX_HITS - 1)];
	hit->policy = policy;
	hit->rule = rule;
	hit->selector = selector;
}

PG_INLINE void pg_event_slot(struct pg_event *event, struct pg_call *call, __u32 slot)
{
	struct pg_string *string = pg_string(slot);
	__u32 at = event->size - offsetof(struct pg_event, data);
	__u32 len;

	event->len[slot] = PG_SLOT_ABSENT;
	event->slot_flags[slot] = 0;
	if (!string || !(call->slots & (1u << slot)) || at > PG_EVENT_DATA - 1)
		return;
	len = string->len;
	pg_opaque(len);
	len &= 0x1fff;
	if (len > PG_STRING_MAX)
		len = PG_STRING_MAX;
	pg_opaque(at);
	at &= PG_EVENT_DATA - 1;
	if (bpf_probe_read_kernel(&event->data[at], len, string->data))
		return;
	event->len[slot] = (__u16)len;
	event->slot_flags[slot] = (__u8)string->flags;
	event->size += len;
}

PG_INLINE void pg_event_head(struct pg_event *event, struct pg_call *call, __u32 workload, __u16 flags)
{
	__u64 id = bpf_get_current_pid_tgid();

	event->size = offsetof(struct pg_event, data);
	event->kind = PG_EVENT_POLICY;
	event->flags = flags;
	event->time = bpf_ktime_get_boot_ns();
	event->cgroup = bpf_get_current_cgroup_id();
	event->pid = id >> 32;
	event->tid = (__u32)id;
	event->uid = (__u32)bpf_get_current_uid_gid();
	event->workload = workload;
	event->reserved = 0;
	__builtin_memcpy(event->args, call->args, sizeof(event->args));
	__builtin_memcpy(event->slot_id, call->slot_id, sizeof(event->slot_id));
	bpf_get_current_comm(event->comm, sizeof(event->comm));
}

/* Sends one record for each hit; rules: how many the hook point has, a constant that bounds the loop. */
PG_INLINE void pg_report(struct pg_call *call, __u32 workload, __u16 flags, __u32 rules, long error)
{
	__u32 zero = 0, i, size;
	struct pg_event *event = pg_lookup(record, &zero);
	struct pg_string *binary = pg_string(PG_SLOT_BINARY);

	if (!event || !binary)
		return;
	pg_read_binary(binary);
	pg_filled(call, PG_SLOT_BINARY, PG_TEXT_BINARY);
	pg_event_head(event, call, workload, flags);
	for (i = 0; i < PG_EVENT_SLOTS; i++)
		pg_event_slot(event, call, i);
	event->error = (__s32)error;
	size = event->size;
	pg_opaque(size);
	size &= 0x7fff;
	if (size > sizeof(*event))
		size = sizeof(*event);
	for (i = 0; i < rules; i++) {
		if (i >=
		    pg_once(call->hits)) /* read anew: two bounds merged into one countdown are none to Linux 6.1 */
			break;
		event->policy = call->hit[i].policy;
		event->rule = call->hit[i].rule;
		event->selector = call->hit[i].selector;
		if (bpf_ringbuf_output(pg_map(events), event, size, 0))
			pg_count(PG_COUNT_EVENTS_LOST);
	}
}

#endif
