/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * strings: PERCPU_ARRAY of struct pg_string: what the call at hand has that is text, bytes or the fields of a
 * structure, one slot each, the process's binary and its parent's, and two work areas. A CPU has PG_CONTEXTS such sets:
 * an interrupt can run rules of its own in the middle of a call's (bpf/maps/call.h).
 */
#ifndef PG_MAPS_STRINGS_H
#define PG_MAPS_STRINGS_H

#include "lib/kernel.h"

#define PG_STRING_MAX 4096  /* PATH_MAX: what the kernel itself takes as a path, its NUL included */
#define PG_STRING_ROOM 4352 /* and one path component more, which the verifier wants to see */

#define PG_USER_PAGE 4096 /* x86_64 */

#define PG_CONTEXTS 4
#define PG_CONTEXT_BASE 3 /* of the programs of bpf/base; calls take the others */

#define PG_TEXTS 12 /* slots 0 to 11 are the rules' */
#define PG_SLOT_BINARY 12
#define PG_SLOT_PARENT 13
#define PG_SLOT_TAIL 14
#define PG_SLOT_WORK 15
#define PG_SLOTS 16

#define PG_STRING_CUT_TAIL 1   /* longer than the slot: the end is missing */
#define PG_STRING_CUT_HEAD 2   /* a path deeper than PG_PATH_DEPTH: the root's side is missing */
#define PG_STRING_UNREADABLE 4 /* no value */
#define PG_STRING_DELETED 8    /* a path whose last name is gone */
#define PG_STRING_OUTSIDE 16   /* a path that does not lead to the process's root */

struct pg_string {
	__u32 len; /* bytes in data, without a NUL */
	__u32 flags;
	__u32 mode;    /* of a path's inode: i_mode; 0: not known */
	__u32 context; /* the set that it belongs to: written by user space, never changed */
	char data[PG_STRING_ROOM];
};
_Static_assert(sizeof(struct pg_string) == 4368, "strings value");

PG_INLINE struct pg_string *pg_string_of(__u32 context, __u32 slot)
{
	__u32 index = context * PG_SLOTS + slot;

	return pg_lookup(strings, &index);
}

/* Another slot of the same set. */
PG_INLINE struct pg_string *pg_beside(const struct pg_string *string, __u32 slot)
{
	return pg_string_of(pg_once(string->context), slot);
}

/* Each gives 0, or a negative errno when the user's memory is not resident or not there. */
PG_INLINE long pg_read_user_string(struct pg_string *out, __u64 address)
{
	long n = bpf_probe_read_user_str(out->data, PG_STRING_MAX + 1, (const void *)address);

	out->flags = n < 1 ? PG_STRING_UNREADABLE : n > PG_STRING_MAX ? PG_STRING_CUT_TAIL : 0;
	out->len = n < 1 ? 0 : n - 1;
	out->mode = 0;
	return n < 0 ? n : 0;
}

/*
 * What a buffer has in its first page, when it goes on into memory that cannot be read: a size that is larger than
 * the buffer would hide it, and the kernel writes what it can read. At most two pages are concerned.
 */
PG_INLINE void pg_read_user_page(struct pg_string *out, __u64 address, __u64 size)
{
	__u64 n = PG_USER_PAGE - (address & (PG_USER_PAGE - 1));

	if (n >= size || bpf_probe_read_user(out->data, n, (const void *)address))
		return;
	out->flags = PG_STRING_CUT_TAIL;
	out->len = n;
}

PG_INLINE long pg_read_user_bytes(struct pg_string *out, __u64 address, __u64 size)
{
	__u64 n = size > PG_STRING_MAX ? PG_STRING_MAX : size;
	long error;

	pg_opaque(n);
	n &= 0x1fff;
	if (n > PG_STRING_MAX)
		n = PG_STRING_MAX;
	error = bpf_probe_read_user(out->data, n, (const void *)address);
	out->flags = error ? PG_STRING_UNREADABLE : size > PG_STRING_MAX ? PG_STRING_CUT_TAIL : 0;
	out->len = error ? 0 : n;
	out->mode = size > 0xffffffffULL ? 0xffffffff : size; /* as bpf/lib/buffers.h says */
	if (error)
		pg_read_user_page(out, address, n);
	return error;
}

/* 8 bytes of a slot at a constant place, as a number: what compares with a policy's bytes. */
PG_INLINE __u64 pg_word(const struct pg_string *string, int index)
{
	return *(const __u64 *)(string->data + 8 * index);
}

#define PG_STRING_NO_HEAD (PG_STRING_CUT_HEAD | PG_STRING_OUTSIDE | PG_STRING_UNREADABLE)

/* A text of exactly n bytes, known from end to end; one that begins at its beginning and has n bytes at least. */
PG_INLINE int pg_is_whole(const struct pg_string *string, __u32 n)
{
	return string->len == n && !(string->flags & (PG_STRING_NO_HEAD | PG_STRING_CUT_TAIL));
}

PG_INLINE int pg_has_head(const struct pg_string *string, __u32 n)
{
	return string->len >= n && !(string->flags & PG_STRING_NO_HEAD);
}

/* The last n bytes of a string, n constant, copied to where pg_word reads them; no string when it is shorter. */
PG_INLINE const struct pg_string *pg_tail(const struct pg_string *string, __u32 n)
{
	struct pg_string *tail = pg_beside(string, PG_SLOT_TAIL);
	__u32 start;

	if (!tail || string->len < n || string->flags & (PG_STRING_CUT_TAIL | PG_STRING_UNREADABLE))
		return NULL;
	start = string->len - n;
	if (bpf_probe_read_kernel(tail->data, n, string->data + start))
		return NULL;
	return tail;
}

#endif
