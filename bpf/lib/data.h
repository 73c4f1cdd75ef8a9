/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a value with maxData has beyond its slot: for events only, never compared. It goes from where it is straight
 * into the ring, in parts (bpf/maps/events.h), before the event that names it.
 *
 * A block is read and sent as a whole. What is shorter than a block, and a block that cannot be read as a whole, goes
 * page by page, up to the end or to the first page that cannot be read. So that large values never keep events out of
 * the ring, a quarter of it is left to those.
 *
 * Where the reading stands is kept in memory: there the verifier does not follow values, and a round of a loop costs
 * its instructions once.
 */
#ifndef PG_LIB_DATA_H
#define PG_LIB_DATA_H

#include "lib/kernel.h"
#include "maps/call.h"
#include "maps/counters.h"
#include "maps/events.h"
#include "maps/strings.h"

#define PG_DATA_MAX                                                                                                    \
	327360 /* of a value, the first PG_STRING_MAX bytes included: MAX_DATA of agent/policy/access.py               \
		*/
#define PG_DATA_BLOCK 32768
#define PG_DATA_BLOCKS ((PG_DATA_MAX - PG_STRING_MAX) / PG_DATA_BLOCK)
#define PG_DATA_PAGES (PG_DATA_BLOCK / PG_USER_PAGE + 1) /* that a block can touch */

/* A rule that waits for the return, and whose event did not come too soon after an equal one. */
PG_INLINE int pg_will_report(const struct pg_call *call, __u32 rule)
{
	return call->awaiting >> rule & 1 && !(call->waiting[rule] & PG_WAITING_LIMITED);
}

/* Behind the text of a slot, in the room that a reader of bytes leaves: where they came from. */
struct pg_source {
	__u64 address;
	__u64 size;
	__u64 left; /* bytes to be sent */
	__u64 done; /* bytes that were */
	__u64 serial;
};
_Static_assert(PG_STRING_MAX + sizeof(struct pg_source) <= PG_STRING_ROOM, "source");

struct pg_block {
	struct pg_part head;
	char data[PG_DATA_BLOCK];
};

struct pg_page {
	struct pg_part head;
	char data[PG_USER_PAGE];
};

PG_INLINE struct pg_source *pg_source_of(struct pg_string *string)
{
	return (struct pg_source *)&string->data[PG_STRING_MAX];
}

/* After its first bytes were read: once more would be another moment, and perhaps another buffer. */
PG_INLINE void pg_note_source(struct pg_string *string, __u64 address, __u64 size)
{
	struct pg_source *from = pg_source_of(string);

	pg_once(from->address) = address;
	pg_once(from->size) = size;
}

/* Whether a record of so many bytes leaves a quarter of the ring free. */
PG_INLINE int pg_has_data_room(__u64 size)
{
	__u64 used = bpf_ringbuf_query(pg_map(events), BPF_RB_AVAIL_DATA);
	__u64 all = bpf_ringbuf_query(pg_map(events), BPF_RB_RING_SIZE);

	return used + size <= all / 4 * 3;
}

/* Room for a part, size a constant; NULL when there is none, and then the value ends here. */
PG_INLINE void *pg_reserve_part(struct pg_source *from, __u64 size)
{
	void *part = NULL;

	if (pg_has_data_room(size))
		part = bpf_ringbuf_reserve(pg_map(events), size, 0);
	if (!part) {
		pg_once(from->left) = 0;
		pg_count(PG_COUNT_DATA_LOST);
	}
	return part;
}

/* Sends a part that has been filled, with n bytes. */
PG_INLINE void pg_submit_part(struct pg_source *from, struct pg_part *part, __u64 n)
{
	part->kind = PG_EVENT_PART;
	part->reserved = 0;
	part->len = (__u32)n;
	part->offset = (__u32)pg_once(from->done);
	part->serial = pg_once(from->serial);
	pg_once(from->done) += n;
	pg_once(from->left) -= n;
	bpf_ringbuf_submit(part, 0);
}

