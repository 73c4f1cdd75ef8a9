/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * events: RINGBUF. records: PERCPU_ARRAY of struct pg_event, one for each context: the record under construction. It is
 * made once for a program's hits, and sent once for each of them.
 *
 * A record is a header and items: a number, or the bytes of a slot, each with the id that the agent gave to the value.
 * Rules come and go, events in the ring stay: an id is never given to another value.
 *
 * What a value has beyond its slot (maxData) travels ahead of the record, in records of another kind: parts, one behind
 * the other, under a serial number that no other value of this ring ever has. An item of the record names it.
 */
#ifndef PG_MAPS_EVENTS_H
#define PG_MAPS_EVENTS_H

#include "lib/kernel.h"
#include "maps/call.h"
#include "maps/counters.h"
#include "maps/strings.h"

#define PG_EVENT_DATA 16384

/* Kinds of records. */
#define PG_EVENT_POLICY 1
#define PG_EVENT_PART 2

#define PG_EVENT_DEFERRED 1 /* checked at the system call's exit */
#define PG_EVENT_RETURN 2   /* reported at the return */
#define PG_EVENT_MONITOR 4  /* monitor mode: enforcing actions were left out */
#define PG_EVENT_CUT 8	    /* a value did not fit */
#define PG_EVENT_PARTED 16  /* values go on in parts that came before */
#define PG_EVENT_SOCKET 32  /* the process is the one that tracked a socket */

/* Kinds of items. */
#define PG_ITEM_NUMBER 0 /* 8 bytes */
#define PG_ITEM_BYTES 1
#define PG_ITEM_REST 2 /* struct pg_rest, behind the item with the value's first bytes */

#define PG_ID_BINARY 1
#define PG_ID_PARENT 2
#define PG_ID_KERNEL_STACK 3
#define PG_ID_USER_STACK 4

#define PG_STACK_BYTES 1016 /* 127 addresses: PERF_MAX_STACK_DEPTH */

struct pg_event {
	__u32 size; /* of the record, all items included */
	__u16 kind;
	__u16 flags;
	__u64 time; /* ns since boot, suspend included */
	__u64 cgroup;
	__u32 pid;
	__u32 tid;
	__u32 uid;
	__u32 workload; /* 0: the host */
	__u32 policy;
	__u16 rule;
	__u16 selector;
	__s32 error; /* of the call's signals */
	__u16 return_selector;
	__u16 items;
	char comm[16];
	__u64 start; /* of the process, ns since boot */
	char data[PG_EVENT_DATA + PG_STRING_ROOM];
	__u64 serials; /* never sent: how many were given in this context */
};
_Static_assert(offsetof(struct pg_event, data) == 80, "event header");

struct pg_item {
	__u32 id;
	__u32 len;
	__u32 mode;
	__u8 flags;
	__u8 kind;
	__u16 reserved;
};
_Static_assert(sizeof(struct pg_item) == 16, "item");

/* Head of a record with further bytes of a value. The record's own size is that of its room. */
struct pg_part {
	__u32 size; /* of the record */
	__u16 kind;
	__u16 reserved;
	__u32 len;    /* bytes that follow; what is behind them means nothing */
	__u32 offset; /* of them, from the first byte that is not in the value's item */
	__u64 serial;
};
_Static_assert(sizeof(struct pg_part) == 24, "part");

/* Where the further bytes of a value are. */
struct pg_rest {
	__u64 serial;
	__u32 size; /* bytes that were sent, of all parts */
	__u32 reserved;
};
_Static_assert(sizeof(struct pg_rest) == 16, "rest");

PG_INLINE struct pg_event *pg_event_of(__u32 context)
{
	return pg_lookup(records, &context);
}

