/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * automata: HASH, u32 -> struct pg_automaton: what agent/policy/automaton.py makes of the values of a SubString filter.
 */
#ifndef PG_LIB_AUTOMATON_H
#define PG_LIB_AUTOMATON_H

#include "lib/kernel.h"
#include "maps/strings.h"

#define PG_AUTOMATON_BYTES 16384
#define PG_AUTOMATON_FOUND 1

#define PG_AUTOMATON_FIRST 132 /* the first transition's place in next */
#define PG_AUTOMATON_CELLS (PG_AUTOMATON_BYTES / 2)

/* Transitions lie behind the header, but are counted from the begin: a mask alone keeps a place within the value. */
union pg_automaton {
	struct {
		__u32 classes;
		__u32 reserved;
		__u8 of_byte[256];
	};
	__u16 next[PG_AUTOMATON_CELLS];
};
_Static_assert(sizeof(union pg_automaton) == PG_AUTOMATON_BYTES, "automata value");

/* Zeros behind the text, so that what is found does not reach beyond it. 0 when nobody knows the text. */
PG_INLINE __u32 pg_end_text(struct pg_string *string)
{
	__u32 len = string->len;

	if (string->flags & PG_STRING_UNREADABLE)
		return 0;
	pg_opaque(len);
	len &= 0x1fff;
	if (len > PG_STRING_MAX)
		len = PG_STRING_MAX;
	*(__u64 *)(string->data + len) = 0;
	return len;
}

/* True when one of the values stands in the text: four bytes a step. */
PG_INLINE int pg_finds(struct pg_string *string, __u32 id)
{
	const union pg_automaton *automaton = pg_lookup(automata, &id);
	__u32 len = pg_end_text(string);
	__u64 state = 0, at, classes;
	int i;

	if (!automaton || !len)
		return 0;
	classes = automaton->classes;
	for (at = 0; at < PG_STRING_MAX; at += 4) {
		if (at >= len)
			break;
#pragma unroll
		for (i = 0; i < 4; i++) {
			__u64 byte = (__u8)string->data[at + i];

			state = PG_AUTOMATON_FIRST + state * classes + automaton->of_byte[byte];
			pg_opaque(state);
			state &= PG_AUTOMATON_CELLS - 1;
			state = automaton->next[state];
		}
	}
	return state == PG_AUTOMATON_FOUND;
}

#endif