/* in_user: whose memory, a constant. */
PG_INLINE long pg_read_data(void *out, __u32 n, __u64 address, int in_user)
{
	if (in_user)
		return bpf_probe_read_user(out, n, (const void *)address);
	return bpf_probe_read_kernel(out, n, (const void *)address);
}

PG_INLINE __u64 pg_data_address(const struct pg_source *from)
{
	return pg_once(from->address) + PG_STRING_MAX + pg_once(from->done);
}

/* Gives 0 when there is no whole block any more, or it cannot be read, or not be sent. */
PG_INLINE int pg_send_block(struct pg_source *from, int in_user)
{
	struct pg_block *block;

	if (pg_once(from->left) < PG_DATA_BLOCK)
		return 0;
	block = pg_reserve_part(from, sizeof(*block));
	if (!block)
		return 0;
	if (pg_read_data(block->data, PG_DATA_BLOCK, pg_data_address(from), in_user)) {
		bpf_ringbuf_discard(block, 0);
		return 0;
	}
	block->head.size = sizeof(*block);
	pg_submit_part(from, &block->head, PG_DATA_BLOCK);
	return 1;
}

/* What is left up to the end of the page it begins in. Gives 0 at the end, which is here too when it cannot be read. */
PG_INLINE int pg_send_page(struct pg_source *from, int in_user)
{
	__u64 address = pg_data_address(from), left = pg_once(from->left);
	__u64 n = PG_USER_PAGE - (address & (PG_USER_PAGE - 1));
	struct pg_page *page;

	if (!left)
		return 0;
	page = pg_reserve_part(from, sizeof(*page));
	if (!page)
		return 0;
	if (n > left)
		n = left;
	pg_opaque(n);
	n &= 0x1fff;
	if (n > PG_USER_PAGE)
		n = PG_USER_PAGE;
	if (pg_read_data(page->data, n, address, in_user)) {
		bpf_ringbuf_discard(page, 0);
		return 0;
	}
	page->head.size = sizeof(*page);
	pg_submit_part(from, &page->head, n);
	return 1;
}

PG_INLINE void pg_send_parts(struct pg_source *from, int in_user)
{
	__u64 size = pg_once(from->size);
	__u32 i;

	pg_once(from->done) = 0;
	pg_once(from->left) = (size > PG_DATA_MAX ? PG_DATA_MAX : size) - PG_STRING_MAX;
#pragma clang loop unroll(disable)
	for (i = 0; i < PG_DATA_BLOCKS; i++)
		if (!pg_send_block(from, in_user))
			break;
#pragma clang loop unroll(disable)
	for (i = 0; i < PG_DATA_PAGES; i++)
		if (!pg_send_page(from, in_user))
			break;
}

/* A context belongs to one call at a time (bpf/maps/call.h), so nobody counts in between. */
PG_INLINE __u64 pg_next_serial(struct pg_event *event, __u32 context)
{
	__u64 number = pg_once(event->serials) + 1;

	pg_once(event->serials) = number;
	return number << 16 | (__u64)bpf_get_smp_processor_id() << 2 | context;
}

/* The rest of a value whose first bytes were put into the record just now, when it has one. */
PG_INLINE void pg_item_rest(struct pg_event *event, __u32 id, struct pg_string *string, int in_user)
{
	struct pg_source *from = pg_source_of(string);
	struct pg_item *item;
	struct pg_rest *rest;

	if (pg_once(string->len) != PG_STRING_MAX || !(string->flags & PG_STRING_CUT_TAIL))
		return;
	item = pg_item(event, id, sizeof(*rest), 0, 0);
	if (!item)
		return;
	rest = (struct pg_rest *)(item + 1);
	item->kind = PG_ITEM_REST;
	pg_once(from->serial) = pg_next_serial(event, pg_once(string->context));
	pg_send_parts(from, in_user);
	rest->serial = pg_once(from->serial);
	rest->size = (__u32)pg_once(from->done);
	rest->reserved = 0;
	event->flags |= PG_EVENT_PARTED;
}

#endif