/* Room for an item of at most PG_STRING_MAX bytes; NULL when the record is full. */
PG_INLINE struct pg_item *pg_item(struct pg_event *event, __u32 id, __u32 len, __u32 flags, __u32 mode)
{
	__u32 at = pg_once(event->size) - offsetof(struct pg_event, data);
	struct pg_item *item;

	if (at > PG_EVENT_DATA - 1) {
		event->flags |= PG_EVENT_CUT;
		return NULL;
	}
	pg_opaque(at);
	at &= PG_EVENT_DATA - 1;
	item = (struct pg_item *)&event->data[at];
	item->id = id;
	item->len = len;
	item->mode = mode;
	item->flags = (__u8)flags;
	item->kind = PG_ITEM_BYTES;
	item->reserved = 0;
	event->items++;
	pg_once(event->size) = offsetof(struct pg_event, data) + at + sizeof(*item) + ((len + 7) & ~7u);
	return item;
}

PG_INLINE void pg_item_number(struct pg_event *event, __u32 id, __u64 value, int unreadable)
{
	struct pg_item *item = pg_item(event, id, 8, unreadable ? PG_STRING_UNREADABLE : 0, 0);

	if (!item)
		return;
	item->kind = PG_ITEM_NUMBER;
	*(__u64 *)(item + 1) = value;
}

/* facts: bytes of the structure behind the text (bpf/lib/buffers.h), a constant. */
PG_INLINE void pg_item_text(struct pg_event *event, __u32 id, const struct pg_string *string, __u32 facts)
{
	__u32 len = string->len;
	struct pg_item *item;

	pg_opaque(len);
	len &= 0x1fff;
	if (len > PG_STRING_MAX)
		len = PG_STRING_MAX;
	len += facts;
	item = pg_item(event, id, len, string->flags, string->mode);
	if (item && len)
		bpf_probe_read_kernel(item + 1, len, string->data);
}

/* Where a stack's addresses come: straight into the record. */
PG_INLINE void pg_item_stack(struct pg_event *event, __u32 id, void *ctx, __u64 flags)
{
	__u32 size = pg_once(event->size);
	struct pg_item *item = pg_item(event, id, PG_STACK_BYTES, 0, 0);
	long n;

	if (!item)
		return;
	n = bpf_get_stack(ctx, item + 1, PG_STACK_BYTES, flags);
	if (n < 0)
		item->flags = PG_STRING_UNREADABLE;
	if (n < 0 || n > PG_STACK_BYTES)
		n = 0;
	item->len = n;
	pg_once(event->size) = size + sizeof(*item) + (((__u32)n + 7) & ~7u);
}

PG_INLINE void pg_event_head(struct pg_event *event, __u32 workload, __u32 flags)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task(), *leader = NULL;
	__u64 id = bpf_get_current_pid_tgid();

	event->size = offsetof(struct pg_event, data);
	event->kind = PG_EVENT_POLICY;
	event->flags = (__u16)flags;
	event->time = bpf_ktime_get_boot_ns();
	event->cgroup = bpf_get_current_cgroup_id();
	event->pid = id >> 32;
	event->tid = (__u32)id;
	event->uid = (__u32)bpf_get_current_uid_gid();
	event->workload = workload;
	event->error = 0;
	event->items = 0;
	event->start = 0;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	pg_read(leader, &task->group_leader);
	if (leader)
		pg_read(event->start, &leader->start_boottime);
}

PG_INLINE void pg_send_event(struct pg_event *event, const struct pg_hit *hit)
{
	__u32 size = pg_once(event->size);
	__u16 flags = event->flags;

	pg_opaque(size);
	size &= 0xffff;
	if (size > offsetof(struct pg_event, serials))
		size = offsetof(struct pg_event, serials);
	event->policy = hit->policy;
	event->rule = hit->rule;
	event->selector = hit->selector;
	event->return_selector = hit->return_selector;
	if (hit->flags & PG_HIT_MONITORED)
		event->flags = flags | PG_EVENT_MONITOR;
	if (bpf_ringbuf_output(pg_map(events), event, size, 0))
		pg_count(PG_COUNT_EVENTS_LOST);
	event->flags = flags;
}

#endif
