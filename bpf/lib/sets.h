/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Many values of a filter, in maps: what agent/policy/sets.py makes of them.
 *
 * texts_64, texts_256, texts_1024, texts_4096: HASH, struct pg_set_key with as much room for text -> u32. A text is in
 * the first of them that it is shorter than.
 * parts_56, parts_248: LPM_TRIE, struct pg_part_key with so much text -> u32: heads, and tails turned round.
 * lengths: HASH, u32 -> struct pg_lengths: the different lengths of heads and tails that are longer than those.
 * ranges: LPM_TRIE, struct pg_range_key -> u32.
 */
#ifndef PG_LIB_SETS_H
#define PG_LIB_SETS_H

#include "lib/kernel.h"
#include "maps/strings.h"

#define PG_SET_LENGTHS 2048
#define PG_SET_STORES 64 /* bytes that are cleared by stores; more are left to a helper */

/* room: 64, 256, 1024 or 4096. Where in a text a value has to be. */
#define PG_SET_HEAD 0
#define PG_SET_TAIL 1

/* Put together in the work area of the context, which is not the stack's 512 bytes. */
struct pg_set_key {
	__u32 set;
	__u32 len;
	char text[4096] __attribute__((aligned(8)));
};
_Static_assert(sizeof(struct pg_set_key) <= PG_STRING_ROOM, "a key in the work area");

struct pg_lengths {
	__u16 of[PG_SET_LENGTHS];
};
_Static_assert(sizeof(struct pg_lengths) == 4096, "lengths value");

PG_INLINE struct pg_set_key *pg_set_begin(const struct pg_string *string, __u32 set)
{
	struct pg_string *work = pg_beside(string, PG_SLOT_TAIL);
	struct pg_set_key *key;

	if (!work)
		return NULL;
	key = (struct pg_set_key *)work->data;
	key->set = set;
	return key;
}

/* room is constant, n is below it. A read of nothing leaves zeros (bpf_probe_read_kernel of kernel/trace/bpf_trace.c).
 */
PG_INLINE int pg_set_look(struct pg_set_key *key, void *map, __u32 room, const char *text, __u32 n)
{
	key->len = n;
	if (room <= PG_SET_STORES)
		__builtin_memset(key->text, 0, room);
	else
		bpf_probe_read_kernel(key->text, room, NULL);
	pg_opaque(n);
	n &= room - 1;
	bpf_probe_read_kernel(key->text, n, text);
	return bpf_map_lookup_elem(map, key) != NULL;
}

/* A text that is one of the set's: those that are in keys with this room have so many bytes. */
PG_INLINE int pg_set_has_in(const struct pg_string *string, void *map, __u32 room, __u32 set, __u32 shortest,
			    __u32 longest)
{
	struct pg_set_key *key;
	__u32 n = string->len;

	if (n < shortest || n > longest || string->flags & (PG_STRING_NO_HEAD | PG_STRING_CUT_TAIL))
		return 0;
	key = pg_set_begin(string, set);
	return key && pg_set_look(key, map, room, string->data, n);
}

/* One that begins, or ends, with one of the set's: first, count: where their lengths are, which ascend. */
PG_INLINE int pg_set_finds_in(const struct pg_string *string, void *map, __u32 room, __u32 set, int side, __u32 first,
			      __u32 count)
{
	__u32 unknown = side == PG_SET_HEAD ? PG_STRING_NO_HEAD : PG_STRING_CUT_TAIL | PG_STRING_UNREADABLE;
	const struct pg_lengths *lengths = pg_lookup(lengths, &set);
	struct pg_set_key *key = pg_set_begin(string, set);
	__u32 i, n;

	if (!lengths || !key || string->flags & unknown)
		return 0;
	for (i = 0; i < count; i++) {
		n = lengths->of[first + i];
		if (n > string->len)
			break;
		if (pg_set_look(key, map, room, string->data + (side == PG_SET_HEAD ? 0 : string->len - n), n))
			return 1;
	}
	return 0;
}

/* Of a trie. */
struct pg_part_key {
	__u32 bits; /* that count: those of set, and of the bytes of text that there are */
	__u32 set;
	__u64 text[31];
};
_Static_assert(sizeof(struct pg_part_key) == 256, "a trie's key has 256 bytes behind bits at most");

/* Eight bytes of a text before the last 8 * i, turned round. */
PG_INLINE __u64 pg_turned(const struct pg_string *string, __u32 i)
{
	__u64 left = string->len - 8 * i;
	__u64 at = left - 8;

	if (left < 8)
		return __builtin_bswap64(*(const __u64 *)string->data << (64 - 8 * left));
	pg_opaque(at);
	at &= PG_STRING_MAX - 1;
	return __builtin_bswap64(*(const __u64 *)(string->data + at));
}

PG_INLINE void pg_turn(__u64 *to, const struct pg_string *string, __u32 n)
{
	__u32 i;

	for (i = 0; i < n / 8; i++) {
		if (8 * i >= string->len)
			break;
		to[i] = pg_turned(string, i);
	}
}

/* A text that begins, or ends, with one of the set's. What is in the key beyond its bits does not count. */
PG_INLINE int pg_set_begins_in(const struct pg_string *string, void *map, __u32 size, __u32 set, int side)
{
	__u32 unknown = side == PG_SET_HEAD ? PG_STRING_NO_HEAD : PG_STRING_CUT_TAIL | PG_STRING_UNREADABLE;
	struct pg_part_key *key = (struct pg_part_key *)pg_set_begin(string, set);
	__u32 n = string->len;

	if (!key || string->flags & unknown)
		return 0;
	if (n > size)
		n = size;
	key->bits = 32 + 8 * n;
	key->set = set;
	if (side == PG_SET_HEAD)
		__builtin_memcpy(key->text, string->data, size);
	else
		pg_turn(key->text, string, size);
	return bpf_map_lookup_elem(map, key) != NULL;
}

#define pg_set_begins(string, size, set, side) pg_set_begins_in(string, pg_map(parts_##size), size, set, side)
#define pg_set_has(string, room, set, shortest, longest)                                                               \
	pg_set_has_in(string, pg_map(texts_##room), room, set, shortest, longest)
#define pg_set_finds(string, room, set, side, first, count)                                                            \
	pg_set_finds_in(string, pg_map(texts_##room), room, set, side, first, count)

/* first, second: bytes in the order of a packet. */
struct pg_range_key {
	__u32 bits; /* that count: those of set, and so many of the others */
	__u32 set;
	__u64 first;
	__u64 second;
};
_Static_assert(sizeof(struct pg_range_key) == 24, "ranges key");

PG_INLINE int pg_in_ranges(__u32 set, __u32 bits, __u64 first, __u64 second)
{
	struct pg_range_key key = {.bits = 32 + bits, .set = set, .first = first, .second = second};

	return pg_lookup(ranges, &key) != NULL;
}

PG_INLINE int pg_in_range_set(__u32 set, __u64 number)
{
	return pg_in_ranges(set, 64, __builtin_bswap64(number), 0);
}

#endif
