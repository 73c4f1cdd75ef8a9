/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * stats: HASH, u64 serial << 32 | rule << 16 | selector (return selectors: | PG_STAT_RETURN) -> struct pg_stat: what a
 * selector did. The agent makes the entries, before its rules can run.
 * modes: ARRAY[1] of struct pg_modes: which policies are in monitor mode.
 * rates: LRU_HASH, struct pg_rate_key -> u64 ns: when an event was last made.
 * enforcer: HASH, pid_tgid -> u32 signal: what NotifyEnforcer asked for, until the enforcer's call comes.
 */
#ifndef PG_MAPS_STATS_H
#define PG_MAPS_STATS_H

#include "lib/kernel.h"
#include "maps/bindings.h"
#include "maps/counters.h"
#include "maps/strings.h"

#define PG_STAT_RETURN 0x8000

/* The same order as agent/kernel/layout.py. */
enum pg_stat_index {
	PG_STAT_POST,
	PG_STAT_NOPOST,
	PG_STAT_SIGKILL,
	PG_STAT_SIGNAL,
	PG_STAT_OVERRIDE,
	PG_STAT_NOTIFY_ENFORCER,
	PG_STAT_SET,
	PG_STAT_RATE_LIMITED,
	PG_STAT_MONITOR_SIGKILL,
	PG_STAT_MONITOR_SIGNAL,
	PG_STAT_MONITOR_OVERRIDE,
	PG_STAT_MONITOR_NOTIFY_ENFORCER,
	PG_STAT_MONITOR_SET,
	PG_STAT_FAILED,
	PG_STAT_TRACK_SOCK,
	PG_STAT_RESERVED,
	PG_STATS
};

#define PG_STAT_MONITOR (PG_STAT_MONITOR_SIGKILL - PG_STAT_SIGKILL)

struct pg_stat {
	__u64 count[PG_STATS];
};
_Static_assert(sizeof(struct pg_stat) == 128, "stats value");

struct pg_modes {
	__u64 monitored[PG_POLICY_WORDS];
};
_Static_assert(sizeof(struct pg_modes) == 256, "modes value");

struct pg_rate_key {
	__u64 selector; /* as in stats */
	__u64 scope;	/* pid_tgid, tgid, or 0 */
	__u64 values;	/* a hash of them */
};
_Static_assert(sizeof(struct pg_rate_key) == 24, "rates key");

PG_INLINE int pg_monitors(__u32 bit)
{
	__u32 zero = 0;
	struct pg_modes *modes = pg_lookup(modes, &zero);

	return modes && (pg_once(modes->monitored[(bit / 64) & (PG_POLICY_WORDS - 1)]) >> (bit & 63)) & 1;
}

/* A word of the policies in monitor mode. */
PG_INLINE __u64 pg_monitored(__u32 word)
{
	__u32 zero = 0;
	struct pg_modes *modes = pg_lookup(modes, &zero);

	return modes ? pg_once(modes->monitored[word & (PG_POLICY_WORDS - 1)]) : 0;
}

PG_INLINE struct pg_stat *pg_stat(__u64 selector)
{
	return pg_lookup(stats, &selector);
}

PG_INLINE void pg_tally(struct pg_stat *stat, __u32 index)
{
	if (stat)
		__sync_fetch_and_add(&stat->count[index], 1);
}

#define PG_HASH_BEGIN 0xcbf29ce484222325ULL /* of FNV-1a, taken a word at a time */

PG_INLINE __u64 pg_hash(__u64 hash, __u64 word)
{
	hash = (hash ^ word) * 0x100000001b3ULL;
	return hash ^ (hash >> 29);
}

/* The first 40 bytes of a text, and its length. */
PG_INLINE __u64 pg_hash_text(__u64 hash, const struct pg_string *string)
{
	__u32 len = string->len, i;

	hash = pg_hash(hash, (__u64)string->flags << 32 | len);
#pragma unroll
	for (i = 0; i < 5; i++) {
		__u64 word = *(const __u64 *)(string->data + 8 * i);

		if (8 * i >= len)
			break;
		if (len - 8 * i < 8)
			word &= (1ULL << (8 * (len & 7))) - 1;
		hash = pg_hash(hash, word);
	}
	return hash;
}

/* True when an equal event was made less than so many nanoseconds ago; otherwise this one is the last. */
PG_INLINE int pg_is_limited(__u64 selector, __u64 scope, __u64 values, __u64 interval)
{
	struct pg_rate_key key = {.selector = selector, .scope = scope, .values = values};
	__u64 now = bpf_ktime_get_ns(), *last = pg_lookup(rates, &key);

	if (last && now - *last < interval)
		return 1;
	pg_update(rates, &key, &now, BPF_ANY);
	return 0;
}

#endif
